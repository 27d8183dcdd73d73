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

/// Queries, keys and values, biases added, or something of each of them.
#[derive(Debug, Clone, Copy)]
pub enum QueryKeyValue<T> {
    /// `[T, 3 H]`: a token's query, key and value side by side, where all tokens ask.
    Together(T),
    /// Each with rows of its own.
    Apart {
        /// `[Q, H]`.
        q: T,
        /// `[T, 2 H]`: a token's key and value.
        kv: T,
    },
}

/// Some columns of rows: all from one on.
#[derive(Debug, Clone, Copy)]
pub struct Columns<T> {
    /// The rows.
    pub rows: T,
    /// The first column.
    pub first: usize,
    /// Columns of a row, those before the first counted.
    pub width: usize,
}

impl<T> Columns<T> {
    /// The same columns of what `other` makes of the rows.
    pub fn map<U>(self, other: impl FnOnce(T) -> U) -> Columns<U> {
        Columns { rows: other(self.rows), first: self.first, width: self.width }
    }
}

impl<T> QueryKeyValue<T> {
    /// The columns that queries begin with, and those that keys and values begin with, of what `rows` makes of rows so wide.
    pub fn columns<U: Copy>(self, hidden: usize, mut rows: impl FnMut(T, usize) -> U) -> [Columns<U>; 2] {
        match self {
            Self::Together(all) => {
                let width = 3 * hidden;
                let rows = rows(all, width);
                [Columns { rows, first: 0, width }, Columns { rows, first: hidden, width }]
            }
            Self::Apart { q, kv } => [(q, hidden), (kv, 2 * hidden)].map(|(values, width)| Columns {
                rows: rows(values, width),
                first: 0,
                width,
            }),
        }
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
    /// Queries, keys and values.
    pub qkv: QueryKeyValue<&'a O::Buffer>,
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
    /// Queries, keys and values, as in the forward pass, and where their gradients go.
    pub qkv: QueryKeyValue<(&'a O::Buffer, &'a mut O::Buffer)>,
    /// `[Q, H]`, as the forward pass wrote it: `Σ_j P dP` is `context · dcontext`.
    pub context: &'a O::Buffer,
    /// As the forward pass wrote it.
    pub stats: &'a O::Buffer,
    /// `[Q, H]`.
    pub dcontext: &'a O::Buffer,
}
