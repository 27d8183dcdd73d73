//! The Gaussian error linear unit in its exact form (Hendrycks and Gimpel, 2016).

use super::{Ops, Slice};

/// `a = gelu(u + bias)`, `gelu(x) = x Φ(x) = x (1 + erf(x / sqrt(2))) / 2`.
pub struct BiasGelu<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// `[T, I]`: the dense layer's output without its bias.
    pub u: &'a O::Buffer,
    /// `[I]`.
    pub bias: Slice<'a, O::Buffer>,
    /// `[T, I]`.
    pub a: &'a mut O::Buffer,
}

/// `du = da gelu'(u + bias)`, `gelu'(x) = Φ(x) + x φ(x)`.
pub struct BiasGeluBackward<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// `[T, I]`, as in the forward pass.
    pub u: &'a O::Buffer,
    /// `[I]`.
    pub bias: Slice<'a, O::Buffer>,
    /// `[T, I]`: `da`; becomes `du`.
    pub gradient: &'a mut O::Buffer,
    /// `[B, I]`: each block's sums for `bias`.
    pub partials: &'a mut O::Buffer,
}
