//! One update, from top to bottom.

use std::ops::Range;
use std::time::Instant;

use medley_common::example::Example;
use medley_common::identity::Update;
use medley_common::lane::{LaneTree, Node};
use medley_common::message::{LaneReport, Timing, UpdateReport};
use medley_common::plan::UpdatePlan;

use super::Trainer;
use super::kept::Kept;
use crate::batch::{Batch, Labels, LaneSpan, RowError, Source};
use crate::collective::{Collective, CollectiveError, Parts, SparseRows, Summed};
use crate::layout::Segment;
use crate::model::Pass;
use crate::model::bert::{Backward, GradientSink, Purpose};
use crate::model::lane_sums::LaneShare;
use crate::ops::dropout::Masks;
use crate::ops::{DeviceError, Ops};
use crate::optim::adamw::StepSize;
use crate::optim::gradients::{GradientError, Gradients, clip};

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
        "update {update}: the gradient's norm is {norm}; the lanes' losses are {}: lower --learning_rate or lengthen the \
         warm-up",
        listed(losses)
    )]
    NonFinite {
        /// The update.
        update: Update,
        /// The norm.
        norm: f64,
        /// The sum of each lane's losses.
        losses: Vec<f32>,
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
    /// Lanes that were computed for a sum that did not come about are not computed again.
    ///
    /// # Errors
    /// See [`StepError`]; after one of the collective, the lanes' gradients are kept.
    pub fn step(
        &mut self,
        plan: &UpdatePlan,
        lanes: &[Range<u32>],
        examples: &[Example],
        collective: &mut dyn Collective,
    ) -> Result<UpdateReport, StepError> {
        let update = self.next(plan)?;
        let mut clock = Clock::start();
        let kept = self.kept.take().unwrap_or_default().for_lanes(update, lanes);
        let share = LaneShare::new(LaneTree::new(plan.lanes.len() as u32), &kept.missing(lanes));
        let batch = self.batch(plan, lanes, &share, examples)?;
        let (firsts, pack) = (self.ops.load(batch.first_tokens())?, self.ops.load(batch)?);
        let masks = Masks::new(&self.config, self.spec.seed, update);
        let pass = Pass { ops: &self.ops, parameters: &self.parameters, pack: &pack, firsts: &firsts, masks };
        self.model.forward(&pass, Purpose::Training)?;
        let forward_seconds = clock.lap();

        let mut launch = Launch { ops: &self.ops, collective, kept, broken: None };
        let backward = Backward { share: &share, pool: &mut self.pool, smoothing: self.spec.label_smoothing };
        self.model.backward(&pass, backward, &mut launch)?;
        launch.losses(&share, pack.as_ref(), &self.model.losses(&pass)?);
        let backward_seconds = clock.lap();

        let launched = launch.finish(lanes);
        let (lanes, tokens, mut summed) = match launched {
            Launched::Summed { lanes, tokens, summed } => (lanes, tokens, summed),
            Launched::Broken(error, kept) => {
                let segments = self.layout.segments().len() - 1;
                self.kept = Some(kept).filter(|kept| kept.is_whole(segments));
                return Err(error.into());
            }
        };
        let losses = take_losses(&mut summed);
        let (gradients, spare) = Gradients::new(&self.ops, &self.layout, summed)?;
        let wait_seconds = clock.lap();

        let rows = f64::from(plan.rows());
        let norm = gradients.norm(&self.ops, &self.layout)? / rows;
        if !norm.is_finite() {
            return Err(StepError::NonFinite { update, norm, losses });
        }
        let learning_rate = self.spec.schedule.at(update);
        let gradient_scale = clip(norm, self.spec.optimizer.max_grad_norm) / rows;
        let size = StepSize { update, learning_rate, gradient_scale };
        self.optimizer.step(&self.ops, &mut self.parameters, &gradients, size)?;
        self.update = update;
        self.recycle(gradients, spare, collective)?;
        let optimizer_seconds = clock.lap();

        let timing = Timing { forward_seconds, backward_seconds, wait_seconds, optimizer_seconds };
        Ok(UpdateReport { update, learning_rate, grad_norm: norm, lanes, losses, tokens, timing })
    }

    fn next(&self, plan: &UpdatePlan) -> Result<Update, StepError> {
        let (asked, done) = (plan.update, self.update);
        if asked == done.next() { Ok(asked) } else { Err(StepError::Order { asked, done }) }
    }

    /// The rows of the share's lanes; `lanes` are all that this rank was asked for.
    fn batch(
        &self,
        plan: &UpdatePlan,
        lanes: &[Range<u32>],
        share: &LaneShare,
        examples: &[Example],
    ) -> Result<Batch, StepError> {
        let source = Source { model: &self.config, examples, labels: Labels::Required };
        let planned = plan.lanes.len();
        if let Some(run) = lanes.iter().find(|run| run.end as usize > planned) {
            return Err(StepError::Lanes { update: plan.update, lanes: run.clone(), planned });
        }
        let rows = share.lanes().iter().map(|lane| (*lane, plan.lanes[*lane as usize].as_slice()));
        Ok(Batch::pack(rows, source)?)
    }

    /// Keeps the gradients' buffers for the next update.
    fn recycle(
        &mut self,
        gradients: Gradients<O>,
        mut spare: Vec<Vec<f32>>,
        collective: &mut dyn Collective,
    ) -> Result<(), DeviceError> {
        let to_host = |(_, buffer)| self.ops.download(buffer);
        let sums = gradients.into_segments().into_iter().map(to_host).collect::<Result<_, _>>()?;
        spare.extend(collective.reuse(sums));
        for buffer in spare {
            let length = buffer.len();
            self.pool.give(self.ops.upload(buffer)?, length);
        }
        Ok(())
    }
}

/// Hands gradients to the collective as they become ready; keeps them once it is broken.
struct Launch<'a, O: Ops> {
    ops: &'a O,
    collective: &'a mut dyn Collective,
    /// What an earlier try has left, and what of this one the collective did not take.
    kept: Kept,
    broken: Option<CollectiveError>,
}

/// What came of handing over.
enum Launched {
    Summed { lanes: Vec<LaneReport>, tokens: u64, summed: Summed },
    Broken(CollectiveError, Kept),
}

impl<O: Ops> Launch<'_, O> {
    fn dense(&mut self, segment: Segment, mut sums: Vec<(Node, Vec<f32>)>) {
        sums.extend(self.kept.dense(segment));
        match self.broken {
            None => self.broken = self.collective.launch(segment, sums).err(),
            Some(_) => self.kept.parts.dense.push((segment, sums)),
        }
    }

    /// Hands over the sum of each lane's losses, one `loss` a sequence, and notes what there is to report.
    fn losses(&mut self, share: &LaneShare, batch: &Batch, losses: &[f32]) {
        let sum = |span: &LaneSpan| losses[span.sequences.clone()].iter().map(|loss| f64::from(*loss)).sum::<f64>();
        let sums: Vec<f32> = batch.lanes.iter().map(|span| sum(span) as f32).collect();
        self.dense(Segment::Losses, share.spread(batch, &sums));
        let report =
            |span: &LaneSpan| LaneReport { lane: span.lane, rows: batch.rows[span.sequences.clone()].to_vec() };
        self.kept.reports.extend(batch.lanes.iter().map(report));
        self.kept.reports.sort_by_key(|report| report.lane);
        self.kept.tokens += batch.tokens.len() as u64;
    }

    /// Waits for the sums. Where they do not come about, everything handed over for `lanes` is kept.
    fn finish(mut self, lanes: &[Range<u32>]) -> Launched {
        let fence = match self.broken.take() {
            None => self.collective.fence(),
            Some(error) => Err(error),
        };
        match fence {
            Ok(summed) => Launched::Summed { lanes: self.kept.reports, tokens: self.kept.tokens, summed },
            Err(error) => {
                let Parts { dense, words } = self.collective.salvage();
                self.kept.parts.dense.extend(dense);
                self.kept.parts.words = self.kept.parts.words.or(words);
                self.kept.lanes = lanes.to_vec();
                Launched::Broken(error, self.kept)
            }
        }
    }
}

impl<O: Ops> GradientSink<O> for Launch<'_, O> {
    type Error = StepError;

    fn segment(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), StepError> {
        let to_host = |(node, buffer)| Ok((node, self.ops.download(buffer)?));
        let sums = sums.into_iter().map(to_host).collect::<Result<_, DeviceError>>()?;
        self.dense(segment, sums);
        Ok(())
    }

    fn words(&mut self, mut sums: Vec<(Node, SparseRows)>) -> Result<(), StepError> {
        sums.extend(self.kept.words());
        match self.broken {
            None => self.broken = self.collective.launch_words(sums).err(),
            Some(_) => self.kept.parts.words = Some(sums),
        }
        Ok(())
    }
}

/// Takes the lanes' losses out of the sums.
fn take_losses(summed: &mut Summed) -> Vec<f32> {
    let place = summed.segments.iter().position(|(segment, _)| *segment == Segment::Losses);
    place.map_or_else(Vec::new, |place| summed.segments.remove(place).1)
}

fn listed(losses: &[f32]) -> String {
    let lane = |(lane, loss): (usize, &f32)| format!("{lane}: {loss}");
    losses.iter().enumerate().map(lane).collect::<Vec<_>>().join(", ")
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
