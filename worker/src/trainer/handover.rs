//! A state that one rank holds becomes that of all: parameters, moments and position.

use std::ops::Range;

use medley_common::identity::Update;
use medley_common::lane::LaneTree;

use super::{Trainer, TrainerError};
use crate::collective::{Collective, CollectiveError, SparseRows, Summed, cover};
use crate::layout::{Layout, Segment};
use crate::ops::{Ops, Slice};

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
    pub fn hand_over(&mut self, handover: Handover<'_>, collective: &mut dyn Collective) -> Result<(), HandoverError> {
        let (first, second) = self.optimizer.moments();
        let mut taken = Vec::new();
        for buffer in [&self.parameters, first, second] {
            let mine = if handover.is_source { Some(self.read(buffer)?) } else { None };
            let summed = self.travel(mine, handover.lanes, collective)?;
            taken.push(join(&self.layout, &summed));
            let sums = summed.segments.into_iter().map(|(_, sum)| sum).collect();
            // Buffers that are of no use to the collective are of none here.
            drop(collective.reuse(sums));
        }
        let Ok([parameters, first, second]) = <[Vec<f32>; 3]>::try_from(taken) else { return Ok(()) };
        if !handover.is_source {
            self.parameters = self.ops.upload(parameters).map_err(TrainerError::from)?;
            self.restore([first, second], handover.update)?;
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
        collective: &mut dyn Collective,
    ) -> Result<Summed, CollectiveError> {
        let node = match (&mine, cover(LaneTree::new(self.spec.lanes), lanes).first()) {
            (Some(_), None) => {
                let problem = "the rank that hands its state over has no lane".to_owned();
                return Err(CollectiveError::Invalid { problem });
            }
            (_, node) => node.copied(),
        };
        let part =
            |range: &Range<usize>| mine.as_ref().zip(node).map(|(mine, node)| (node, mine[range.clone()].to_vec()));
        for (segment, range) in self.layout.segments().iter().filter(|(segment, _)| *segment != Segment::Words) {
            collective.launch(*segment, part(range).into_iter().collect())?;
        }
        let rows = self.layout.slots()[0].shape[0];
        let words = part(&self.layout.range(Segment::Words)).map(|(node, values)| {
            (node, SparseRows { rows: (0..u32::try_from(rows).unwrap_or(u32::MAX)).collect(), values })
        });
        collective.launch_words(words.into_iter().collect())?;
        collective.fence()
    }
}

/// The flat buffer that the sums are parts of.
fn join(layout: &Layout, summed: &Summed) -> Vec<f32> {
    let mut whole = vec![0.0; layout.len()];
    for (segment, sum) in &summed.segments {
        whole[layout.range(*segment)].copy_from_slice(sum);
    }
    let words = &mut whole[layout.range(Segment::Words)];
    words[..summed.words.values.len()].copy_from_slice(&summed.words.values);
    whole
}
