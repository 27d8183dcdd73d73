//! The world of one.

use std::collections::BTreeMap;

use medley_common::identity::Rank;
use medley_common::lane::{LaneTree, Node};

use super::{Collective, CollectiveError, Parts, Shard, SparseRows, Summed, Traffic, device_failed};
use crate::layout::{Layout, Segment};
use crate::ops::cpu::Cpu;
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

/// A group of one worker: what it hands over is the sum already, and comes back without a copy. Only where it has taken
/// over lanes of a lost worker are there several nodes to add.
#[derive(Debug)]
pub struct Solo<O: Ops = Cpu> {
    ops: O,
    lengths: BTreeMap<Segment, usize>,
    hidden: usize,
    tree: LaneTree,
    summed: Summed<O::Buffer>,
}

impl<O: Ops> Solo<O> {
    /// The group of one worker with a model of this layout and this many lanes.
    #[must_use]
    pub fn new(ops: O, layout: &Layout, lanes: u32) -> Self {
        let lengths = layout.segments().iter().map(|(segment, range)| (*segment, range.len()));
        let hidden = layout.slots().first().and_then(|words| words.shape.get(1)).copied().unwrap_or(0);
        Self {
            ops,
            lengths: lengths.chain([(Segment::Losses, lanes as usize)]).collect(),
            hidden,
            tree: LaneTree::new(lanes),
            summed: Summed::default(),
        }
    }
}

impl<O: Ops> Collective<O::Buffer> for Solo<O> {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        1
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), CollectiveError> {
        let Self { ops, lengths, summed, tree, .. } = self;
        let length = lengths.get(&segment).copied().unwrap_or(0);
        if let Some((node, room)) =
            sums.iter().map(|(node, sum)| (node, ops.room(sum))).find(|(_, room)| *room != length)
        {
            let problem = format!("{segment:?} has {length} elements; {node:?} has {room}");
            return Err(CollectiveError::Invalid { problem });
        }
        let mut parts: BTreeMap<_, _> = sums.into_iter().collect();
        let mut add = |mut left: O::Buffer, right: O::Buffer| {
            ops.add(SliceMut { buffer: &mut left, range: 0..length }, Slice { buffer: &right, range: 0..length })?;
            summed.spare.push((segment, right));
            Ok::<_, DeviceError>(left)
        };
        let sum = tree.total(tree.root(), &mut parts, &mut add).map_err(device_failed)?;
        disjoint(&parts)?;
        // Where no lane has a row, it is the sum of nothing.
        let sum = sum.map_or_else(|| ops.zeros(length), Ok).map_err(device_failed)?;
        summed.segments.push((segment, sum));
        Ok(())
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), CollectiveError> {
        let Self { ops, hidden, tree, .. } = self;
        let mut parts: BTreeMap<_, _> = sums.into_iter().collect();
        let sum = tree.total(tree.root(), &mut parts, &mut |left, right| ops.add_rows(left, right, *hidden));
        self.summed.words = sum.map_err(device_failed)?.unwrap_or_default();
        disjoint(&parts)
    }

    fn fence(&mut self) -> Result<Summed<O::Buffer>, CollectiveError> {
        Ok(std::mem::take(&mut self.summed))
    }

    /// It has all shards.
    fn all_gather(&mut self, _buffer: &mut O::Buffer, _shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        Ok(Traffic::default())
    }

    /// The sums are the buffers that were handed over: whoever made them makes the next ones of them.
    fn reuse(&mut self, sums: Vec<O::Buffer>) -> Vec<O::Buffer> {
        sums
    }

    /// A group of one fails only where it is handed nonsense.
    fn salvage(&mut self) -> Parts<O::Buffer> {
        Parts::default()
    }
}

/// A node that was not reached lies below another that was handed over, too.
fn disjoint<T>(left: &BTreeMap<Node, T>) -> Result<(), CollectiveError> {
    match left.keys().next() {
        None => Ok(()),
        Some(node) => Err(CollectiveError::Invalid { problem: format!("{node:?} was handed over twice") }),
    }
}

#[cfg(test)]
mod tests {
    use medley_common::model::{Family, ModelConfig};

    use super::*;

    const ROOT: Node = Node { level: 3, index: 0 };

    fn solo() -> Solo {
        Solo::new(
            Cpu,
            &Layout::new(&ModelConfig {
                family: Family::Bert,
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
            }),
            8,
        )
    }

    #[test]
    fn buffers_come_back_as_they_are() {
        let mut solo = solo();
        let buffer = vec![1.5; 35];
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
    fn nothing_sums_to_zero() {
        let mut solo = solo();
        solo.launch(Segment::Head, Vec::new()).unwrap();
        solo.launch_words(Vec::new()).unwrap();
        let summed = solo.fence().unwrap();
        assert_eq!(summed.segments, [(Segment::Head, vec![0.0; 4 * 4 + 4 + 3 * 4 + 3])]);
        assert_eq!(summed.words, SparseRows::default());
    }

    #[test]
    fn several_nodes_are_added_in_the_order_of_the_tree() {
        let mut solo = solo();
        let node = |level, index, value| (Node { level, index }, vec![value; 35]);
        let (a, b, c) = (1e8, -1e8, 0.125);
        solo.launch(Segment::Head, vec![node(1, 3, c), node(1, 2, b), node(2, 0, a)]).unwrap();
        let words = |row| SparseRows { rows: vec![row], values: vec![1.0; 4] };
        let halves = [0, 1].map(|index| (Node { level: 2, index }, words(3)));
        solo.launch_words(halves.to_vec()).unwrap();
        let summed = solo.fence().unwrap();
        assert_eq!(summed.segments, [(Segment::Head, vec![a + (b + c); 35])]);
        assert_eq!(summed.words, SparseRows { rows: vec![3], values: vec![2.0; 4] });
        assert_eq!(summed.spare.len(), 2);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut solo = solo();
        let below = Node { level: 0, index: 1 };
        assert!(solo.launch(Segment::Head, vec![(ROOT, vec![0.0; 35]), (below, vec![0.0; 35])]).is_err());
        assert!(solo.launch(Segment::Head, vec![(ROOT, Vec::new())]).is_err());
    }
}
