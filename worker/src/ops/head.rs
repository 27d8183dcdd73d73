//! The classification head: what is done to each sequence's first token.

use std::ops::Range;

use super::dropout::Dropout;
use super::{Ops, SliceMut};

/// `y[sequence] = x[first token of sequence]`.
pub struct FirstTokens<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// Columns: `H`.
    pub hidden: usize,
    /// `[T, H]`.
    pub x: &'a O::Buffer,
    /// `[S, H]`.
    pub y: &'a mut O::Buffer,
}

/// The gradient of [`FirstTokens`]: `dx[first token of sequence] += dy[sequence]`.
pub struct FirstTokensBackward<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// Columns: `H`.
    pub hidden: usize,
    /// `[S, H]`.
    pub dy: &'a O::Buffer,
    /// `[T, H]`.
    pub dx: &'a mut O::Buffer,
}

/// `x = tanh(x)`, `y = dropout(x)`.
///
/// An element's number in its dropout mask is its column.
pub struct TanhDropout<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// Columns: `H`.
    pub hidden: usize,
    /// Dropout of the pooled output.
    pub dropout: Option<Dropout>,
    /// `[S, H]`.
    pub x: &'a mut O::Buffer,
    /// `[S, H]`.
    pub y: &'a mut O::Buffer,
}

/// The gradient of [`TanhDropout`]: `dx = dropout(dy) (1 - x²)`.
pub struct TanhDropoutBackward<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// Columns: `H`.
    pub hidden: usize,
    /// Dropout, as in the forward pass.
    pub dropout: Option<Dropout>,
    /// `[S, H]`, as the forward pass wrote it.
    pub x: &'a O::Buffer,
    /// `[S, H]`: `dy`; becomes `dx`.
    pub gradient: &'a mut O::Buffer,
}

/// `y = dropout(x)`, and as well its gradient: `dx = dropout(dy)`.
///
/// An element's number in its dropout mask is its column.
pub struct HeadDropout<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// Columns: `H`.
    pub hidden: usize,
    /// The dropout.
    pub dropout: Dropout,
    /// `[S, H]`.
    pub x: &'a O::Buffer,
    /// `[S, H]`.
    pub y: &'a mut O::Buffer,
}

/// Cross-entropy of each sequence's label, and its gradient; sums over sequences are not divided.
///
/// `p = softmax(logits)`, `q = w ((1 - smoothing) onehot(label) + smoothing / labels)` with the class's weight `w`,
/// `loss = -Σ q ln p`, `dlogits = (p Σ q - q) gradient_scale`: `torch.nn.CrossEntropyLoss` with `weight` and
/// `label_smoothing`. Without weights, `w` is 1, and so is `Σ q`.
pub struct CrossEntropy<'a, O: Ops + ?Sized> {
    /// The sequences; one without a label has no loss and no gradient.
    pub pack: &'a O::Pack,
    /// Columns of the logits.
    pub labels: usize,
    /// Probability mass spread evenly over all labels.
    pub smoothing: f64,
    /// The weight of each class, `[labels]`; empty: none.
    pub class_weights: &'a [f64],
    /// What gradients are multiplied by from here on.
    pub gradient_scale: f64,
    /// `[S, labels]`.
    pub logits: &'a O::Buffer,
    /// `[S, labels]`.
    pub dlogits: &'a mut O::Buffer,
    /// `[S]`.
    pub losses: &'a mut O::Buffer,
}

/// The losses of each lane: `sums[lane] = Σ losses[sequence]` over the sequences of which the lane is reported, in their
/// order, added in `f64` and rounded once; 0 for lanes outside of `lanes`.
pub struct LaneLosses<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// The lanes that are summed.
    pub lanes: Range<u32>,
    /// `[S]`.
    pub losses: &'a O::Buffer,
    /// `[lanes of the update]`; all of it is written.
    pub sums: SliceMut<'a, O::Buffer>,
}
