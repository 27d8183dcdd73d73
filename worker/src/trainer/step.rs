//! One update, from top to bottom.

use std::ops::Range;
use std::time::Instant;

use medley_common::example::Example;
use medley_common::identity::Update;
use medley_common::lane::{LaneTree, Node};
use medley_common::message::{LaneReport, Timing, UpdateReport};
use medley_common::plan::UpdatePlan;

use super::Trainer;
use crate::batch::{Batch, Labels, RowError, Source};
use crate::collective::{Collective, CollectiveError, SparseRows};
use crate::layout::Segment;
use crate::model::Pass;
use crate::model::bert::{Backward, GradientSink, Loss, Purpose};
use crate::model::lane_sums::LaneShare;
use crate::ops::dropout::Masks;
use crate::ops::{DeviceError, Ops};
use crate::optim::adamw::StepSize;
use crate::optim::gradients::{GradientError, Gradients, clip};
use crate::optim::loss_scale::LossScale;

/// Why an update was not made; parameters and moments are as before.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The plan is not that of the next update.
    #[error("asked for update {asked} after {done} updates")]
    Order {
        /// The update asked for.
        asked: Update,
        /// Updates made.
        done: Update,
    },
    /// The lanes are not the plan's.
    #[error("update {update}: asked for lanes {}..{}; the plan has {planned}", lanes.start, lanes.end)]
    Lanes {
        /// The update.
        update: Update,
        /// The lanes asked for.
        lanes: Range<u32>,
        /// Lanes of the plan.
        planned: usize,
    },
    /// A row cannot be computed.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The gradient is not a number, or infinite.
    #[error(
        "update {update}: the gradient's norm is {norm}, first at {parameter}; losses of this worker's lanes: {}: lower \
         learning_rate",
        losses(lanes)
    )]
    NonFinite {
        /// The update.
        update: Update,
        /// The norm.
        norm: f64,
        /// The first parameter whose gradient is not finite.
        parameter: String,
        /// This worker's lanes.
        lanes: Vec<LaneReport>,
    },
    /// The gradients were not summed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The sums are not the model's.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<O: Ops> Trainer<O> {
    /// Makes the update of `plan`, of which this worker computes `lanes`, and blocks until it is applied.
    ///
    /// # Errors
    /// Why it was not made; the trainer is then as before and can go on.
    pub fn step(
        &mut self,
        plan: &UpdatePlan,
        lanes: Range<u32>,
        examples: &[Example],
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<UpdateReport, StepError> {
        let update = self.next(plan)?;
        let mut clock = Clock::start();
        let batch = self.batch(plan, &lanes, examples)?;
        let (firsts, pack) = (self.ops.load(batch.first_tokens())?, self.ops.load(batch)?);
        let masks = Masks::new(&self.config, self.spec.seed, update);
        let pass = Pass { ops: &self.ops, parameters: &self.parameters, pack: &pack, firsts: &firsts, masks };
        self.model.forward(&pass, Purpose::Training)?;
        let forward_seconds = clock.lap();

        let rows = f64::from(plan.rows());
        let share = if O::KEEPS_LANES {
            LaneShare::new(LaneTree::new(plan.lanes.len() as u32), lanes.clone())
        } else {
            LaneShare::new(LaneTree::new(1), 0..1)
        };
        // The loss is a sum over rows; its scale is meant for their mean.
        let gradient_scale = self.scale.map_or(1.0, |scale| scale.scale / rows);
        let loss = Loss { smoothing: self.spec.label_smoothing, gradient_scale };
        let backward = Backward { share: &share, pool: &mut self.pool, loss };
        self.model.backward(&pass, backward, &mut Launch(&mut *collective))?;
        let lanes = lane_reports(plan, lanes, &self.model.losses(&pass)?);
        let backward_seconds = clock.lap();

        let (gradients, spare) = Gradients::new(&self.ops, &self.layout, collective.fence()?)?;
        let wait_seconds = clock.lap();

        let divisor = rows * gradient_scale;
        let norm = self.apply(update, &gradients, divisor, &lanes)?;
        self.update = update;
        self.recycle(gradients, spare);
        let optimizer_seconds = clock.lap();

        let timing = Timing { forward_seconds, backward_seconds, wait_seconds, optimizer_seconds };
        let tokens = pack.as_ref().tokens.len() as u64;
        let learning_rate = self.spec.schedule.at(update);
        Ok(UpdateReport { update, learning_rate, grad_norm: norm, lanes, tokens, timing })
    }

    /// Moves the parameters by the mean gradient, the sum divided by `divisor`, and returns its norm. With a loss scale,
    /// a gradient that is not finite moves nothing, its norm counts as 0, and the scale is lowered.
    fn apply(
        &mut self,
        update: Update,
        gradients: &Gradients<O>,
        divisor: f64,
        lanes: &[LaneReport],
    ) -> Result<f64, StepError> {
        let norm = gradients.norm(&self.ops, &self.layout)? / divisor;
        if !norm.is_finite() {
            if self.scale.as_mut().is_some_and(LossScale::overflowed) {
                return Ok(0.0);
            }
            let parameter = gradients.first_non_finite(&self.ops, &self.layout)?;
            return Err(StepError::NonFinite { update, norm, parameter, lanes: lanes.to_vec() });
        }
        let learning_rate = self.spec.schedule.at(update);
        let gradient_scale = clip(norm, self.spec.optimizer.max_grad_norm) / divisor;
        let size = StepSize { update, learning_rate, gradient_scale };
        self.optimizer.step(&self.ops, &mut self.parameters, gradients, size)?;
        if let Some(scale) = &mut self.scale {
            scale.succeeded();
        }
        Ok(norm)
    }

    fn next(&self, plan: &UpdatePlan) -> Result<Update, StepError> {
        let (asked, done) = (plan.update, self.update);
        if asked == done.next() { Ok(asked) } else { Err(StepError::Order { asked, done }) }
    }

    fn batch(&self, plan: &UpdatePlan, lanes: &Range<u32>, examples: &[Example]) -> Result<Batch, StepError> {
        let source = Source { model: &self.config, examples, labels: Labels::Required };
        let (update, planned) = (plan.update, plan.lanes.len());
        let lanes_of_rank = plan.lanes.get(lanes.start as usize..lanes.end as usize);
        let rows = lanes_of_rank.ok_or_else(|| StepError::Lanes { update, lanes: lanes.clone(), planned })?;
        Ok(if O::KEEPS_LANES {
            Batch::pack(lanes.start, rows, source)
        } else {
            Batch::pack(0, &[rows.concat()], source)
        }?)
    }

    /// Keeps the gradients' buffers for the next update.
    fn recycle(&mut self, gradients: Gradients<O>, spare: Vec<O::Buffer>) {
        for (segment, buffer) in gradients.into_segments() {
            self.pool.give(buffer, self.layout.range(segment).len());
        }
        for buffer in spare {
            let length = self.ops.room(&buffer);
            self.pool.give(buffer, length);
        }
    }
}

/// Hands gradients to the collective as they become ready.
struct Launch<'a, B>(&'a mut dyn Collective<B>);

impl<O: Ops> GradientSink<O> for Launch<'_, O::Buffer> {
    type Error = StepError;

    fn segment(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), StepError> {
        Ok(self.0.launch(segment, sums)?)
    }

    fn words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), StepError> {
        Ok(self.0.launch_words(sums)?)
    }
}

/// What this worker's lanes held; `losses` are of their rows, one lane after another.
fn lane_reports(plan: &UpdatePlan, lanes: Range<u32>, mut losses: &[f32]) -> Vec<LaneReport> {
    let mut reports = Vec::with_capacity(lanes.len());
    for (lane, rows) in (0..).zip(&plan.lanes).filter(|(lane, _)| lanes.contains(lane)) {
        let (of_lane, rest) = losses.split_at(rows.len().min(losses.len()));
        losses = rest;
        let loss_sum = of_lane.iter().map(|loss| f64::from(*loss)).sum();
        reports.push(LaneReport { lane, rows: rows.clone(), loss_sum });
    }
    reports
}

fn losses(lanes: &[LaneReport]) -> String {
    let lane = |report: &LaneReport| format!("{}: {} over {} rows", report.lane, report.loss_sum, report.rows.len());
    lanes.iter().map(lane).collect::<Vec<_>>().join(", ")
}

struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        (now - std::mem::replace(&mut self.0, now)).as_secs_f64()
    }
}

#[cfg(test)]
#[path = "step_test.rs"]
mod tests;
