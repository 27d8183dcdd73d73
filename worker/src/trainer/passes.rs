//! A rank's lanes of an update, computed in one or several passes whose gradients add up in one tree.
//!
//! Fewer lanes in a pass need less memory. Where the device keeps lanes apart, the sums have the same bits however the
//! lanes are divided: partial sums climb the tree of lanes as soon as both halves of a node are there.

use std::collections::BTreeMap;
use std::ops::Range;

use medley_common::lane::{LaneTree, Node};
use medley_common::message::Lanes;
use medley_common::spec::Summation;

use super::seat::Seat;
use crate::collective::{SparseRows, cover};
use crate::layout::{Layout, Segment};
use crate::model::lane_sums::RowSums;
use crate::ops::buffer_pool::{BufferPool, Shelf};
use crate::ops::{DeviceError, LaneKeeping, Ops, Slice, SliceMut};

/// How lanes are divided into passes; remembered from one update to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passes {
    /// Lanes of a pass at most.
    pub(super) most: u32,
}

impl Passes {
    /// How a device that keeps lanes like this begins: with all lanes at once, unless the sums of each must be its own and
    /// it can only have those alone.
    pub(super) fn new(keeping: LaneKeeping, summation: Summation) -> Self {
        let alone = (keeping, summation) == (LaneKeeping::Alone, Summation::ByLane);
        Self { most: if alone { 1 } else { u32::MAX } }
    }

    /// The lanes of each pass: at least one pass, though it have no lane.
    pub(super) fn divide(self, lanes: &[Range<u32>]) -> Vec<Lanes> {
        let mut passes = vec![Lanes::new()];
        let mut free = self.most;
        for run in lanes {
            let mut start = run.start;
            while start < run.end {
                if free == 0 {
                    passes.push(Lanes::new());
                    free = self.most;
                }
                let end = run.end.min(start.saturating_add(free));
                passes.last_mut().into_iter().for_each(|pass| pass.push(start..end));
                free -= end - start;
                start = end;
            }
        }
        passes
    }

    /// Halves the passes that `lanes` are divided into; `false` where none has more than one lane.
    pub(super) fn halve(&mut self, lanes: &[Range<u32>]) -> bool {
        let count: u32 = lanes.iter().map(|run| run.end - run.start).sum();
        let now = self.most.min(count);
        if now > 1 {
            self.most = now.div_ceil(2);
        }
        now > 1
    }
}

/// What the passes of an update have come to so far: for each segment the sums of nodes of the rank's share.
pub(super) struct PartialSums<'a, O: Ops> {
    ops: &'a O,
    layout: &'a Layout,
    seat: Seat,
    tree: LaneTree,
    /// The nodes that the rank hands over: no sum climbs further.
    cover: Vec<Node>,
    dense: BTreeMap<Segment, BTreeMap<Node, O::Buffer>>,
    words: BTreeMap<Node, SparseRows<O::Buffer>>,
    /// Buffers of no use any more, and what they were made for.
    spare: Vec<(O::Buffer, Shelf)>,
}

impl<'a, O: Ops> PartialSums<'a, O> {
    /// Nothing yet of a rank that has this seat and computes these `lanes`.
    pub(super) fn new(ops: &'a O, layout: &'a Layout, seat: Seat, lanes: &[Range<u32>]) -> Self {
        let (dense, words, spare) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (tree, cover) = match seat {
            Seat::Lanes(tree) => (tree, cover(tree, lanes)),
            // As in its share: a last rank without a neighbour stands for the node above it.
            Seat::Rank { leaf, world, .. } => {
                let tree = LaneTree::new(world);
                (tree, cover(tree, std::slice::from_ref(&(leaf.index..leaf.index + 1))))
            }
        };
        Self { ops, layout, seat, tree, cover, dense, words, spare }
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        self.dense.clear();
        self.words.clear();
        self.spare.clear();
    }

    /// Adds a pass's sums of a dense segment.
    pub(super) fn add(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), DeviceError> {
        let length = self.length(segment);
        let Self { ops, cover, dense, spare, .. } = self;
        let known = dense.entry(segment).or_default();
        let mut add = adder(*ops, (Some(segment), length), spare);
        sums.into_iter().try_for_each(|(node, sum)| climb(cover, known, (node, sum), &mut add))
    }

    /// Adds a pass's sums of the word embedding's rows.
    pub(super) fn add_words(&mut self, sums: RowSums<O::Buffer>) -> Result<(), DeviceError> {
        let (ops, width) = (self.ops, self.layout.slots()[0].shape[1]);
        let mut add = |left, right| ops.add_rows(left, right, width);
        sums.into_iter().try_for_each(|(node, sum)| climb(&self.cover, &mut self.words, (node, sum), &mut add))
    }

    /// Takes out the sums of a dense segment over all passes, one for each node of the share that has rows.
    pub(super) fn take(&mut self, segment: Segment) -> Result<Vec<(Node, O::Buffer)>, DeviceError> {
        let (length, mut known) = (self.length(segment), self.dense.remove(&segment).unwrap_or_default());
        let mut add = adder(self.ops, (Some(segment), length), &mut self.spare);
        totals(self.tree, &self.cover, &mut known, &mut add)
    }

    /// Takes out the sums of the word embedding's rows.
    pub(super) fn take_words(&mut self) -> Result<RowSums<O::Buffer>, DeviceError> {
        let (ops, width) = (self.ops, self.layout.slots()[0].shape[1]);
        let mut known = std::mem::take(&mut self.words);
        totals(self.tree, &self.cover, &mut known, &mut |left, right| ops.add_rows(left, right, width))
    }

    /// Elements of a dense segment's sums.
    fn length(&self, segment: Segment) -> usize {
        match segment {
            Segment::Losses => self.seat.lanes() as usize,
            segment => self.layout.range(segment).len(),
        }
    }

    /// Gives back the buffers that are of no use any more.
    pub(super) fn recycle(&mut self, pool: &mut BufferPool<O>) {
        self.spare.drain(..).for_each(|(buffer, shelf)| pool.give(buffer, shelf));
    }
}

/// Adds buffers of a shelf, the right one to the left one.
fn adder<'s, O: Ops>(
    ops: &'s O,
    shelf: Shelf,
    spare: &'s mut Vec<(O::Buffer, Shelf)>,
) -> impl FnMut(O::Buffer, O::Buffer) -> Result<O::Buffer, DeviceError> + 's {
    move |mut left, right| {
        let length = shelf.1;
        ops.add(SliceMut { buffer: &mut left, range: 0..length }, Slice { buffer: &right, range: 0..length })?;
        spare.push((right, shelf));
        Ok(left)
    }
}

/// Adds a node's sum to what is known, and goes up the tree for as long as the other half is known as well.
fn climb<T>(
    cover: &[Node],
    known: &mut BTreeMap<Node, T>,
    (mut node, mut sum): (Node, T),
    add: &mut impl FnMut(T, T) -> Result<T, DeviceError>,
) -> Result<(), DeviceError> {
    // Where lanes are not kept apart, every pass comes to the rank's own node.
    if let Some(before) = known.remove(&node) {
        sum = add(before, sum)?;
    }
    while !cover.contains(&node) {
        let Some(other) = known.remove(&Node { level: node.level, index: node.index ^ 1 }) else { break };
        sum = if node.index.is_multiple_of(2) { add(sum, other)? } else { add(other, sum)? };
        node = Node { level: node.level + 1, index: node.index / 2 };
    }
    known.insert(node, sum);
    Ok(())
}

/// The sum below each node of `cover`, where there is one.
fn totals<T>(
    tree: LaneTree,
    cover: &[Node],
    known: &mut BTreeMap<Node, T>,
    add: &mut impl FnMut(T, T) -> Result<T, DeviceError>,
) -> Result<Vec<(Node, T)>, DeviceError> {
    let mut sums = Vec::new();
    for node in cover {
        sums.extend(tree.total(*node, known, add)?.map(|sum| (*node, sum)));
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_have_as_many_lanes_as_they_may() {
        let divide = |most, lanes: &[Range<u32>]| Passes { most }.divide(lanes);
        assert_eq!(divide(u32::MAX, &[0..3, 5..8]), [vec![0..3, 5..8]]);
        assert_eq!(divide(2, &[0..3, 5..8]), [vec![0..2], vec![2..3, 5..6], vec![6..8]]);
        assert_eq!(divide(1, &[4..6]), [vec![4..5], vec![5..6]]);
        assert_eq!(divide(3, &[]), [vec![]]);
    }

    #[test]
    fn they_are_halved_down_to_a_lane() {
        let mut passes = Passes::new(LaneKeeping::Together, Summation::ByLane);
        let mut course = Vec::new();
        while passes.halve(&[0..3, 5..9]) {
            course.push(passes.most);
        }
        assert_eq!(course, [4, 2, 1]);
        assert_eq!(Passes::new(LaneKeeping::Alone, Summation::ByWorker), Passes { most: u32::MAX });
        assert!(!Passes::new(LaneKeeping::Alone, Summation::ByLane).halve(&[0..8]));
    }

    /// However lanes come in, their sum is that of the tree.
    #[test]
    fn sums_climb_the_tree() {
        let tree = LaneTree::new(6);
        let mut add = |left: String, right: String| Ok(format!("({left}{right})"));
        for order in [[0, 1, 2, 4, 5], [5, 4, 2, 1, 0], [2, 5, 0, 4, 1]] {
            let (cover, mut known) = (cover(tree, &[0..3, 4..6]), BTreeMap::new());
            for lane in order {
                climb(&cover, &mut known, (Node { level: 0, index: lane }, lane.to_string()), &mut add).unwrap();
            }
            let sums = totals(tree, &cover, &mut known, &mut add).unwrap();
            let sums: Vec<&str> = sums.iter().map(|(_, sum)| sum.as_str()).collect();
            assert_eq!(sums, ["(01)", "2", "(45)"]);
        }
        let (cover, mut known) = (cover(tree, &[0..6]), BTreeMap::new());
        for lane in [5, 0, 1, 3] {
            climb(&cover, &mut known, (Node { level: 0, index: lane }, lane.to_string()), &mut add).unwrap();
        }
        assert_eq!(totals(tree, &cover, &mut known, &mut add).unwrap()[0].1, "(((01)3)5)");
    }
}
