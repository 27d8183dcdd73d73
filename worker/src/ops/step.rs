//! What the steps of all optimizers have in common: the elements that they move, and those elements' gradients.

use std::ops::Range;

use super::{Ops, Slice};

/// Neighbouring elements that decay alike.
pub struct StepRun<'a, O: Ops + ?Sized> {
    /// Their places among the parameters of the step, and in the buffers of what is remembered of those.
    pub range: Range<usize>,
    /// Whether they decay; those that do not have the coefficients without decay.
    pub decays: bool,
    /// Their gradient, as summed.
    pub gradient: Slice<'a, O::Buffer>,
}

/// The gradient of a matrix of which only some rows have one; that of the others is 0, and they move all the same.
pub struct RowGradients<'a, O: Ops + ?Sized> {
    /// Columns.
    pub width: usize,
    /// The rows that have a gradient, ascending.
    pub rows: &'a [u32],
    /// Their gradients, as summed, `[rows, width]`.
    pub values: Slice<'a, O::Buffer>,
}
