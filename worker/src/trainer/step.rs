//! One update, from top to bottom.

use std::ops::Range;
use std::time::Instant;

use medley_common::example::Example;
use medley_common::identity::{RowId, Update};
use medley_common::lane::Node;
use medley_common::message::{LaneReport, Timing, UpdateReport};
use medley_common::plan::UpdatePlan;

use super::Trainer;
use super::kept::Kept;
use super::seat::Seat;
use crate::batch::{Batch, Labels, RowError, Source};
use crate::collective::{Collective, CollectiveError, Parts, SparseRows, Summed};
use crate::layout::Segment;
use crate::model::Pass;
use crate::model::bert::{Backward, GradientSink, Loss, Purpose};
use crate::model::lane_sums::LaneShare;
use crate::ops::dropout::Masks;
use crate::ops::{DeviceError, Ops, Slice};
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
        "update {update}: the gradient's norm is {norm}, first at {parameter}; the lanes' losses are {}: lower --learning_rate or lengthen the \
         warm-up",
        listed(losses)
    )]
    NonFinite {
        /// The update.
        update: Update,
        /// The norm.
        norm: f64,
        /// The first parameter whose gradient is not finite.
        parameter: String,
        /// The sum of each lane's losses.
        losses: Vec<f32>,
    },
    /// The gradients were not summed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The sums are not the model's.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// The device's memory does not hold this rank's rows.
    #[error(
        "update {update}: out of memory at {bytes} more bytes, with {rows} rows of {tokens} tokens in all: lower \
         --per_device_train_batch_size or --max_seq_length, add --gradient_checkpointing, or use more workers"
    )]
    OutOfMemory {
        /// The update.
        update: Update,
        /// Rows of this rank's lanes.
        rows: usize,
        /// Their tokens.
        tokens: usize,
        /// What was asked for last.
        bytes: usize,
    },
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
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<UpdateReport, StepError> {
        self.attempt(plan, lanes, examples, collective).map_err(|error| match error {
            StepError::Device(DeviceError::OutOfMemory { bytes }) => out_of_memory(plan, lanes, examples, bytes),
            error => error,
        })
    }

    fn attempt(
        &mut self,
        plan: &UpdatePlan,
        lanes: &[Range<u32>],
        examples: &[Example],
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<UpdateReport, StepError> {
        let update = self.next(plan)?;
        let mut clock = Clock::start();
        let kept = self.kept.take().unwrap_or_default().for_lanes(update, lanes);
        let missing = kept.missing(lanes);
        let seat = self.seat(plan.lanes.len() as u32, collective.rank(), collective.world());
        let share = seat.share(&missing);
        let batch = self.batch(plan, (lanes, &missing), &share, examples)?;
        let (firsts, pack) = (self.ops.load(batch.first_tokens())?, self.ops.load(batch)?);
        let data_seconds = clock.lap();
        let masks = Masks::new(&self.config, self.spec.seed, update);
        let pass = Pass { ops: &self.ops, parameters: &self.parameters, pack: &pack, firsts: &firsts, masks };
        self.model.forward(&pass, Purpose::Training)?;
        let forward_seconds = clock.lap();

        let rows = f64::from(plan.rows());
        // The loss is a sum over rows; its scale is meant for their mean.
        let gradient_scale = self.scale.map_or(1.0, |scale| scale.scale / rows);
        let loss = Loss { smoothing: self.spec.label_smoothing, gradient_scale };
        let width = self.config.hidden_size as usize;
        let mut launch = Launch { ops: &self.ops, collective, seat, width, kept, broken: None };
        let backward = Backward { share: &share, pool: &mut self.pool, loss };
        self.model.backward(&pass, backward, &mut launch)?;
        launch.losses((&share, &missing), plan, pack.as_ref(), &self.model.losses(&pass)?)?;
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
        let losses = take_losses(&self.ops, &mut summed, plan.lanes.len())?;
        let (gradients, spare) = Gradients::new(&self.ops, &self.layout, summed)?;
        let wait_seconds = clock.lap();

        let applied = self.apply(update, &gradients, rows * gradient_scale, &losses)?;
        let (grad_norm, skipped) = (applied.unwrap_or(0.0), applied.is_none());
        self.update = update;
        self.recycle(gradients, spare, collective);
        let optimizer_seconds = clock.lap();

        let timing = Timing { data_seconds, forward_seconds, backward_seconds, wait_seconds, optimizer_seconds };
        let learning_rate = self.spec.schedule.at(update);
        Ok(UpdateReport { update, learning_rate, grad_norm, skipped, lanes, losses, tokens, parameters: None, timing })
    }

    /// Moves the parameters by the mean gradient, the sum divided by `divisor`, and returns its norm. With a loss scale,
    /// a gradient that is not finite moves nothing, has no norm, and lowers the scale: every rank has the same sums, and
    /// so decides alike.
    ///
    /// As in Hugging Face, an update that is skipped counts as one. Unlike there, the learning rate goes on with it: it is
    /// a function of the update's number alone, which the ledger can prove and a resumed run need not be told. The
    /// optimizer's bias correction counts the steps that it has made, as torch does.
    fn apply(
        &mut self,
        update: Update,
        gradients: &Gradients<O>,
        divisor: f64,
        losses: &[f32],
    ) -> Result<Option<f64>, StepError> {
        let norm = gradients.norm(&self.ops, &self.layout)? / divisor;
        if !norm.is_finite() {
            if self.scale.as_mut().is_some_and(LossScale::overflowed) {
                return Ok(None);
            }
            let parameter = gradients.first_non_finite(&self.ops, &self.layout)?;
            return Err(StepError::NonFinite { update, norm, parameter, losses: losses.to_vec() });
        }
        let learning_rate = self.spec.schedule.at(update);
        let gradient_scale = clip(norm, self.spec.optimizer.max_grad_norm) / divisor;
        let made = Update(update.0.saturating_sub(self.scale.map_or(0, |scale| scale.skipped_updates)));
        let size = StepSize { update: made, learning_rate, gradient_scale };
        self.optimizer.step(&self.ops, &mut self.parameters, gradients, size)?;
        if let Some(scale) = &mut self.scale {
            scale.succeeded();
        }
        Ok(Some(norm))
    }

    fn next(&self, plan: &UpdatePlan) -> Result<Update, StepError> {
        let (asked, done) = (plan.update, self.update);
        if asked == done.next() { Ok(asked) } else { Err(StepError::Order { asked, done }) }
    }

    /// The rows of the share's lanes; `lanes` are all that this rank was asked for.
    fn batch(
        &self,
        plan: &UpdatePlan,
        (lanes, missing): (&[Range<u32>], &[Range<u32>]),
        share: &LaneShare,
        examples: &[Example],
    ) -> Result<Batch, StepError> {
        let source = Source { model: &self.config, examples, labels: Labels::Required };
        let planned = plan.lanes.len();
        if let Some(run) = lanes.iter().find(|run| run.end as usize > planned) {
            return Err(StepError::Lanes { update: plan.update, lanes: run.clone(), planned });
        }
        if !self.keeps_lanes() {
            let lanes = missing.iter().cloned().flatten();
            let rows: Vec<RowId> = lanes.flat_map(|lane| plan.lanes[lane as usize].iter().copied()).collect();
            return Ok(Batch::pack([(0, rows.as_slice())], source)?);
        }
        let rows = share.lanes().iter().map(|lane| (*lane, plan.lanes[*lane as usize].as_slice()));
        Ok(Batch::pack(rows, source)?)
    }

    /// Keeps the gradients' buffers for the next update.
    fn recycle(
        &mut self,
        gradients: Gradients<O>,
        mut spare: Vec<O::Buffer>,
        collective: &mut dyn Collective<O::Buffer>,
    ) {
        let sums = gradients.into_segments().into_iter().map(|(_, buffer)| buffer).collect();
        spare.extend(collective.reuse(sums));
        for buffer in spare {
            let length = self.ops.room(&buffer);
            self.pool.give(buffer, length);
        }
    }
}

/// Hands gradients to the collective as they become ready; keeps them once it is broken.
struct Launch<'a, O: Ops> {
    ops: &'a O,
    collective: &'a mut dyn Collective<O::Buffer>,
    seat: Seat,
    /// Elements of a row of the word embedding.
    width: usize,
    /// What an earlier try has left, and what of this one the collective did not take.
    kept: Kept<O::Buffer>,
    broken: Option<CollectiveError>,
}

/// What came of handing over.
enum Launched<B> {
    Summed { lanes: Vec<LaneReport>, tokens: u64, summed: Summed<B> },
    Broken(CollectiveError, Kept<B>),
}

impl<O: Ops> Launch<'_, O> {
    fn dense(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), DeviceError> {
        let sums = self.seat.dense(self.ops, sums, self.kept.dense(segment))?;
        match self.broken {
            None => self.broken = self.collective.launch(segment, sums).err(),
            Some(_) => self.kept.parts.dense.push((segment, sums)),
        }
        Ok(())
    }

    /// Hands over the sum of each lane's losses, one `loss` a sequence, and notes what there is to report. `missing` are
    /// the lanes of the batch, in its order.
    fn losses(
        &mut self,
        (share, missing): (&LaneShare, &[Range<u32>]),
        plan: &UpdatePlan,
        batch: &Batch,
        mut losses: &[f32],
    ) -> Result<(), DeviceError> {
        let (mut sums, mut all) = (Vec::new(), vec![0.0; plan.lanes.len()]);
        for lane in missing.iter().cloned().flatten() {
            let rows = plan.lanes[lane as usize].clone();
            let (of_lane, rest) = losses.split_at(rows.len().min(losses.len()));
            losses = rest;
            let sum = of_lane.iter().map(|loss| f64::from(*loss)).sum::<f64>() as f32;
            sums.push(sum);
            all[lane as usize] = sum;
            self.kept.reports.push(LaneReport { lane, rows });
        }
        let nodes = match self.seat {
            Seat::Lanes(_) => share.spread(batch, &sums),
            Seat::Rank { leaf, .. } => vec![(leaf, all)],
        };
        let upload = |(node, values)| Ok((node, self.ops.upload(values)?));
        let nodes = nodes.into_iter().map(upload).collect::<Result<_, DeviceError>>()?;
        self.dense(Segment::Losses, nodes)?;
        self.kept.reports.sort_by_key(|report| report.lane);
        self.kept.tokens += batch.tokens.len() as u64;
        Ok(())
    }

    /// Waits for the sums. Where they do not come about, everything handed over for `lanes` is kept.
    fn finish(mut self, lanes: &[Range<u32>]) -> Launched<O::Buffer> {
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
        Ok(self.dense(segment, sums)?)
    }

    fn words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), StepError> {
        let sums = self.seat.words(self.ops, sums, self.kept.words(), self.width)?;
        match self.broken {
            None => self.broken = self.collective.launch_words(sums).err(),
            Some(_) => self.kept.parts.words = Some(sums),
        }
        Ok(())
    }
}

/// Names the batch that the device's memory does not hold.
fn out_of_memory(plan: &UpdatePlan, lanes: &[Range<u32>], examples: &[Example], bytes: usize) -> StepError {
    let lanes = lanes.iter().cloned().flatten().filter_map(|lane| plan.lanes.get(lane as usize));
    let lengths: Vec<usize> = lanes.flatten().map(|row| examples.get(row.0 as usize).map_or(0, Example::len)).collect();
    StepError::OutOfMemory { update: plan.update, rows: lengths.len(), tokens: lengths.iter().sum(), bytes }
}

/// Takes the losses of the `lanes` out of the sums.
fn take_losses<O: Ops>(ops: &O, summed: &mut Summed<O::Buffer>, lanes: usize) -> Result<Vec<f32>, DeviceError> {
    let place = summed.segments.iter().position(|(segment, _)| *segment == Segment::Losses);
    match place.map(|place| summed.segments.remove(place)) {
        Some((_, buffer)) => ops.read(Slice { buffer: &buffer, range: 0..lanes }),
        None => Ok(Vec::new()),
    }
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
