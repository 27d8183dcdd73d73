//! Gradients summed over a rank's lanes, in the order of the lane tree.
//!
//! Each tensor's gradient is computed lane by lane and added up the tree at once; no more than one partial sum for each level
//! of the tree exists at a time. Lanes without rows take no part.

use std::ops::Range;

use medley_common::lane::{LaneTree, Node};

use super::Pass;
use crate::batch::{Batch, LaneSpan};
use crate::collective::{SparseRows, cover};
use crate::layout::Segment;
use crate::ops::buffer_pool::BufferPool;
use crate::ops::head::LaneLosses;
use crate::ops::linear::{ColumnSum, LinearGradients, LinearWeightGradient};
use crate::ops::sum_order::{SumLeaf, SumOrder};
use crate::ops::{DeviceError, Ops, SliceMut};

/// Rows of the word embedding's gradient, summed below each node.
pub type RowSums<B> = Vec<(Node, SparseRows<B>)>;

/// A rank's share of the lane tree.
#[derive(Debug, Clone)]
pub struct LaneShare {
    tree: LaneTree,
    cover: Vec<Node>,
    /// The lanes, in the order of the batch.
    lanes: Vec<u32>,
    /// Where the tree's leaves are ranks: how many lanes the update has.
    of_rank: Option<u32>,
}

impl LaneShare {
    /// The share of a rank that computes these runs of the lanes of `tree`, in a batch that has just these lanes.
    #[must_use]
    pub fn new(tree: LaneTree, lanes: &[Range<u32>]) -> Self {
        Self { tree, cover: cover(tree, lanes), lanes: lanes.iter().cloned().flatten().collect(), of_rank: None }
    }

    /// The share of a rank that sums all its lanes at once, those of an update that has `lanes` of them: `leaf` of the
    /// `tree` of ranks.
    #[must_use]
    pub fn of_rank(tree: LaneTree, leaf: Node, lanes: u32) -> Self {
        Self { of_rank: Some(lanes), ..Self::new(tree, std::slice::from_ref(&tree.range(leaf))) }
    }

    /// Lanes of the update, of each of which the losses are reported.
    #[must_use]
    pub fn reported_lanes(&self) -> u32 {
        self.of_rank.unwrap_or(self.tree.lanes())
    }

    /// The lanes of which the losses are summed below `node`.
    fn reported_below(&self, node: Node) -> Range<u32> {
        self.of_rank.map_or_else(|| self.tree.range(node), |lanes| 0..lanes)
    }

    /// The share's lanes, in the order of the batch.
    #[must_use]
    pub fn lanes(&self) -> &[u32] {
        &self.lanes
    }

    /// The place of a lane's node in the batch: all nodes asked for lie within the share.
    fn place(&self, lane: Node) -> usize {
        let lane = self.tree.range(lane).start;
        self.lanes.partition_point(|known| *known < lane)
    }

    /// Whether any lane below `node` has rows.
    fn is_present(&self, batch: &Batch, node: Node) -> bool {
        let lanes = self.tree.range(node);
        let places = |lane| self.lanes.partition_point(|known| *known < lane);
        let places = places(lanes.start)..places(lanes.end);
        batch.lanes.get(places).is_some_and(|spans| spans.iter().any(|span| !span.is_empty()))
    }

    /// The nodes of the share that have rows below them, in lane order.
    fn present<'s>(&'s self, batch: &'s Batch) -> impl Iterator<Item = Node> + 's {
        self.cover.iter().copied().filter(|node| self.is_present(batch, *node))
    }

    /// The order in which the lanes below `node` that have rows are summed; there is one at least. Leaves are places in the
    /// batch.
    fn order(&self, batch: &Batch, node: Node) -> SumOrder {
        let Some((left, right)) = self.tree.children(node) else {
            return SumOrder::leaf(self.place(node));
        };
        let right = right.filter(|right| self.is_present(batch, *right));
        match (self.is_present(batch, left), right) {
            (false, Some(right)) => self.order(batch, right),
            (_, None) => self.order(batch, left),
            (true, Some(right)) => self.order(batch, left).plus(self.order(batch, right)),
        }
    }

    /// The rows of the word embedding's gradient, summed below each node.
    ///
    /// # Errors
    /// What `leaf` returns for a lane, or the device failed.
    pub fn sum_rows<O: Ops>(
        &self,
        ops: &O,
        batch: &Batch,
        width: usize,
        mut leaf: impl FnMut(&LaneSpan) -> Result<SparseRows<O::Buffer>, DeviceError>,
    ) -> Result<RowSums<O::Buffer>, DeviceError> {
        let nodes: Vec<Node> = self.present(batch).collect();
        let mut add = |left, right| ops.add_rows(left, right, width);
        nodes.into_iter().map(|node| Ok((node, self.rows_below(batch, node, &mut leaf, &mut add)?))).collect()
    }

    fn rows_below<B: Default>(
        &self,
        batch: &Batch,
        node: Node,
        leaf: &mut impl FnMut(&LaneSpan) -> Result<SparseRows<B>, DeviceError>,
        add: &mut impl FnMut(SparseRows<B>, SparseRows<B>) -> Result<SparseRows<B>, DeviceError>,
    ) -> Result<SparseRows<B>, DeviceError> {
        let Some((left, right)) = self.tree.children(node) else {
            return leaf(&batch.lanes[self.place(node)]);
        };
        match (self.is_present(batch, left), right.filter(|right| self.is_present(batch, *right))) {
            (true, None) => self.rows_below(batch, left, leaf, add),
            (false, Some(right)) => self.rows_below(batch, right, leaf, add),
            (true, Some(right)) => {
                let left = self.rows_below(batch, left, leaf, add)?;
                let right = self.rows_below(batch, right, leaf, add)?;
                add(left, right)
            }
            (false, None) => Ok(SparseRows::default()),
        }
    }
}

/// The sums of one segment: a buffer for each node of a rank's share.
pub struct SegmentSums<'a, O: Ops> {
    pass: &'a Pass<'a, O>,
    share: &'a LaneShare,
    pool: &'a mut BufferPool<O>,
    nodes: Vec<(Node, SumOrder, O::Buffer)>,
}

/// A gradient with one row for each token of a batch, or for each of its blocks.
pub struct Rows<'a, O: Ops> {
    /// The batch: all tokens of the pass, or the first tokens alone.
    pub pack: &'a O::Pack,
    /// The rows.
    pub gradient: &'a O::Buffer,
}

/// What a linear layer's gradients are made of.
pub struct LinearRows<'a, O: Ops> {
    /// The gradient of its output, of as many columns as it has outputs.
    pub dy: Rows<'a, O>,
    /// Its sums by block, where an operation has left them.
    pub partials: Option<&'a O::Buffer>,
    /// Its input.
    pub x: &'a O::Buffer,
    /// Columns of its input.
    pub inputs: usize,
}

impl<'a, O: Ops> SegmentSums<'a, O> {
    /// Sums for a segment of so many elements, all of which must then be written.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn new(
        pass: &'a Pass<'a, O>,
        share: &'a LaneShare,
        pool: &'a mut BufferPool<O>,
        (segment, length): (Segment, usize),
    ) -> Result<Self, DeviceError> {
        let batch = pass.pack.as_ref();
        let sum = |node| Ok((node, share.order(batch, node), pool.take(pass.ops, (Some(segment), length))?));
        let nodes = share.present(batch).map(sum).collect::<Result<_, _>>()?;
        Ok(Self { pass, share, pool, nodes })
    }

    /// The gradient of a weight matrix at `range` of the segment: `dyᵀ x` over tokens, `x` of `inputs` columns.
    ///
    /// # Errors
    /// The device failed; so for all that follow.
    pub fn weight(
        &mut self,
        range: Range<usize>,
        dy: Rows<'_, O>,
        x: &O::Buffer,
        inputs: usize,
    ) -> Result<(), DeviceError> {
        let Self { pass, pool, nodes, .. } = self;
        nodes.iter_mut().try_for_each(|(_, order, buffer)| {
            let (lanes, dy) = (&dy.pack.as_ref().lanes, dy.gradient);
            let dweight = SliceMut { buffer, range: range.clone() };
            pass.ops.linear_weight_gradient(LinearWeightGradient { lanes, order, dy, x, inputs, dweight, pool })
        })
    }

    /// The gradients of a linear layer's weight and bias, at these ranges: in one operation for each lane that is a node of
    /// its own, and one tensor after the other where several are added up the tree.
    ///
    /// # Errors
    /// The device failed.
    pub fn linear(&mut self, [weight, bias]: [Range<usize>; 2], rows: LinearRows<'_, O>) -> Result<(), DeviceError> {
        let LinearRows { dy: Rows { pack, gradient: dy }, partials, x, inputs } = rows;
        if self.nodes.iter().any(|(_, order, _)| order.steps().len() > 1) {
            match partials {
                Some(gradient) => self.blocks(bias, Rows { pack, gradient })?,
                None => self.bias(bias, Rows { pack, gradient: dy })?,
            }
            return self.weight(weight, Rows { pack, gradient: dy }, x, inputs);
        }
        let Self { pass, pool, nodes, .. } = self;
        nodes.iter_mut().try_for_each(|(_, order, gradients)| {
            order.leaves().try_for_each(|leaf| {
                pass.ops.linear_gradients(LinearGradients {
                    lane: &pack.as_ref().lanes[leaf],
                    dy,
                    x,
                    inputs,
                    partials,
                    gradients,
                    dweight: weight.clone(),
                    dbias: bias.clone(),
                    pool,
                })
            })
        })
    }

    /// The gradient of a bias: the sum of `dy` over tokens.
    ///
    /// # Errors
    /// The device failed.
    fn bias(&mut self, range: Range<usize>, dy: Rows<'_, O>) -> Result<(), DeviceError> {
        let (ops, lanes, x) = (self.pass.ops, &dy.pack.as_ref().lanes, dy.gradient);
        self.sum(range, &mut |lane, sum| ops.column_sum(ColumnSum { rows: lanes[lane].tokens.clone(), x, sum }))
    }

    /// Gradients that an operation has left as one row for each block of tokens.
    ///
    /// # Errors
    /// The device failed.
    pub fn blocks(&mut self, range: Range<usize>, partials: Rows<'_, O>) -> Result<(), DeviceError> {
        let (ops, lanes, x) = (self.pass.ops, &partials.pack.as_ref().lanes, partials.gradient);
        self.sum(range, &mut |lane, sum| ops.column_sum(ColumnSum { rows: lanes[lane].blocks.clone(), x, sum }))
    }

    /// The losses of the sequences, each of which is its lane's alone: what is summed are the reports of lanes.
    ///
    /// # Errors
    /// The device failed.
    pub fn losses(&mut self, losses: Rows<'_, O>) -> Result<(), DeviceError> {
        let (ops, share) = (self.pass.ops, self.share);
        let Rows { pack, gradient: losses } = losses;
        self.nodes.iter_mut().try_for_each(|(node, _, buffer)| {
            let sums = SliceMut { buffer, range: 0..share.reported_lanes() as usize };
            ops.lane_losses(LaneLosses { pack, lanes: share.reported_below(*node), losses, sums })
        })
    }

    /// Gradients that `leaf` computes for one lane.
    ///
    /// # Errors
    /// What `leaf` returns, or the device failed.
    pub fn sum(&mut self, range: Range<usize>, leaf: &mut SumLeaf<'_, O::Buffer>) -> Result<(), DeviceError> {
        let Self { pass, pool, nodes, .. } = self;
        nodes.iter_mut().try_for_each(|(_, order, buffer)| {
            order.run(pass.ops, pool, SliceMut { buffer, range: range.clone() }, leaf)
        })
    }

    /// Where the sums are written to.
    #[must_use]
    pub fn places(&self) -> Vec<u64> {
        self.nodes.iter().map(|(.., sum)| self.pass.ops.place(sum)).collect()
    }

    /// The sums.
    #[must_use]
    pub fn into_nodes(self) -> Vec<(Node, O::Buffer)> {
        self.nodes.into_iter().map(|(node, _, sum)| (node, sum)).collect()
    }
}
