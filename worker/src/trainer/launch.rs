//! Hands an update's gradients to the collective as they become ready, and keeps them where it is broken.

use std::collections::BTreeSet;
use std::ops::Range;

use medley_common::lane::Node;
use medley_common::message::LaneReport;
use medley_common::plan::UpdatePlan;

use super::StepError;
use super::kept::Kept;
use super::passes::PartialSums;
use super::seat::Seat;
use crate::collective::{Collective, CollectiveError, Parts, SparseRows, Summed};
use crate::layout::Segment;
use crate::model::bert::GradientSink;
use crate::ops::buffer_pool::BufferPool;
use crate::ops::{DeviceError, Ops};

/// Takes the gradients of the passes: those of the last one complete a segment's sums, which are then handed over while
/// the segments below are computed.
pub(super) struct Launch<'a, O: Ops> {
    ops: &'a O,
    collective: &'a mut dyn Collective<O::Buffer>,
    /// What an earlier try has left, and what of this one the collective did not take.
    kept: Kept<O::Buffer>,
    broken: Option<CollectiveError>,
    seat: Seat,
    /// Elements of a row of the word embedding.
    width: usize,
    sums: PartialSums<'a, O>,
    is_last: bool,
    /// What has been handed over: where lanes are computed again for want of memory, it is not handed over again.
    handed: BTreeSet<Segment>,
    /// The lanes computed, those without rows too.
    computed: Vec<u32>,
    tokens: u64,
}

/// What came of handing over.
pub(super) enum Launched<B> {
    /// All ranks' sums are there.
    Summed { lanes: Vec<LaneReport>, tokens: u64, summed: Summed<B> },
    /// They are not; what is this rank's own is kept.
    Broken(CollectiveError, Kept<B>),
}

impl<'a, O: Ops> Launch<'a, O> {
    pub(super) fn new(
        ops: &'a O,
        collective: &'a mut dyn Collective<O::Buffer>,
        kept: Kept<O::Buffer>,
        (seat, width): (Seat, usize),
        sums: PartialSums<'a, O>,
    ) -> Self {
        let (handed, computed) = (BTreeSet::new(), Vec::new());
        Self { ops, collective, kept, broken: None, seat, width, sums, is_last: false, handed, computed, tokens: 0 }
    }

    /// All lanes are computed from the first one on.
    pub(super) fn begin(&mut self) {
        self.sums.clear();
        self.computed.clear();
        (self.is_last, self.tokens) = (false, 0);
    }

    /// From here on, sums are complete.
    pub(super) fn begin_last(&mut self) {
        self.is_last = true;
    }

    /// A pass is over: notes its `lanes` and `tokens`.
    pub(super) fn end_pass(&mut self, lanes: &[Range<u32>], tokens: usize, pool: &mut BufferPool<O>) {
        self.computed.extend(lanes.iter().cloned().flatten());
        self.tokens += tokens as u64;
        self.sums.recycle(pool);
    }

    /// Notes what there is to report, and waits for the sums. Where they do not come about, everything handed over for
    /// `lanes` is kept.
    pub(super) fn finish(mut self, plan: &UpdatePlan, lanes: &[Range<u32>]) -> Launched<O::Buffer> {
        let report = |lane: &u32| LaneReport { lane: *lane, rows: plan.lanes[*lane as usize].clone() };
        self.kept.reports.extend(self.computed.iter().map(report));
        self.kept.reports.sort_by_key(|report| report.lane);
        self.kept.tokens += self.tokens;

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

    fn hand_over(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), DeviceError> {
        let sums = self.seat.dense(self.ops, sums, self.kept.dense(segment))?;
        self.handed.insert(segment);
        match self.broken {
            None => self.broken = self.collective.launch(segment, sums).err(),
            Some(_) => self.kept.parts.dense.push((segment, sums)),
        }
        Ok(())
    }
}

impl<O: Ops> GradientSink<O> for Launch<'_, O> {
    type Error = StepError;

    fn segment(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), StepError> {
        if self.handed.contains(&segment) {
            return Ok(());
        }
        self.sums.add(segment, sums)?;
        if self.is_last {
            let sums = self.sums.take(segment)?;
            self.hand_over(segment, sums)?;
        }
        Ok(())
    }

    fn words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), StepError> {
        self.sums.add_words(sums)?;
        if self.is_last {
            let sums = self.sums.take_words()?;
            let sums = self.seat.words(self.ops, sums, self.kept.words(), self.width)?;
            match self.broken {
                None => self.broken = self.collective.launch_words(sums).err(),
                Some(_) => self.kept.parts.words = Some(sums),
            }
        }
        Ok(())
    }
}
