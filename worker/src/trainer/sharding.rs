//! A trainer that keeps what the optimizer remembers of its own rank's shard alone.
//!
//! Which shard that is, is known once there is a group. Until then, what a checkpoint remembers waits on the host. From
//! then on no rank has the whole state: it is that of this group, and ends with it.

use std::borrow::Cow;
use std::ops::Range;

use super::Trainer;
use crate::collective::{Collective, CollectiveError, Shard, Sums, Traffic};
use crate::layout::{Slot, shard};
use crate::ops::{DeviceError, Ops, Slice, SliceMut};
use crate::optim::gradients::{Gradients, Origin};
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
    Done(Vec<Shard>, usize),
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
        let shards = shards(&self.layout, &self.spec.tuning, world, O::PIECE);
        let own = shards.get(rank as usize).map_or(&[][..], Vec::as_slice);
        self.optimizer = Optimizer::new(&self.ops, &self.layout, (self.spec.optimizer, &self.spec.tuning), own)?;
        let cut = |buffer: Vec<f32>| own.iter().flat_map(|run| &buffer[run.clone()]).copied().collect();
        let upload = |buffer| self.ops.upload(cut(buffer));
        self.optimizer.restore(memory.into_iter().map(upload).collect::<Result<_, _>>()?);
        self.sharding = Sharding::Done(shards, rank as usize);
        Ok(())
    }

    /// What this trainer asks of the sums of gradients.
    pub(super) fn sums(&self) -> Sums {
        if self.is_cut() { Sums::Shards(O::PIECE) } else { Sums::Gradients }
    }

    /// The norm of the summed gradient, of which other ranks may have shards: the same bits as of the whole one.
    pub(super) fn norm(
        &self,
        gradients: &Gradients<O>,
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<(f64, Traffic), GatherError> {
        let Sharding::Done(shards, rank) = &self.sharding else {
            return Ok((gradients.norm(&self.ops, &self.layout)?, Traffic::default()));
        };
        let (world, own) = (shards.len() as u32, *rank as u32);
        let lengths: Vec<usize> = gradients.dense_runs(&self.layout).map(|run| run.range.len()).collect();
        // Where each segment's pieces begin among those of all.
        let mut places = vec![0];
        places.extend(lengths.iter().scan(0, |end, length| {
            *end += length.div_ceil(O::PIECE);
            Some(*end)
        }));
        let pieces = |rank: u32| -> Shard {
            let of_segment = |(length, place): (&usize, &usize)| {
                let part = shard(*length, rank, world, O::PIECE);
                let end = if part.is_empty() { part.start } else { part.end };
                place + part.start / O::PIECE..place + end.div_ceil(O::PIECE)
            };
            lengths.iter().zip(&places).map(of_segment).collect()
        };
        let part = |run: Slice<'_, O::Buffer>| shard(run.range.len(), own, world, O::PIECE);
        let runs = gradients.dense_runs(&self.layout).map(|run| Slice { buffer: run.buffer, range: part(run) });
        let runs: Vec<_> = std::iter::once(gradients.words_run()).chain(runs).collect();
        let mut known = self.ops.square_sums(&runs)?.into_iter();
        let words: f64 = known.next().unwrap_or_default().iter().sum();

        let mut sums = vec![0.0; places.last().copied().unwrap_or(0)];
        for (places, known) in pieces(own).into_iter().zip(known) {
            sums[places].copy_from_slice(&known);
        }
        let shards: Vec<Shard> = (0..world).map(pieces).collect();
        let traffic = self.gather_doubles(&mut sums, &shards, collective)?;
        let dense = places.windows(2).map(|bounds| sums[bounds[0]..bounds[1]].iter().sum());
        Ok((std::iter::once(words).chain(dense).sum::<f64>().sqrt(), traffic))
    }

    /// Makes numbers whole, of which each rank has its own shard.
    fn gather_doubles(
        &self,
        numbers: &mut [f64],
        shards: &[Shard],
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<Traffic, GatherError> {
        // Each travels as the two elements that its bits are: nothing is done with them on the way.
        let halves = |run: &Range<usize>| 2 * run.start..2 * run.end;
        let shards: Vec<Shard> = shards.iter().map(|shard| shard.iter().map(halves).collect()).collect();
        let mut buffer = self.ops.upload(bytemuck::cast_slice(numbers).to_vec())?;
        let traffic = collective.all_gather(&mut buffer, &shards)?;
        let elements = self.ops.download(buffer)?;
        bytemuck::cast_slice_mut(numbers).copy_from_slice(&elements);
        Ok(traffic)
    }

    /// Where a gradient that is not finite began, on whichever rank: at a weight, or in the backward pass.
    pub(super) fn origin(
        &self,
        gradients: &Gradients<O>,
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<Origin, GatherError> {
        for Slot { name, range, .. } in self.layout.slots() {
            if !self.ops.square_sum(&[Slice { buffer: &self.parameters, range: range.clone() }])?.is_finite() {
                return Ok(Origin::Weight(name.clone()));
            }
        }
        let place = match &self.sharding {
            Sharding::Done(shards, rank) => {
                let own = gradients.first_not_finite(&self.ops, &self.layout, &shards[*rank])?;
                let mut places = vec![-1.0; shards.len()];
                places[*rank] = own.map_or(-1.0, |place| place as f64);
                let shards: Vec<Shard> = (0..shards.len()).map(|rank| vec![rank..rank + 1]).collect();
                self.gather_doubles(&mut places, &shards, collective)?;
                places.into_iter().filter(|place| *place >= 0.0).max_by(f64::total_cmp).map(|place| place as usize)
            }
            Sharding::Off | Sharding::Due(_) => {
                let all = 0..self.layout.len();
                gradients.first_not_finite(&self.ops, &self.layout, std::slice::from_ref(&all))?
            }
        };
        let name = place.and_then(|place| self.layout.slots().get(place)).map(|slot| slot.name.clone());
        Ok(name.map_or(Origin::Unknown, Origin::Gradient))
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
        // One segment at a time: the device need not have room for all of it.
        let longest = self.layout.segments().iter().map(|(_, range)| range.len()).max().unwrap_or(0);
        let mut part = self.ops.zeros(longest)?;
        let mut whole = |memory: &O::Buffer| {
            let (mut whole, mut remembered) = (vec![0.0; self.layout.len()], 0);
            for (_, segment) in self.layout.segments() {
                let within = |run: &Range<usize>| run.start - segment.start..run.end - segment.start;
                let of_rank = |shard: &Shard| -> Shard {
                    shard.iter().filter(|run| segment.contains(&run.start)).map(within).collect()
                };
                let runs: Vec<Shard> = shards.iter().map(of_rank).collect();
                if runs.iter().all(Vec::is_empty) {
                    continue;
                }
                for run in &runs[*rank] {
                    let from = Slice { buffer: memory, range: remembered..remembered + run.len() };
                    remembered += run.len();
                    self.ops.copy(SliceMut { buffer: &mut part, range: run.clone() }, from)?;
                }
                collective.all_gather(&mut part, &runs)?;
                whole[segment.clone()]
                    .copy_from_slice(&self.ops.read(Slice { buffer: &part, range: 0..segment.len() })?);
            }
            Ok(whole)
        };
        self.optimizer.memory().into_iter().map(&mut whole).collect()
    }
}

#[cfg(test)]
#[path = "sharding_test.rs"]
mod tests;
