//! Products with weight matrices, and sums over rows.

use std::ops::Range;

use super::{DeviceError, Ops, Slice, SliceMut};

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

/// `dweight = dyᵀ x` over some rows: those of one lane.
pub struct LinearWeightGradient<'a, O: Ops + ?Sized> {
    /// The rows.
    pub rows: Range<usize>,
    /// `[.., outputs]`.
    pub dy: &'a O::Buffer,
    /// `[.., inputs]`.
    pub x: &'a O::Buffer,
    /// Columns of `x`.
    pub inputs: usize,
    /// `[outputs, inputs]`.
    pub dweight: SliceMut<'a, O::Buffer>,
}

/// `dweight = dyᵀ x` and `dbias = Σ dy[row]` over some rows: those of one lane. Both lie in one buffer.
pub struct LinearGradients<'a, O: Ops + ?Sized> {
    /// The rows.
    pub rows: Range<usize>,
    /// `[.., outputs]`.
    pub dy: &'a O::Buffer,
    /// `[.., inputs]`.
    pub x: &'a O::Buffer,
    /// Columns of `x`.
    pub inputs: usize,
    /// Rows of another buffer, `[.., outputs]`, whose sum is `dbias` as well: what an operation has left by block. A device
    /// takes what is the least work.
    pub partials: Option<(&'a O::Buffer, Range<usize>)>,
    /// Where the gradients lie.
    pub gradients: &'a mut O::Buffer,
    /// `[outputs, inputs]`.
    pub dweight: Range<usize>,
    /// `[outputs]`.
    pub dbias: Range<usize>,
}

impl<O: Ops + ?Sized> LinearGradients<'_, O> {
    /// Computes one after the other, each by an operation of its own.
    ///
    /// # Errors
    /// The device failed.
    pub fn apart(self, ops: &O) -> Result<(), DeviceError> {
        let Self { rows, dy, x, inputs, partials, gradients, dweight, dbias } = self;
        let (summed, of) = partials.unwrap_or((dy, rows.clone()));
        ops.column_sum(ColumnSum { rows: of, x: summed, sum: SliceMut { buffer: gradients, range: dbias } })?;
        let dweight = SliceMut { buffer: gradients, range: dweight };
        ops.linear_weight_gradient(LinearWeightGradient { rows, dy, x, inputs, dweight })
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
