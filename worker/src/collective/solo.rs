//! The world of one.

use std::collections::BTreeMap;

use medley_common::identity::Rank;
use medley_common::lane::Node;

use super::{Collective, CollectiveError, SparseRows, Summed};
use crate::layout::{Layout, Segment};

/// A group of one worker: what it hands over is the sum already, and comes back without a copy.
#[derive(Debug)]
pub struct Solo {
    lengths: BTreeMap<Segment, usize>,
    summed: Summed,
}

impl Solo {
    /// The group of one worker with a model of this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let lengths = layout.segments().iter().map(|(segment, range)| (*segment, range.len())).collect();
        Self { lengths, summed: Summed::default() }
    }
}

impl Collective for Solo {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        1
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Vec<f32>)>) -> Result<(), CollectiveError> {
        let sum = match only(sums)? {
            Some(sum) => sum,
            // No lane has a row: the sum of nothing.
            None => vec![0.0; self.lengths.get(&segment).copied().unwrap_or(0)],
        };
        self.summed.segments.push((segment, sum));
        Ok(())
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows)>) -> Result<(), CollectiveError> {
        self.summed.words = only(sums)?.unwrap_or_default();
        Ok(())
    }

    fn fence(&mut self) -> Result<Summed, CollectiveError> {
        Ok(std::mem::take(&mut self.summed))
    }
}

/// The root's sum: who has all lanes has one node.
fn only<T>(mut sums: Vec<(Node, T)>) -> Result<Option<T>, CollectiveError> {
    match sums.len() {
        0 | 1 => Ok(sums.pop().map(|(_, sum)| sum)),
        nodes => Err(CollectiveError::Invalid { problem: format!("a group of one was handed {nodes} nodes, not one") }),
    }
}

#[cfg(test)]
mod tests {
    use medley_common::model::ModelConfig;

    use super::*;

    const ROOT: Node = Node { level: 3, index: 0 };

    fn solo() -> Solo {
        Solo::new(&Layout::new(&ModelConfig {
            vocab_size: 10,
            hidden_size: 4,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 8,
            max_position_embeddings: 8,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: 0.0,
            initializer_range: 0.02,
            num_labels: 3,
        }))
    }

    #[test]
    fn buffers_come_back_as_they_are() {
        let mut solo = solo();
        let buffer = vec![1.5; 31];
        let address = buffer.as_ptr();
        solo.launch(Segment::Head, vec![(ROOT, buffer)]).unwrap();
        let words = SparseRows { rows: vec![3], values: vec![1.0; 4] };
        solo.launch_words(vec![(ROOT, words.clone())]).unwrap();
        let summed = solo.fence().unwrap();
        assert_eq!(summed.segments[0].1.as_ptr(), address);
        assert_eq!(summed.words, words);
        assert!(solo.fence().unwrap().segments.is_empty());
    }

    #[test]
    fn nothing_sums_to_zero_and_two_nodes_are_refused() {
        let mut solo = solo();
        solo.launch(Segment::Head, Vec::new()).unwrap();
        solo.launch_words(Vec::new()).unwrap();
        let summed = solo.fence().unwrap();
        assert_eq!(summed.segments, [(Segment::Head, vec![0.0; 4 * 4 + 4 + 3 * 4 + 3])]);
        assert_eq!(summed.words, SparseRows::default());
        let two = vec![(ROOT, Vec::new()), (Node { level: 0, index: 1 }, Vec::new())];
        assert!(solo.launch(Segment::Head, two).is_err());
    }
}
