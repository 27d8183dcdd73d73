//! Where a rank's sums stand in the tree that adds them up.

use std::ops::Range;

use medley_common::identity::Rank;
use medley_common::lane::{LaneTree, Node};

use crate::collective::{SparseRows, cover, leaf};
use crate::model::lane_sums::{LaneShare, RowSums};
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

/// A rank's place among those that sum.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seat {
    /// Its sums are kept apart by lane: it hands over the nodes that its lanes cover.
    Lanes(LaneTree),
    /// It sums all its lanes at once, and the tree's leaves are ranks.
    Rank {
        /// Its own.
        leaf: Node,
        /// How many there are.
        world: u32,
        /// Lanes of the update.
        lanes: u32,
    },
}

impl Seat {
    /// The seat of `rank` among so many, for updates of so many lanes.
    pub(super) fn of(rank: Rank, world: u32, lanes: u32) -> Self {
        Self::Rank { leaf: leaf(rank), world, lanes }
    }

    /// Lanes of the update.
    pub(super) fn lanes(self) -> u32 {
        match self {
            Self::Lanes(tree) => tree.lanes(),
            Self::Rank { lanes, .. } => lanes,
        }
    }

    /// How a rank that computes these lanes sums.
    pub(super) fn share(self, lanes: &[Range<u32>]) -> LaneShare {
        match self {
            Self::Lanes(tree) => LaneShare::new(tree, lanes),
            Self::Rank { leaf, world, lanes } => LaneShare::of_rank(LaneTree::new(world), leaf, lanes),
        }
    }

    /// A node of a rank that has these lanes; `None` for one that has none.
    pub(super) fn node(self, lanes: &[Range<u32>]) -> Option<Node> {
        match self {
            Self::Lanes(tree) => cover(tree, lanes).first().copied(),
            Self::Rank { leaf, .. } => Some(leaf),
        }
    }

    /// What is handed over of a dense segment, of which an earlier try has left `kept`.
    pub(super) fn dense<O: Ops>(
        self,
        ops: &O,
        mut sums: Vec<(Node, O::Buffer)>,
        kept: Vec<(Node, O::Buffer)>,
    ) -> Result<Vec<(Node, O::Buffer)>, DeviceError> {
        sums.extend(kept);
        let Self::Rank { leaf, .. } = self else { return Ok(sums) };
        let mut total: Option<O::Buffer> = None;
        for (_, sum) in sums {
            match &mut total {
                None => total = Some(sum),
                Some(buffer) => {
                    let range = 0..ops.room(buffer);
                    let from = Slice { buffer: &sum, range: range.clone() };
                    ops.add(SliceMut { buffer, range }, from)?;
                }
            }
        }
        Ok(total.map(|total| (leaf, total)).into_iter().collect())
    }

    /// The same of the rows of the word embedding, of `width` elements.
    pub(super) fn words<O: Ops>(
        self,
        ops: &O,
        mut sums: RowSums<O::Buffer>,
        kept: RowSums<O::Buffer>,
        width: usize,
    ) -> Result<RowSums<O::Buffer>, DeviceError> {
        sums.extend(kept);
        let Self::Rank { leaf, .. } = self else { return Ok(sums) };
        let mut total: Option<SparseRows<O::Buffer>> = None;
        for (_, sum) in sums {
            total = Some(match total {
                None => sum,
                Some(total) => ops.add_rows(total, sum, width)?,
            });
        }
        Ok(total.map(|total| (leaf, total)).into_iter().collect())
    }
}
