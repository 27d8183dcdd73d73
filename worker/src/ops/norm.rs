//! Layer normalisation after a residual connection (the post-norm of BERT).

use super::dropout::Dropout;
use super::{Ops, Slice};

/// The parameters of a layer norm.
pub struct Norm<'a, O: Ops + ?Sized> {
    /// Weight, `[H]`.
    pub gamma: Slice<'a, O::Buffer>,
    /// Bias, `[H]`.
    pub beta: Slice<'a, O::Buffer>,
    /// Added to the variance.
    pub epsilon: f64,
}

/// `z = dropout(z + bias) + residual`, `y = layer_norm(z)`.
///
/// `layer_norm(z) = (z - mean) / sqrt(variance + epsilon) * gamma + beta` over each token's `H` elements. An element's
/// number in its dropout mask is `position * H + column`.
pub struct ResidualNorm<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// Dropout of the dense layer's output.
    pub dropout: Option<Dropout>,
    /// Bias of the dense layer, `[H]`.
    pub bias: Slice<'a, O::Buffer>,
    /// `[T, H]`.
    pub residual: &'a O::Buffer,
    /// The layer norm.
    pub norm: Norm<'a, O>,
    /// `[T, H]`: the dense layer's output without its bias; becomes the layer norm's input.
    pub z: &'a mut O::Buffer,
    /// `[T, 2]`: each token's mean and reciprocal standard deviation.
    pub stats: &'a mut O::Buffer,
    /// `[T, H]`.
    pub y: &'a mut O::Buffer,
}

/// The gradient of [`ResidualNorm`].
///
/// With `x = (z - mean) / deviation` and `g = dy gamma`: `dz = (g - mean(g) - x mean(g x)) / deviation`, which is the
/// gradient of the residual as well; `du = dropout(dz)` is that of the dense layer's output.
pub struct ResidualNormBackward<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// Dropout, as in the forward pass.
    pub dropout: Option<Dropout>,
    /// `[T, H]`.
    pub dy: &'a O::Buffer,
    /// `[T, H]`, as the forward pass wrote it.
    pub z: &'a O::Buffer,
    /// `[T, 2]`, as the forward pass wrote it.
    pub stats: &'a O::Buffer,
    /// Weight of the layer norm, `[H]`.
    pub gamma: Slice<'a, O::Buffer>,
    /// `[T, H]`.
    pub dz: &'a mut O::Buffer,
    /// `[T, H]`.
    pub du: &'a mut O::Buffer,
    /// `[B, 3 H]`: each block's sums for `bias`, `gamma` and `beta`.
    pub partials: &'a mut O::Buffer,
}
