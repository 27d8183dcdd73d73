//! Products with weight matrices, and sums over rows.

use std::ops::Range;

use super::buffer_pool::BufferPool;
use super::sum_order::SumOrder;
use super::{DeviceError, Ops, Slice, SliceMut};
use crate::batch::LaneSpan;

/// The sizes of a linear layer's product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of `x` and `y`.
    pub rows: usize,
    /// Columns of `x`.
    pub inputs: usize,
    /// Columns of `y`.
    pub outputs: usize,
}

/// `y = x weightᵀ + bias`.
pub struct Linear<'a, O: Ops + ?Sized> {
    /// The sizes.
    pub shape: LinearShape,
    /// `[rows, inputs]`.
    pub x: &'a O::Buffer,
    /// `[outputs, inputs]`.
    pub weight: Slice<'a, O::Buffer>,
    /// `[outputs]`; without one, the operation that follows adds it.
    pub bias: Option<Slice<'a, O::Buffer>>,
    /// `[rows, outputs]`.
    pub y: &'a mut O::Buffer,
}

/// Whether a result replaces what is there or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Replaces it.
    Set,
    /// Is added to it.
    Add,
}

/// `dx = dy weight`, or `dx += dy weight`.
pub struct LinearInputGradient<'a, O: Ops + ?Sized> {
    /// The sizes.
    pub shape: LinearShape,
    /// `[rows, outputs]`.
    pub dy: &'a O::Buffer,
    /// `[outputs, inputs]`.
    pub weight: Slice<'a, O::Buffer>,
    /// `[rows, inputs]`.
    pub dx: &'a mut O::Buffer,
    /// How `dx` is written.
    pub write: Write,
}

/// `dx += Σ dy[layer] weight[layer]` over linear layers of one input, whose outputs stand side by side in rows of `dy`, and
/// whose weights one below the other. A device adds one layer's after the other's, or sums over all of them at once.
pub struct SharedInputGradient<'a, O: Ops + ?Sized> {
    /// The sizes; outputs are those of all layers.
    pub shape: LinearShape,
    /// The outputs of the first layer of two; the others are the second's.
    pub first: usize,
    /// `[rows, outputs]`.
    pub dy: &'a O::Buffer,
    /// `[outputs, inputs]`.
    pub weight: Slice<'a, O::Buffer>,
    /// `[rows, inputs]`.
    pub dx: &'a mut O::Buffer,
}

/// `dweight = Σ dyᵀ x` over lanes: each over the lane's rows by itself, then added up in the order of the lane tree.
pub struct LinearWeightGradient<'a, O: Ops + ?Sized> {
    /// The lanes' rows: their tokens.
    pub lanes: &'a [LaneSpan],
    /// Which of them are summed, in which order.
    pub order: &'a SumOrder,
    /// `[.., outputs]`.
    pub dy: &'a O::Buffer,
    /// `[.., inputs]`.
    pub x: &'a O::Buffer,
    /// Columns of `x`.
    pub inputs: usize,
    /// `[outputs, inputs]`.
    pub dweight: SliceMut<'a, O::Buffer>,
    /// For partial sums, where the device keeps them in buffers.
    pub pool: &'a mut BufferPool<O>,
}

/// `dweight = dyᵀ x` and `dbias = Σ dy[row]` over the rows of one lane. Both lie in one buffer.
pub struct LinearGradients<'a, O: Ops + ?Sized> {
    /// The rows: the lane's tokens.
    pub lane: &'a LaneSpan,
    /// `[.., outputs]`.
    pub dy: &'a O::Buffer,
    /// `[.., inputs]`.
    pub x: &'a O::Buffer,
    /// Columns of `x`.
    pub inputs: usize,
    /// `[.., outputs]`, a row for each of the lane's blocks, whose sum is `dbias` as well: what an operation has left by block.
    /// A device takes what is the least work.
    pub partials: Option<&'a O::Buffer>,
    /// Where the gradients lie.
    pub gradients: &'a mut O::Buffer,
    /// `[outputs, inputs]`.
    pub dweight: Range<usize>,
    /// `[outputs]`.
    pub dbias: Range<usize>,
    /// For partial sums, of which one lane has none.
    pub pool: &'a mut BufferPool<O>,
}

impl<O: Ops + ?Sized> LinearGradients<'_, O> {
    /// Computes one after the other, each by an operation of its own.
    ///
    /// # Errors
    /// The device failed.
    pub fn apart(self, ops: &O) -> Result<(), DeviceError> {
        let Self { lane, dy, x, inputs, partials, gradients, dweight, dbias, pool } = self;
        let (x_of_sum, rows) = partials.map_or((dy, &lane.tokens), |sums| (sums, &lane.blocks));
        let sum = SliceMut { buffer: gradients, range: dbias };
        ops.column_sum(ColumnSum { rows: rows.clone(), x: x_of_sum, sum })?;
        let (lanes, order) = (std::slice::from_ref(lane), &SumOrder::leaf(0));
        let dweight = SliceMut { buffer: gradients, range: dweight };
        ops.linear_weight_gradient(LinearWeightGradient { lanes, order, dy, x, inputs, dweight, pool })
    }
}

/// `sum = Σ x[row]` over some rows, added in their order: a bias's gradient, or the sum of a lane's blocks.
pub struct ColumnSum<'a, O: Ops + ?Sized> {
    /// The rows.
    pub rows: Range<usize>,
    /// `[.., width]`, where `width` is the length of `sum`.
    pub x: &'a O::Buffer,
    /// `[width]`.
    pub sum: SliceMut<'a, O::Buffer>,
}
