//! One update, from top to bottom.

use std::ops::Range;
use std::time::Instant;

use medley_common::example::Example;
use medley_common::identity::{RowId, Update};
use medley_common::message::{Timing, UpdateReport};
use medley_common::plan::UpdatePlan;

use super::computer::{Computer, Work};
use super::kept::Kept;
use super::launch::{Launch, Launched};
use super::passes::{PartialSums, Passes};
use super::sharding::GatherError;
use super::{Trainer, new_model};
use crate::batch::RowError;
use crate::collective::{Collective, CollectiveError, Spare, Summed, Traffic};
use crate::layout::Segment;
use crate::ops::buffer_pool::BufferPool;
use crate::ops::{DeviceError, Ops, Slice};
use crate::optim::gradients::{GradientError, Gradients, Origin, clip};
use crate::optim::loss_scale::LossScale;
use crate::optim::optimizer::StepSize;
use crate::process_clock;

/// Why an update was not made; parameters and moments are as before, unless the trainer is sharded: then they are void.
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
        "update {update}: the gradient's norm is {norm}: {place}; the lanes' losses are {}: lower --learning_rate or \
         lengthen the warm-up",
        listed(losses)
    )]
    NonFinite {
        /// The update.
        update: Update,
        /// The norm.
        norm: f64,
        /// Where it began, with the parameter's name.
        place: Origin,
        /// The sum of each lane's losses.
        losses: Vec<f32>,
    },
    /// The gradients were not summed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The sums are not the model's.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// The device's memory does not hold a pass over this rank's rows.
    #[error(
        "update {update}: out of memory: {shortage}, for {rows} rows of {tokens} tokens in all, the longest of {longest}, \
         {lanes} lanes a pass: {}lower --per_device_train_batch_size or --max_seq_length, raise --lanes, add \
         --gradient_checkpointing, or use more workers",
        if *lanes > 1 { "add --auto_micro_batch, " } else { "" }
    )]
    OutOfMemory {
        /// The update.
        update: Update,
        /// What was missing.
        shortage: String,
        /// Rows of this rank's lanes.
        rows: usize,
        /// Their tokens.
        tokens: usize,
        /// Tokens of the longest row.
        longest: usize,
        /// Lanes of a pass.
        lanes: u32,
    },
    /// The device's memory does not hold what ranks gather of each other's shards.
    #[error("{problem}, for shards of other workers: lower --per_device_train_batch_size, or use more workers")]
    GatherOutOfMemory {
        /// What was missing.
        problem: String,
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
        let (update, planned) = (self.next(plan)?, plan.lanes.len());
        if let Some(run) = lanes.iter().find(|run| run.end as usize > planned) {
            return Err(StepError::Lanes { update, lanes: run.clone(), planned });
        }
        let (started_us, mut clock) = (process_clock::microseconds(), Clock::start());
        let kept = self.kept.take().unwrap_or_default().for_lanes(update, lanes);
        let missing = kept.missing(lanes);
        let label = |row: RowId| examples.get(row.0 as usize).and_then(|example| example.label);
        let divisor = plan.divisor(&self.spec.class_weights, label);
        // The loss is a sum over rows; its scale is meant for their mean.
        let gradient_scale = self.scale.map_or(1.0, |scale| scale.scale / divisor);
        let seat = self.seat(planned as u32, collective.rank(), collective.world());
        let work = Work { plan, examples, gradient_scale, seat };
        collective.sums(self.sums());
        let (launched, mut timing) = self.compute(work, (lanes, &missing), kept, collective)?;
        clock.lap();
        let (lanes, tokens, mut summed) = match launched {
            Launched::Summed { lanes, tokens, summed } => (lanes, tokens, summed),
            Launched::Broken(CollectiveError::OutOfMemory { problem }, _) => {
                return Err(self.unsummed(plan, lanes, examples, problem));
            }
            Launched::Broken(error, kept) => {
                let segments = self.layout.dense_segments(&self.spec.tuning).count();
                self.kept = Some(kept).filter(|kept| kept.is_whole(segments));
                return Err(error.into());
            }
        };
        let traffic = summed.traffic;
        let (losses, reported) = take_losses(&self.ops, &mut summed, planned)?;
        let (gradients, mut spare) = Gradients::new(&self.ops, (&self.layout, &self.spec.tuning), summed)?;
        timing.wait_seconds += clock.lap();
        timing.started_us = started_us;
        (timing.exchange_seconds, timing.sent_bytes) = (traffic.busy.as_secs_f64(), traffic.sent_bytes);

        let (applied, exchanged) = self.apply(update, &gradients, (divisor * gradient_scale, &losses), collective)?;
        let (grad_norm, skipped) = (applied.unwrap_or(0.0), applied.is_none());
        for traffic in exchanged {
            timing.exchange_seconds += traffic.busy.as_secs_f64();
            timing.sent_bytes += traffic.sent_bytes;
        }
        self.update = update;
        spare.extend(reported);
        self.recycle(gradients, spare, collective);
        timing.optimizer_seconds = clock.lap();

        let learning_rate = self.spec.schedule.at(update, self.peak);
        Ok(UpdateReport { update, learning_rate, grad_norm, skipped, lanes, losses, tokens, parameters: None, timing })
    }

    /// Computes the `missing` ones of this rank's `lanes`, in as many passes as it takes, and has all ranks' gradients
    /// summed. Where the memory does not hold a pass and that is wanted, passes are halved from here on.
    fn compute(
        &mut self,
        work: Work<'_>,
        (lanes, missing): (&[Range<u32>], &[Range<u32>]),
        kept: Kept<O::Buffer>,
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<(Launched<O::Buffer>, Timing), StepError> {
        let Work { plan, examples, seat, .. } = work;
        let sums = PartialSums::new(&self.ops, &self.layout, seat, missing);
        let mut launch = Launch::new(&self.ops, collective, kept, (seat, self.config.embedding_size() as usize), sums);
        let mut clock = Clock::start();
        let mut timing = loop {
            let mut computer = Computer {
                ops: &self.ops,
                config: &self.config,
                spec: &self.spec,
                parameters: &self.parameters,
                model: &mut self.model,
                pool: &mut self.pool,
            };
            let shortage = match computer.passes(work, &self.passes.divide(missing), &mut launch) {
                Ok(timing) => break timing,
                Err(StepError::Device(DeviceError::OutOfMemory { shortage })) => shortage,
                Err(error) => return Err(error),
            };
            let (before, shortage) = (self.passes, shortage.to_string());
            if self.model.stop_sections(&self.ops) {
                self.note = Some(without_graphs(plan.update, &shortage));
                // Those that are under way give their memory back at their end.
                self.ops.wait()?;
                continue;
            }
            if !self.spec.compute.auto_micro_batch || !self.passes.halve(missing) {
                return Err(out_of_memory(plan, lanes, examples, (shortage, before)));
            }
            // What was made for larger passes makes room.
            self.model = new_model(&self.config, &self.spec, &self.layout);
            self.pool = BufferPool::default();
            self.note = Some(in_smaller_passes(plan.update, &shortage, self.passes));
        };
        clock.lap();
        // What is enqueued so far is this rank's own work: its time ends here, and that of waiting for others begins.
        self.ops.wait()?;
        timing.backward_seconds += clock.lap();
        let launched = launch.finish(plan, lanes);
        timing.wait_seconds = clock.lap();
        Ok((launched, timing))
    }

    /// The sums themselves found no memory: smaller passes leave more, where that is wanted, once the group has come
    /// together again; what was handed over is computed again then.
    fn unsummed(
        &mut self,
        plan: &UpdatePlan,
        lanes: &[Range<u32>],
        examples: &[Example],
        problem: String,
    ) -> StepError {
        let before = self.passes;
        // Who holds a shard begins anew in another group, and would not know of smaller passes.
        if self.is_cut() {
            return out_of_memory(plan, lanes, examples, (problem, before));
        }
        if self.model.stop_sections(&self.ops) {
            self.note = Some(without_graphs(plan.update, &problem));
            let freed = self.ops.wait();
            return freed.map_or_else(StepError::from, |()| CollectiveError::OutOfMemory { problem }.into());
        }
        if !self.spec.compute.auto_micro_batch || !self.passes.halve(lanes) {
            return out_of_memory(plan, lanes, examples, (problem, before));
        }
        self.model = new_model(&self.config, &self.spec, &self.layout);
        self.pool = BufferPool::default();
        self.note = Some(in_smaller_passes(plan.update, &problem, self.passes));
        CollectiveError::OutOfMemory { problem }.into()
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
        (divisor, losses): (f64, &[f32]),
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<(Option<f64>, [Traffic; 2]), StepError> {
        let (norm, of_norm) = self.norm(gradients, collective)?;
        let norm = norm / divisor;
        if !norm.is_finite() {
            if self.scale.as_mut().is_some_and(LossScale::overflowed) {
                return Ok((None, [of_norm, Traffic::default()]));
            }
            let place = self.origin(gradients, collective)?;
            return Err(StepError::NonFinite { update, norm, place, losses: losses.to_vec() });
        }
        let learning_rate = self.spec.schedule.at(update, self.peak);
        let gradient_scale = clip(norm, self.spec.optimizer.max_grad_norm) / divisor;
        let made = Update(update.0.saturating_sub(self.scale.map_or(0, |scale| scale.skipped_updates)));
        let size = StepSize { update: made, learning_rate, gradient_scale };
        self.optimizer.step(&self.ops, &mut self.parameters, gradients, size)?;
        let of_parameters = self.gather_parameters(collective)?;
        if let Some(scale) = &mut self.scale {
            scale.succeeded();
        }
        Ok((Some(norm), [of_norm, of_parameters]))
    }

    fn next(&self, plan: &UpdatePlan) -> Result<Update, StepError> {
        let (asked, done) = (plan.update, self.update);
        if asked == done.next() { Ok(asked) } else { Err(StepError::Order { asked, done }) }
    }

    /// Keeps the gradients' buffers for the next update.
    fn recycle(
        &mut self,
        gradients: Gradients<O>,
        mut spare: Spare<O::Buffer>,
        collective: &mut dyn Collective<O::Buffer>,
    ) {
        let (segments, sums): (Vec<_>, Vec<_>) = gradients.into_segments().into_iter().unzip();
        spare.extend(segments.into_iter().zip(collective.reuse(sums)));
        for (segment, buffer) in spare {
            let length = self.ops.room(&buffer);
            self.pool.give(buffer, (Some(segment), length));
        }
    }
}

fn in_smaller_passes(update: Update, shortage: &str, Passes { most }: Passes) -> String {
    format!("update {update}: out of memory: {shortage}; going on with {most} lanes a pass")
}

fn without_graphs(update: Update, shortage: &str) -> String {
    format!("update {update}: out of memory: {shortage}; going on without CUDA graphs, which take some of it")
}

impl From<GatherError> for StepError {
    fn from(error: GatherError) -> Self {
        match error {
            GatherError::Collective(CollectiveError::OutOfMemory { problem }) => Self::GatherOutOfMemory { problem },
            GatherError::Collective(error) => Self::Collective(error),
            GatherError::Device(error) => Self::Device(error),
        }
    }
}

/// Names the batch that the device's memory does not hold.
fn out_of_memory(
    plan: &UpdatePlan,
    lanes: &[Range<u32>],
    examples: &[Example],
    (shortage, passes): (String, Passes),
) -> StepError {
    let lanes: Vec<u32> = lanes.iter().cloned().flatten().collect();
    let rows = lanes.iter().filter_map(|lane| plan.lanes.get(*lane as usize)).flatten();
    let lengths: Vec<usize> = rows.map(|row| examples.get(row.0 as usize).map_or(0, Example::len)).collect();
    StepError::OutOfMemory {
        update: plan.update,
        shortage,
        rows: lengths.len(),
        tokens: lengths.iter().sum(),
        longest: lengths.iter().copied().max().unwrap_or(0),
        lanes: passes.most.min(lanes.len() as u32),
    }
}

/// Takes the losses of the `lanes` out of the sums, and what they lay in.
fn take_losses<O: Ops>(
    ops: &O,
    summed: &mut Summed<O::Buffer>,
    lanes: usize,
) -> Result<(Vec<f32>, Spare<O::Buffer>), DeviceError> {
    let place = summed.segments.iter().position(|(segment, _)| *segment == Segment::Losses);
    let buffer = place.map(|place| summed.segments.remove(place));
    let losses = buffer.as_ref().map(|(_, buffer)| ops.read(Slice { buffer, range: 0..lanes })).transpose()?;
    Ok((losses.unwrap_or_default(), buffer.into_iter().collect()))
}

fn listed(losses: &[f32]) -> String {
    let lane = |(lane, loss): (usize, &f32)| format!("{lane}: {loss}");
    losses.iter().enumerate().map(lane).collect::<Vec<_>>().join(", ")
}

/// Tells the time between points of an update.
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the last lap.
    pub(super) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        (now - std::mem::replace(&mut self.0, now)).as_secs_f64()
    }
}

#[cfg(test)]
#[path = "step_test.rs"]
mod tests;
