//! A trainer that keeps what the optimizer remembers of its own rank's shard alone.
//!
//! Which shard that is, is known once there is a group. Until then, what a checkpoint remembers waits on the host. From
//! then on no rank has the whole state: it is that of this group, and ends with it.

use std::borrow::Cow;
use std::ops::Range;

use super::Trainer;
use crate::collective::{Collective, CollectiveError, Traffic};
use crate::ops::{DeviceError, Ops, Slice, SliceMut};
use crate::optim::optimizer::Optimizer;
use crate::optim::shards::shards;

/// How far the state is shared out.
#[derive(Debug)]
pub(super) enum Sharding {
    /// Every rank has all of it.
    Off,
    /// It is to be; this is what the optimizer remembers, nothing where it has made no step.
    Due(Vec<Vec<f32>>),
    /// The shards of all ranks, and which one is this rank's.
    Done(Vec<Range<usize>>, usize),
}

/// Why what all ranks remember is not there.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// A peer was lost.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<O: Ops> Trainer<O> {
    /// Whether this rank has a part of the state only: of no use but in the group that it was cut for.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self.sharding, Sharding::Done(..))
    }

    /// Whether the state is to be shared out among the ranks of a group.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        !matches!(self.sharding, Sharding::Off)
    }

    /// Keeps the share of `rank` among so many of what the optimizer remembers; nothing happens where that is not due.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn cut(&mut self, rank: u32, world: u32) -> Result<(), DeviceError> {
        let Sharding::Due(memory) = &mut self.sharding else { return Ok(()) };
        let memory = std::mem::take(memory);
        let shards = shards(&self.layout, &self.spec.tuning, world);
        let own = shards.get(rank as usize).cloned().unwrap_or_default();
        let kinds = (self.spec.optimizer, &self.spec.tuning);
        self.optimizer = Optimizer::new(&self.ops, &self.layout, kinds, own.clone())?;
        let upload = |buffer: Vec<f32>| self.ops.upload(buffer[own.clone()].to_vec());
        self.optimizer.restore(memory.into_iter().map(upload).collect::<Result<_, _>>()?);
        self.sharding = Sharding::Done(shards, rank as usize);
        Ok(())
    }

    /// Takes the parameters that other ranks have moved.
    pub(super) fn gather_parameters(
        &mut self,
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<Traffic, GatherError> {
        let Sharding::Done(shards, _) = &self.sharding else { return Ok(Traffic::default()) };
        let traffic = collective.all_gather(&mut self.parameters, shards)?;
        self.ops.refresh_parameters(&mut self.parameters)?;
        Ok(traffic)
    }

    /// What the optimizer remembers of all parameters, on the host and in the order of [`Trainer::memory`]: of those of
    /// other ranks, by them. All ranks of the group call it, after the same update; a trainer that is not cut needs nobody.
    /// Of what is not trained nothing is remembered, which is 0.
    ///
    /// # Errors
    /// A peer was lost, or the device failed.
    pub fn gather_memory(&self, collective: &mut dyn Collective<O::Buffer>) -> Result<Vec<Vec<f32>>, GatherError> {
        let Sharding::Done(shards, rank) = &self.sharding else {
            return Ok(self.memory()?.into_iter().map(Cow::into_owned).collect());
        };
        let own = shards[*rank].clone();
        let whole = |shard: &O::Buffer| {
            let mut whole = self.ops.zeros(self.layout.len())?;
            let into = SliceMut { buffer: &mut whole, range: own.clone() };
            self.ops.copy(into, Slice { buffer: shard, range: 0..own.len() })?;
            collective.all_gather(&mut whole, shards)?;
            Ok(self.ops.download(whole)?)
        };
        self.optimizer.memory().into_iter().map(whole).collect()
    }
}

#[cfg(test)]
#[path = "sharding_test.rs"]
mod tests;
