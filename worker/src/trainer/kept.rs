//! What is kept of an update whose sums did not come about: a lost peer costs its own lanes, not those of others.

use std::ops::Range;

use medley_common::identity::Update;
use medley_common::lane::Node;
use medley_common::message::{LaneReport, Lanes};

use crate::collective::{Parts, SparseRows};
use crate::layout::Segment;

/// Partial sums of an update, by segment and node, and what there is to report of their lanes.
#[derive(Debug, Default)]
pub(super) struct Kept<B> {
    pub update: Update,
    /// The lanes, in the runs they were computed in.
    pub lanes: Lanes,
    pub reports: Vec<LaneReport>,
    pub tokens: u64,
    pub parts: Parts<B>,
}

impl<B: Default> Kept<B> {
    /// What of it is of use to a rank that has these `lanes` of `update`: all of it, or nothing.
    pub(super) fn for_lanes(self, update: Update, lanes: &[Range<u32>]) -> Self {
        let fits = self.update == update && self.lanes.iter().all(|run| lanes.contains(run));
        if fits { self } else { Self { update, ..Self::default() } }
    }

    /// The runs of `lanes` that are still to be computed.
    pub(super) fn missing(&self, lanes: &[Range<u32>]) -> Lanes {
        lanes.iter().filter(|run| !self.lanes.contains(run)).cloned().collect()
    }

    /// Takes out the partial sums of a dense segment.
    pub(super) fn dense(&mut self, segment: Segment) -> Vec<(Node, B)> {
        let place = self.parts.dense.iter().position(|(known, _)| *known == segment);
        place.map_or_else(Vec::new, |place| self.parts.dense.swap_remove(place).1)
    }

    /// Takes out the rows of the word embedding.
    pub(super) fn words(&mut self) -> Vec<(Node, SparseRows<B>)> {
        self.parts.words.take().unwrap_or_default()
    }

    /// Whether every segment of an update that has `segments` dense ones is there, the losses included.
    pub(super) fn is_whole(&self, segments: usize) -> bool {
        self.parts.dense.len() == segments + 1 && self.parts.words.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept<Vec<f32>> {
        let parts = Parts { dense: vec![(Segment::Head, Vec::new()), (Segment::Losses, Vec::new())], words: None };
        Kept { update: Update(3), lanes: vec![0..2, 4..5], parts, ..Kept::default() }
    }

    #[test]
    fn what_is_kept_is_of_use_only_where_its_runs_are_wanted() {
        assert_eq!(kept().for_lanes(Update(3), &[0..2, 2..4, 4..5]).missing(&[0..2, 2..4, 4..5]), [2..4]);
        for (update, lanes) in [(4, vec![0..2, 4..5]), (3, vec![0..2]), (3, vec![0..5])] {
            let kept = kept().for_lanes(Update(update), &lanes);
            assert_eq!((kept.missing(&lanes), kept.parts.dense.len()), (lanes, 0));
        }
    }

    #[test]
    fn an_update_without_its_words_is_not_whole() {
        let mut kept = kept();
        assert!(!kept.is_whole(1));
        kept.parts.words = Some(Vec::new());
        assert!(kept.is_whole(1) && !kept.is_whole(2));
    }
}
