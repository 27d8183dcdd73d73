//! Sums that NCCL makes: one all-reduce for each segment, or, where each rank is to have its own share alone, one reduction to
//! each.

use std::sync::Arc;

use medley_common::identity::Rank;
use medley_common::lane::Node;
use medley_common::spec::GradientDtype;

use super::communicator::Wire;
use super::{Memory, Nccl};
use crate::collective::group::{Extent, Group};
use crate::collective::traffic::{Meter, Traffic};
use crate::collective::transport::all_gather;
use crate::collective::{Collective, CollectiveError, Parts, Shard, SparseRows, Summed, Sums, device_failed};
use crate::layout::Segment;
use crate::ops::Ops;
use crate::ops::cuda::driver::Element;

/// Sums in NCCL's order.
#[derive(Debug)]
pub(super) struct AllReduce {
    /// Before the sums: they are given back once NCCL is done with them.
    nccl: Nccl,
    group: Arc<Group>,
    wire: Wire,
    sums: Sums,
    summed: Vec<Sum>,
    words: Option<Sum>,
    /// By the host's clock, from the first sum that is handed over to the fence. Of what NCCL sends only the least is
    /// known that an all-reduce takes.
    meter: Meter,
}

/// A sum that is on its way.
#[derive(Debug)]
struct Sum {
    segment: Segment,
    gradient: Memory,
    /// What travels, where that is not the gradient itself.
    narrow: Option<Memory>,
}

impl AllReduce {
    pub(super) fn new(group: Arc<Group>, nccl: Nccl, dtype: GradientDtype) -> Self {
        let wire = match dtype {
            GradientDtype::Float32 => Wire::Float32,
            GradientDtype::Bfloat16 => Wire::Bfloat16,
        };
        Self { nccl, group, wire, sums: Sums::default(), summed: Vec::new(), words: None, meter: Meter::default() }
    }

    /// Begins the sum of a gradient as soon as the stream that computes it has come this far.
    fn begin(&mut self, segment: Segment, gradient: Memory, count: usize) -> Result<Sum, CollectiveError> {
        // Losses are reported as they are.
        let is_exact = self.sums == Sums::State || segment == Segment::Losses;
        let wire = if is_exact { Wire::Float32 } else { self.wire };
        let nccl = &mut self.nccl;
        let narrow = match wire {
            Wire::Float32 => None,
            Wire::Bfloat16 => Some(nccl.cuda.narrowed(&gradient, count, Element::Bf16).map_err(device_failed)?),
        };
        let address = nccl.cuda.address(narrow.as_ref().unwrap_or(&gradient), count).map_err(device_failed)?;
        nccl.follow_computing()?;
        self.meter.begin();
        let extent = Extent { length: count, piece: self.sums.pieces(segment) };
        self.meter.send(sent_bytes(extent, wire, self.group.world()));
        let shares: Vec<_> = (0..self.group.world()).map(|rank| self.group.share(extent, rank)).collect();
        // SAFETY: the sum is kept until the fence, which the computing stream waits for before it frees anything.
        match extent.piece {
            None => unsafe { nccl.communicator.sum(address, count, wire, &nccl.stream) },
            Some(_) => unsafe { nccl.communicator.sum_shares(address, &shares, wire, &nccl.stream) },
        }?;
        Ok(Sum { segment, gradient, narrow })
    }

    /// What a rank without rows adds: of a state, −0, which changes no bit of any number.
    fn nothing(&self, count: usize) -> Result<Memory, CollectiveError> {
        let cuda = &self.nccl.cuda;
        if self.sums == Sums::State { cuda.upload(vec![-0.0; count]) } else { cuda.zeros(count) }.map_err(device_failed)
    }

    fn finish(&self, sum: Sum, count: usize) -> Result<(Segment, Memory), CollectiveError> {
        let Sum { segment, gradient, narrow } = sum;
        if let Some(narrow) = narrow {
            self.nccl.cuda.widen(&narrow, &gradient, count, Element::Bf16).map_err(device_failed)?;
        }
        Ok((segment, gradient))
    }

    fn length(&self, segment: Segment) -> usize {
        self.group.lengths.get(&segment).copied().unwrap_or(0)
    }
}

impl Collective<Memory> for AllReduce {
    fn rank(&self) -> Rank {
        self.nccl.mesh.rank()
    }

    fn world(&self) -> u32 {
        self.nccl.mesh.world()
    }

    fn describe(&self) -> Option<String> {
        Some(self.nccl.topology.clone())
    }

    fn sums(&mut self, sums: Sums) {
        self.sums = sums;
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Memory)>) -> Result<(), CollectiveError> {
        let count = self.length(segment);
        let gradient = match only(sums)? {
            Some(gradient) => gradient,
            None => self.nothing(count)?,
        };
        let sum = self.begin(segment, gradient, count)?;
        self.summed.push(sum);
        Ok(())
    }

    /// As a whole matrix: which rows the others touch is not known here, and the rows of a large batch are most of it.
    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<Memory>)>) -> Result<(), CollectiveError> {
        let count = self.group.vocabulary * self.group.hidden;
        let dense = self.nothing(count)?;
        if let Some(rows) = only(sums)? {
            self.nccl.cuda.scatter_rows(&rows, &dense, self.group.hidden).map_err(device_failed)?;
        }
        self.words = Some(self.begin(Segment::Words, dense, count)?);
        Ok(())
    }

    fn fence(&mut self) -> Result<Summed<Memory>, CollectiveError> {
        self.nccl.finish_sums()?;
        let mut summed = Summed { traffic: self.meter.take(), ..Summed::default() };
        for sum in std::mem::take(&mut self.summed) {
            let count = self.length(sum.segment);
            summed.segments.push(self.finish(sum, count)?);
        }
        if let Some(words) = self.words.take() {
            let (_, values) = self.finish(words, self.group.vocabulary * self.group.hidden)?;
            let rows = (0..u32::try_from(self.group.vocabulary).unwrap_or(u32::MAX)).collect();
            summed.words = SparseRows { rows, values };
        }
        Ok(summed)
    }

    fn all_gather(&mut self, buffer: &mut Memory, shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        self.meter.begin();
        let computing = self.nccl.cuda.clone();
        let sent = all_gather((&computing, &mut self.nccl), buffer, (self.group.rank, shards))?;
        self.meter.send(sent);
        Ok(self.meter.take())
    }

    fn reuse(&mut self, sums: Vec<Memory>) -> Vec<Memory> {
        sums
    }

    /// What NCCL was adding up in place is no rank's own any more.
    fn salvage(&mut self) -> Parts<Memory> {
        Parts::default()
    }
}

/// The least that a rank sends for the sum of `extent` over `world` ranks: all but its own share of the elements to be added,
/// and its share of the sum to each other, where they are given it.
fn sent_bytes(extent: Extent, wire: Wire, world: usize) -> u64 {
    let times = if extent.piece.is_none() { 2 } else { 1 };
    (times * wire.bytes() * extent.length * world.saturating_sub(1) / world.max(1)) as u64
}

/// A rank's only sum; none where it has no rows.
fn only<T>(mut sums: Vec<(Node, T)>) -> Result<Option<T>, CollectiveError> {
    match sums.len() {
        0 | 1 => Ok(sums.pop().map(|(_, sum)| sum)),
        nodes => Err(CollectiveError::Invalid { problem: format!("a GPU's rank was handed {nodes} sums, not one") }),
    }
}
