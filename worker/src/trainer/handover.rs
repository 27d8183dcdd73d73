//! A state that one rank holds becomes that of all: parameters, what the optimizer remembers, and position.

use std::ops::Range;

use medley_common::identity::Update;

use super::{Trainer, TrainerError};
use crate::collective::{Collective, CollectiveError, SparseRows, Summed, Sums};
use crate::layout::Segment;
use crate::ops::{DeviceError, Ops, Slice};
use crate::optim::loss_scale::LossScale;

/// Why a state was not taken over; the trainer's own is as it was.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It did not travel.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// What travelled is not a state of this model, or the device failed.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
}

/// A rank's part in a handover.
#[derive(Debug, Clone, Copy)]
pub struct Handover<'a> {
    /// Whether this rank's state is the one that counts.
    pub is_source: bool,
    /// This rank's lanes; the source has at least one.
    pub lanes: &'a [Range<u32>],
    /// Updates done in that state.
    pub update: Update,
}

impl<O: Ops> Trainer<O> {
    /// Takes part in a handover; all ranks call it. It is a sum to which the source alone contributes, so the bits are
    /// the source's own.
    ///
    /// # Errors
    /// A peer was lost, or the device failed.
    pub fn hand_over(
        &mut self,
        handover: Handover<'_>,
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<(), HandoverError> {
        collective.sums(Sums::State);
        let mut taken = Vec::new();
        for buffer in std::iter::once(&self.parameters).chain(self.optimizer.memory()) {
            let mine = if handover.is_source { Some(self.read(buffer)?) } else { None };
            let summed = self.travel(mine, handover.lanes, collective)?;
            if !handover.is_source {
                taken.push(self.join(&summed)?);
            }
            let sums = summed.segments.into_iter().map(|(_, sum)| sum).collect();
            // Buffers that are of no use to the collective are of none here.
            drop(collective.reuse(sums));
        }
        let scale = self.travel_scale(handover, collective)?;
        collective.sums(Sums::Gradients);
        if !handover.is_source {
            let memory = taken.split_off(1);
            let parameters = taken.into_iter().flatten().collect();
            self.parameters = self.ops.upload_parameters(parameters).map_err(TrainerError::from)?;
            self.restore(memory, handover.update)?;
            self.scale = scale;
        }
        Ok(())
    }

    fn read(&self, buffer: &O::Buffer) -> Result<Vec<f32>, TrainerError> {
        Ok(self.ops.read(Slice { buffer, range: 0..self.layout.len() })?)
    }

    /// Sums one buffer to which `mine` is the only contribution.
    fn travel(
        &self,
        mine: Option<Vec<f32>>,
        lanes: &[Range<u32>],
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<Summed<O::Buffer>, HandoverError> {
        let seat = self.seat(self.spec.lanes, collective.rank(), collective.world());
        let node = match (&mine, seat.node(lanes)) {
            (Some(_), None) => {
                let problem = "the rank that hands its state over has no lane".to_owned();
                return Err(CollectiveError::Invalid { problem }.into());
            }
            (_, node) => node,
        };
        let part = |range: &Range<usize>| match mine.as_ref().zip(node) {
            Some((mine, node)) => Ok(Some((node, self.ops.upload(mine[range.clone()].to_vec())?))),
            None => Ok::<_, TrainerError>(None),
        };
        for (segment, range) in self.layout.segments().iter().filter(|(segment, _)| *segment != Segment::Words) {
            collective.launch(*segment, part(range)?.into_iter().collect())?;
        }
        let rows = self.layout.slots()[0].shape[0];
        let words = part(&self.layout.range(Segment::Words))?.map(|(node, values)| {
            (node, SparseRows { rows: (0..u32::try_from(rows).unwrap_or(u32::MAX)).collect(), values })
        });
        collective.launch_words(words.into_iter().collect())?;
        Ok(collective.fence()?)
    }

    /// The source's loss scale: without it, ranks would multiply their losses by different numbers.
    fn travel_scale(
        &self,
        handover: Handover<'_>,
        collective: &mut dyn Collective<O::Buffer>,
    ) -> Result<Option<LossScale>, HandoverError> {
        let Some(LossScale { scale, good_updates, skipped_updates }) = self.scale else { return Ok(None) };
        let node = self.seat(self.spec.lanes, collective.rank(), collective.world()).node(handover.lanes);
        for value in [scale as f32, good_updates as f32, skipped_updates as f32] {
            let values = vec![value; self.spec.lanes as usize];
            let part = node.filter(|_| handover.is_source).map(|node| Ok((node, self.ops.upload(values)?)));
            let part = part.transpose().map_err(|error: DeviceError| TrainerError::from(error))?;
            collective.launch(Segment::Losses, part.into_iter().collect())?;
        }
        collective.launch_words(Vec::new())?;
        let mut numbers = Vec::new();
        for (_, sum) in collective.fence()?.segments {
            let first = self.ops.read(Slice { buffer: &sum, range: 0..1 }).map_err(TrainerError::from)?;
            numbers.extend(first.into_iter().map(f64::from));
        }
        Ok(match numbers[..] {
            [scale, good, skipped] => {
                Some(LossScale { scale, good_updates: good as u32, skipped_updates: skipped as u64 })
            }
            _ => self.scale,
        })
    }

    /// The flat buffer that the sums are parts of.
    fn join(&self, summed: &Summed<O::Buffer>) -> Result<Vec<f32>, TrainerError> {
        let mut whole = vec![0.0; self.layout.len()];
        for (segment, sum) in &summed.segments {
            let range = self.layout.range(*segment);
            whole[range.clone()].copy_from_slice(&self.ops.read(Slice { buffer: sum, range: 0..range.len() })?);
        }
        let elements = summed.words.rows.len() * self.layout.slots()[0].shape[1];
        let words = &mut whole[self.layout.range(Segment::Words)];
        words[..elements].copy_from_slice(&self.ops.read(Slice { buffer: &summed.words.values, range: 0..elements })?);
        Ok(whole)
    }
}

#[cfg(test)]
#[path = "handover_test.rs"]
mod tests;
