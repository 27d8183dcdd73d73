//! The world of one, on a device that does not keep lanes apart.

use medley_common::identity::Rank;
use medley_common::lane::Node;

use super::{Collective, CollectiveError, Parts, SparseRows, Summed};
use crate::layout::Segment;

/// A group of one worker that adds up all lanes itself: what it hands over is the sum already, and comes back without a
/// copy.
#[derive(Debug)]
pub struct Alone<B = Vec<f32>> {
    summed: Summed<B>,
}

impl<B: Default> Default for Alone<B> {
    fn default() -> Self {
        Self { summed: Summed::default() }
    }
}

impl<B: Default> Collective<B> for Alone<B> {
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

    fn reuse(&mut self, sums: Vec<B>) -> Vec<B> {
        sums
    }

    /// It fails only where it is handed nonsense.
    fn salvage(&mut self) -> Parts<B> {
        Parts::default()
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
        let mut alone = Alone::default();
        let buffer = vec![1.5; 31];
        let address = buffer.as_ptr();
        alone.launch(Segment::Head, vec![(ROOT, buffer)]).unwrap();
        let words = SparseRows { rows: vec![3], values: vec![1.0; 4] };
        alone.launch_words(vec![(ROOT, words.clone())]).unwrap();
        let summed = alone.fence().unwrap();
        assert_eq!(summed.segments[0].1.as_ptr(), address);
        assert_eq!(summed.words, words);
        assert!(alone.fence().unwrap().segments.is_empty());
    }

    #[test]
    fn none_and_two_nodes_are_refused() {
        let mut alone = Alone::<Vec<f32>>::default();
        assert!(alone.launch(Segment::Head, Vec::new()).is_err());
        assert!(alone.launch_words(Vec::new()).is_err());
        let two = vec![(ROOT, Vec::new()), (Node { level: 0, index: 1 }, Vec::new())];
        assert!(alone.launch(Segment::Head, two).is_err());
    }
}
