//! Scaled dot-product attention within each sequence and head.

use super::Ops;
use super::dropout::Dropout;

/// How the hidden width is cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of each; `H = heads * head_size`.
    pub head_size: usize,
}

impl HeadShape {
    /// Width of all heads.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.heads * self.head_size
    }
}

/// For every sequence and head: `P = softmax(Q Kᵀ / sqrt(head_size))`, `context = dropout(P) V`.
///
/// Element `(i, j)` of `P` in a sequence of `n` tokens has the number `(head * n + i) * n + j` in its dropout mask.
pub struct Attention<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// The heads.
    pub shape: HeadShape,
    /// Dropout of `P`.
    pub dropout: Option<Dropout>,
    /// `[T, 3 H]`: a token's queries, keys and values, biases added.
    pub qkv: &'a O::Buffer,
    /// `[T, H]`.
    pub context: &'a mut O::Buffer,
    /// `[T, heads, 2]`, sequence by sequence and therein head by head: each softmax's maximum and reciprocal sum, from
    /// which backward computes `P` again (to keep it would take memory quadratic in the length).
    pub stats: &'a mut O::Buffer,
}

/// The gradient of [`Attention`].
///
/// `dV = dropout(P)ᵀ dcontext`, `dP = dropout(dcontext Vᵀ)`, `dS = P (dP - Σ_j P dP)`, `dQ = dS K / sqrt(head_size)`,
/// `dK = dSᵀ Q / sqrt(head_size)`.
pub struct AttentionBackward<'a, O: Ops + ?Sized> {
    /// The sequences.
    pub pack: &'a O::Pack,
    /// The heads.
    pub shape: HeadShape,
    /// Dropout of `P`, as in the forward pass.
    pub dropout: Option<Dropout>,
    /// `[T, 3 H]`, as in the forward pass.
    pub qkv: &'a O::Buffer,
    /// As the forward pass wrote it.
    pub stats: &'a O::Buffer,
    /// `[T, H]`.
    pub dcontext: &'a O::Buffer,
    /// `[T, 3 H]`.
    pub dqkv: &'a mut O::Buffer,
}
