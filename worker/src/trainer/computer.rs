//! Forward and backward over the passes of a rank's lanes.

use std::ops::Range;

use medley_common::example::Example;
use medley_common::identity::RowId;
use medley_common::message::{Lanes, Timing};
use medley_common::model::ModelConfig;
use medley_common::plan::UpdatePlan;
use medley_common::spec::TrainSpec;

use super::StepError;
use super::launch::Launch;
use super::seat::Seat;
use super::step::Clock;
use crate::batch::{Batch, Labels, RowError, Source};
use crate::model::Pass;
use crate::model::bert::{Backward, Bert, Loss, Purpose};
use crate::model::lane_sums::LaneShare;
use crate::ops::buffer_pool::BufferPool;
use crate::ops::dropout::Masks;
use crate::ops::{LaneKeeping, Ops};

/// What is to be computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    /// The update.
    pub plan: &'a UpdatePlan,
    /// The rows of the training split.
    pub examples: &'a [Example],
    /// What the summed loss is multiplied by before it is differentiated.
    pub gradient_scale: f64,
    /// Where this rank's sums stand in the tree.
    pub seat: Seat,
}

/// What it is computed with.
pub(super) struct Computer<'a, O: Ops> {
    pub ops: &'a O,
    pub config: &'a ModelConfig,
    pub spec: &'a TrainSpec,
    pub parameters: &'a O::Buffer,
    pub model: &'a mut Bert<O>,
    pub pool: &'a mut BufferPool<O>,
}

impl<O: Ops> Computer<'_, O> {
    /// Computes the lanes pass by pass; the last pass's gradients go on to the other ranks as they become ready.
    pub(super) fn passes(
        &mut self,
        work: Work<'_>,
        passes: &[Lanes],
        launch: &mut Launch<'_, O>,
    ) -> Result<Timing, StepError> {
        launch.begin();
        let mut timing = Timing::default();
        for (place, lanes) in passes.iter().enumerate() {
            if place + 1 == passes.len() {
                launch.begin_last();
            }
            self.pass(work, lanes, launch, &mut timing)?;
        }
        Ok(timing)
    }

    fn pass(
        &mut self,
        work: Work<'_>,
        lanes: &[Range<u32>],
        launch: &mut Launch<'_, O>,
        timing: &mut Timing,
    ) -> Result<(), StepError> {
        let mut clock = Clock::start();
        let (share, batch) = self.batch(work, lanes)?;
        let tokens = batch.tokens.len();
        // Where a lane has a pass of its own, passes over as many tokens come again.
        let is_alone = self.ops.lane_keeping() == LaneKeeping::Alone && matches!(work.seat, Seat::Lanes(_));
        let batch = if is_alone { batch.padded() } else { batch };
        let masks = Masks::new(self.config, self.spec.seed, work.plan.update);
        let (firsts, pack) = (self.ops.load(batch.first_tokens(), &masks)?, self.ops.load(batch, &masks)?);
        timing.data_seconds += clock.lap();
        let pass = Pass { ops: self.ops, parameters: self.parameters, pack: &pack, firsts: &firsts, masks };
        self.model.forward(&pass, Purpose::Training)?;
        timing.forward_seconds += clock.lap();

        let (smoothing, class_weights) = (self.spec.label_smoothing, &self.spec.class_weights);
        let loss = Loss { smoothing, class_weights, gradient_scale: work.gradient_scale };
        self.model.backward(&pass, Backward { share: &share, pool: &mut *self.pool, loss }, launch)?;
        launch.end_pass(lanes, tokens, self.pool);
        timing.backward_seconds += clock.lap();
        Ok(())
    }

    /// The rows of some lanes, and how their gradients are summed: by lanes where they are kept apart, else all at once.
    fn batch(&self, work: Work<'_>, lanes: &[Range<u32>]) -> Result<(LaneShare, Batch), RowError> {
        let source = Source { model: self.config, examples: work.examples, labels: Labels::Required };
        let planned = &work.plan.lanes;
        let all = lanes.iter().cloned().flatten();
        let share = work.seat.share(lanes);
        if matches!(work.seat, Seat::Rank { .. }) {
            let of_lane = |lane: u32| planned[lane as usize].iter().map(move |row| (lane, *row));
            let (loss_lanes, rows): (Vec<u32>, Vec<RowId>) = all.flat_map(of_lane).unzip();
            return Ok((share, Batch { loss_lanes, ..Batch::pack([(0, rows.as_slice())], source)? }));
        }
        let rows = all.map(|lane| (lane, planned[lane as usize].as_slice()));
        Ok((share, Batch::pack(rows, source)?))
    }
}
