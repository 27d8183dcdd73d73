//! Scaled dot-product attention within each sequence and head.
//!
//! A sequence's queries are those of its first tokens: of all, or of as many as the queries' batch has. `Q` is the number
//! of queries of all sequences.

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
/// `P`'s element for query `i` and key `j` of `n` keys has the number `(head * n + i) * n + j` in its dropout mask.
pub struct Attention<'a, O: Ops + ?Sized> {
    /// The sequences' tokens that ask.
    pub queries: &'a O::Pack,
    /// All tokens of the sequences.
    pub keys: &'a O::Pack,
    /// The heads.
    pub shape: HeadShape,
    /// Dropout of `P`.
    pub dropout: Option<Dropout>,
    /// `[Q, H]`: queries, biases added.
    pub q: &'a O::Buffer,
    /// `[T, 2 H]`: a token's keys and values, biases added.
    pub kv: &'a O::Buffer,
    /// `[Q, H]`.
    pub context: &'a mut O::Buffer,
    /// `[Q, heads, 2]`, sequence by sequence and therein head by head: each softmax's maximum and reciprocal sum, from
    /// which backward computes `P` again (to keep it would take memory quadratic in the length).
    pub stats: &'a mut O::Buffer,
}

/// The gradient of [`Attention`].
///
/// `dV = dropout(P)ᵀ dcontext`, `dP = dropout(dcontext Vᵀ)`, `dS = P (dP - Σ_j P dP)`, `dQ = dS K / sqrt(head_size)`,
/// `dK = dSᵀ Q / sqrt(head_size)`.
pub struct AttentionBackward<'a, O: Ops + ?Sized> {
    /// The sequences' tokens that ask.
    pub queries: &'a O::Pack,
    /// All tokens of the sequences.
    pub keys: &'a O::Pack,
    /// The heads.
    pub shape: HeadShape,
    /// Dropout of `P`, as in the forward pass.
    pub dropout: Option<Dropout>,
    /// `[Q, H]`, as in the forward pass.
    pub q: &'a O::Buffer,
    /// `[T, 2 H]`, as in the forward pass.
    pub kv: &'a O::Buffer,
    /// `[Q, H]`, as the forward pass wrote it: `Σ_j P dP` is `context · dcontext`.
    pub context: &'a O::Buffer,
    /// As the forward pass wrote it.
    pub stats: &'a O::Buffer,
    /// `[Q, H]`.
    pub dcontext: &'a O::Buffer,
    /// `[Q, H]`.
    pub dq: &'a mut O::Buffer,
    /// `[T, 2 H]`.
    pub dkv: &'a mut O::Buffer,
}
