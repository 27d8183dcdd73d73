//! Lanes: the canonical micro-batches of an update, and the one binary tree that sums their gradients.
//!
//! A lane is computed the same by whoever computes it. Floating-point addition is not associative, so the lanes'
//! gradients are added in one fixed tree, whatever the number of workers: a worker sums the largest aligned subtrees
//! that lie inside its own range of lanes, and the owner of a slice adds the rest of the tree.

use std::collections::BTreeMap;
use std::ops::Range;

/// A node of the tree: the lanes `index << level .. (index + 1) << level`, cut at the number of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// 0 for a single lane.
    pub level: u32,
    /// Place among the nodes of its level.
    pub index: u32,
}

/// The summation tree over a fixed number of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneTree {
    lanes: u32,
}

impl LaneTree {
    /// The tree over `lanes` lanes, at least one.
    #[must_use]
    pub fn new(lanes: u32) -> Self {
        Self { lanes: lanes.max(1) }
    }

    /// Number of lanes.
    #[must_use]
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// The node that covers every lane.
    #[must_use]
    pub fn root(&self) -> Node {
        Node { level: self.lanes.next_power_of_two().trailing_zeros(), index: 0 }
    }

    /// The lanes below `node`.
    #[must_use]
    pub fn range(&self, node: Node) -> Range<u32> {
        let start = (node.index << node.level).min(self.lanes);
        let end = (u64::from(node.index + 1) << node.level).min(u64::from(self.lanes));
        start..u32::try_from(end).unwrap_or(self.lanes)
    }

    /// The two halves of `node`, `None` for a lane; the right half is `None` where no lane lies below it.
    #[must_use]
    pub fn children(&self, node: Node) -> Option<(Node, Option<Node>)> {
        let level = node.level.checked_sub(1)?;
        let left = Node { level, index: node.index * 2 };
        let right = Node { level, index: node.index * 2 + 1 };
        Some((left, (!self.range(right).is_empty()).then_some(right)))
    }

    /// The fewest nodes that together cover exactly `lanes`, in lane order.
    #[must_use]
    pub fn cover(&self, lanes: Range<u32>) -> Vec<Node> {
        let mut nodes = Vec::new();
        self.cover_below(self.root(), &lanes, &mut nodes);
        nodes
    }

    fn cover_below(&self, node: Node, lanes: &Range<u32>, nodes: &mut Vec<Node>) {
        let below = self.range(node);
        if below.is_empty() || below.end <= lanes.start || lanes.end <= below.start {
            return;
        }
        if lanes.start <= below.start && below.end <= lanes.end {
            nodes.push(node);
        } else if let Some((left, right)) = self.children(node) {
            self.cover_below(left, lanes, nodes);
            if let Some(right) = right {
                self.cover_below(right, lanes, nodes);
            }
        }
    }

    /// The sum below `node`: what is known of it, else the sum of its two halves; where one half has nothing, the other's
    /// alone, and `None` where nothing is known below it. What goes into the sum is taken out of `known`.
    ///
    /// # Errors
    /// What `add`, which is given the left half first, returns.
    pub fn total<T, E>(
        &self,
        node: Node,
        known: &mut BTreeMap<Node, T>,
        add: &mut impl FnMut(T, T) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        if let Some(sum) = known.remove(&node) {
            return Ok(Some(sum));
        }
        let Some((left, right)) = self.children(node) else { return Ok(None) };
        let left = self.total(left, known, add)?;
        let right = right.map_or(Ok(None), |right| self.total(right, known, add))?;
        match (left, right) {
            (Some(left), Some(right)) => add(left, right).map(Some),
            (left, right) => Ok(left.or(right)),
        }
    }

    /// The lanes of each rank: contiguous ranges whose sizes differ by at most one.
    #[must_use]
    pub fn assign(&self, world: u32) -> Vec<Range<u32>> {
        let bound = |rank: u32| {
            // Rounded up, so that the first rank has a lane however many ranks there are.
            let lanes = (u64::from(self.lanes) * u64::from(rank)).div_ceil(u64::from(world.max(1)));
            u32::try_from(lanes).unwrap_or(self.lanes)
        };
        (0..world).map(|rank| bound(rank)..bound(rank + 1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cover of every range tiles it exactly, with aligned nodes.
    #[test]
    fn covers_tile_their_range() {
        for lanes in 1..20 {
            let tree = LaneTree::new(lanes);
            for start in 0..=lanes {
                for end in start..=lanes {
                    let mut at = start;
                    for node in tree.cover(start..end) {
                        let range = tree.range(node);
                        assert_eq!(range.start, at);
                        assert!(!range.is_empty());
                        at = range.end;
                    }
                    assert_eq!(at, end);
                }
            }
        }
    }

    #[test]
    fn powers_of_two_need_one_node_a_rank() {
        let tree = LaneTree::new(8);
        for world in [1, 2, 4, 8] {
            assert!(tree.assign(world).into_iter().all(|lanes| tree.cover(lanes).len() == 1));
        }
        let covers: Vec<_> = tree.assign(3).into_iter().map(|lanes| tree.cover(lanes)).collect();
        assert_eq!(covers[0], [Node { level: 1, index: 0 }, Node { level: 0, index: 2 }]);
        assert_eq!(covers[1], [Node { level: 0, index: 3 }, Node { level: 1, index: 2 }]);
        assert_eq!(covers[2], [Node { level: 1, index: 3 }]);
    }

    #[test]
    fn halves_are_added_left_to_right() {
        let tree = LaneTree::new(6);
        let total = |lanes: &[u32]| {
            let mut known: BTreeMap<Node, String> =
                lanes.iter().map(|lane| (Node { level: 0, index: *lane }, lane.to_string())).collect();
            let add = &mut |left: String, right: String| Ok::<_, ()>(format!("({left}{right})"));
            let sum = tree.total(tree.root(), &mut known, add).unwrap();
            assert!(known.is_empty());
            sum
        };
        assert_eq!(total(&[0, 1, 2, 3, 4, 5]).as_deref(), Some("(((01)(23))(45))"));
        assert_eq!(total(&[1, 2, 5]).as_deref(), Some("((12)5)"));
        assert_eq!(total(&[]), None);
    }

    #[test]
    fn the_root_covers_all_lanes() {
        for lanes in 1..33 {
            let tree = LaneTree::new(lanes);
            assert_eq!(tree.cover(0..lanes), [tree.root()]);
            assert_eq!(tree.range(tree.root()), 0..lanes);
        }
    }
}
