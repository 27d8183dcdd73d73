//! The embedding of words, positions and token types.

use super::dropout::Dropout;
use super::norm::Norm;
use super::{Ops, Slice, SliceMut};
use crate::batch::LaneSpan;

/// `z = words[token] + positions[position] + types[segment]`, `y = dropout(layer_norm(z))`.
///
/// An element's number in its dropout mask is `position * H + column`.
pub struct Embedding<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// Dropout of the layer norm's output.
    pub dropout: Option<Dropout>,
    /// `[words, H]`.
    pub words: Slice<'a, O::Buffer>,
    /// `[positions, H]`.
    pub positions: Slice<'a, O::Buffer>,
    /// `[types, H]`.
    pub types: Slice<'a, O::Buffer>,
    /// The layer norm.
    pub norm: Norm<'a, O>,
    /// `[T, H]`.
    pub z: &'a mut O::Buffer,
    /// `[T, 2]`: each token's mean and reciprocal standard deviation.
    pub stats: &'a mut O::Buffer,
    /// `[T, H]`.
    pub y: &'a mut O::Buffer,
}

/// The gradient of [`Embedding`] with respect to `z` and the small parameters.
pub struct EmbeddingBackward<'a, O: Ops + ?Sized> {
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
    /// Rows of the token-type embedding.
    pub types: usize,
    /// `[T, H]`.
    pub dz: &'a mut O::Buffer,
    /// `[B, (types + 2) H]`: each block's sums for `types`, `gamma` and `beta`.
    pub partials: &'a mut O::Buffer,
}

/// The gradient of the position embedding over the tokens of one lane: `dpositions[position] = Σ dz`.
pub struct PositionGradient<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// The lane.
    pub lane: &'a LaneSpan,
    /// Columns of `dz`: `H`.
    pub hidden: usize,
    /// `[T, H]`.
    pub dz: &'a O::Buffer,
    /// `[positions, H]`.
    pub dpositions: SliceMut<'a, O::Buffer>,
}

/// The gradient of the word embedding over the tokens of one lane: for each word that occurs, `Σ dz` of its tokens in
/// their order.
pub struct WordGradient<'a, O: Ops + ?Sized> {
    /// The tokens.
    pub pack: &'a O::Pack,
    /// The lane.
    pub lane: &'a LaneSpan,
    /// Columns of `dz`: `H`.
    pub hidden: usize,
    /// `[T, H]`.
    pub dz: &'a O::Buffer,
}
