//! The world of one.

use medley_common::identity::Rank;
use medley_common::lane::Node;

use super::{Collective, CollectiveError, SparseRows, Summed};
use crate::layout::Segment;

/// A group of one worker: what it hands over is the sum already, and comes back without a copy.
#[derive(Debug)]
pub struct Solo<B = Vec<f32>> {
    summed: Summed<B>,
}

impl<B: Default> Default for Solo<B> {
    fn default() -> Self {
        Self { summed: Summed::default() }
    }
}

impl<B: Default> Collective<B> for Solo<B> {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        1
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, B)>) -> Result<(), CollectiveError> {
        self.summed.segments.push((segment, only(sums)?));
        Ok(())
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<B>)>) -> Result<(), CollectiveError> {
        self.summed.words = only(sums)?;
        Ok(())
    }

    fn fence(&mut self) -> Result<Summed<B>, CollectiveError> {
        Ok(std::mem::take(&mut self.summed))
    }
}

/// The root's sum: who has all lanes has one node, and no update is without rows.
fn only<T>(mut sums: Vec<(Node, T)>) -> Result<T, CollectiveError> {
    let nodes = sums.len();
    match sums.pop() {
        Some((_, sum)) if nodes == 1 => Ok(sum),
        _ => Err(CollectiveError::Invalid { problem: format!("a group of one was handed {nodes} nodes, not one") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Node = Node { level: 3, index: 0 };

    #[test]
    fn buffers_come_back_as_they_are() {
        let mut solo = Solo::default();
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
    fn none_and_two_nodes_are_refused() {
        let mut solo = Solo::<Vec<f32>>::default();
        assert!(solo.launch(Segment::Head, Vec::new()).is_err());
        assert!(solo.launch_words(Vec::new()).is_err());
        let two = vec![(ROOT, Vec::new()), (Node { level: 0, index: 1 }, Vec::new())];
        assert!(solo.launch(Segment::Head, two).is_err());
    }
}
