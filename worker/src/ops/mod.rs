//! The fused operations that a BERT classifier is made of: what a device has to offer.
//!
//! [`Ops`] stands between what is computed (`model/`, without a loop over elements) and how (`cpu/`). Each operation
//! takes one structure, documented with its formula in the file named after it.
//!
//! * Buffers are flat `f32`, matrices in them row-major. A buffer may be longer than what it holds. `dy` is the gradient
//!   of the loss with respect to `y`. `T` tokens, `S` sequences, `H` hidden, `I` intermediate, `B` blocks of tokens.
//! * Bits: a row of an output depends on its own sequence alone, and a sum over rows on its own lane alone: never on the
//!   other rows of the pass nor on the number of threads.
//! * Operations are enqueued in the order called; only [`Ops::read`], [`Ops::download`], [`Ops::word_gradient`] and
//!   [`Ops::square_sum`] wait for a result.

use std::ops::Range;

use crate::batch::Batch;
use crate::collective::SparseRows;

pub mod adamw;
pub mod attention;
pub mod cpu;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod head;
pub mod linear;
pub mod norm;

use adamw::{AdamW, AdamWRows};
use attention::{Attention, AttentionBackward};
use embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};
use gelu::{BiasGelu, BiasGeluBackward};
use head::{CrossEntropy, FirstTokens, FirstTokensBackward, TanhDropout, TanhDropoutBackward};
use linear::{ColumnSum, Linear, LinearInputGradient, LinearWeightGradient};
use norm::{ResidualNorm, ResidualNormBackward};

/// A run of a buffer's elements, to read.
#[derive(Debug)]
pub struct Slice<'a, B> {
    /// The buffer.
    pub buffer: &'a B,
    /// The elements meant.
    pub range: Range<usize>,
}

/// A run of a buffer's elements, to write.
#[derive(Debug)]
pub struct SliceMut<'a, B> {
    /// The buffer.
    pub buffer: &'a mut B,
    /// The elements meant.
    pub range: Range<usize>,
}

impl<B> SliceMut<'_, B> {
    /// The same elements, for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_, B> {
        SliceMut { buffer: self.buffer, range: self.range.clone() }
    }

    /// The same elements, to read.
    #[must_use]
    pub fn as_slice(&self) -> Slice<'_, B> {
        Slice { buffer: self.buffer, range: self.range.clone() }
    }
}

/// A device failed; says at what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {problem}")]
pub struct DeviceError {
    /// What was being done.
    pub doing: &'static str,
    /// What went wrong.
    pub problem: String,
}

/// The operations of one device.
///
/// # Errors
/// Every operation fails if the device does, and those that make buffers if its memory is exhausted. On the CPU, nothing
/// else fails.
pub trait Ops {
    /// Flat `f32` elements in the device's memory; none by default.
    type Buffer: Default;
    /// A batch in the device's memory.
    type Pack: AsRef<Batch>;

    /// Makes a buffer of `length` zeros.
    fn zeros(&self, length: usize) -> Result<Self::Buffer, DeviceError>;

    /// Makes `buffer` hold at least `length` elements, whose values are then unspecified.
    fn grow(&self, buffer: &mut Self::Buffer, length: usize) -> Result<(), DeviceError>;

    /// Moves values to the device.
    fn upload(&self, values: Vec<f32>) -> Result<Self::Buffer, DeviceError>;

    /// Moves a buffer to the host.
    fn download(&self, buffer: Self::Buffer) -> Result<Vec<f32>, DeviceError>;

    /// Copies elements to the host.
    fn read(&self, slice: Slice<'_, Self::Buffer>) -> Result<Vec<f32>, DeviceError>;

    /// Moves a batch to the device.
    fn load(&self, batch: Batch) -> Result<Self::Pack, DeviceError>;

    /// See [`Linear`].
    fn linear(&self, op: Linear<'_, Self>) -> Result<(), DeviceError>;

    /// See [`LinearInputGradient`].
    fn linear_input_gradient(&self, op: LinearInputGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`LinearWeightGradient`].
    fn linear_weight_gradient(&self, op: LinearWeightGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`ColumnSum`].
    fn column_sum(&self, op: ColumnSum<'_, Self>) -> Result<(), DeviceError>;

    /// See [`Embedding`].
    fn embedding(&self, op: Embedding<'_, Self>) -> Result<(), DeviceError>;

    /// See [`EmbeddingBackward`].
    fn embedding_backward(&self, op: EmbeddingBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`PositionGradient`].
    fn position_gradient(&self, op: PositionGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`WordGradient`].
    fn word_gradient(&self, op: WordGradient<'_, Self>) -> Result<SparseRows, DeviceError>;

    /// See [`Attention`].
    fn attention(&self, op: Attention<'_, Self>) -> Result<(), DeviceError>;

    /// See [`AttentionBackward`].
    fn attention_backward(&self, op: AttentionBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`ResidualNorm`].
    fn residual_norm(&self, op: ResidualNorm<'_, Self>) -> Result<(), DeviceError>;

    /// See [`ResidualNormBackward`].
    fn residual_norm_backward(&self, op: ResidualNormBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`BiasGelu`].
    fn bias_gelu(&self, op: BiasGelu<'_, Self>) -> Result<(), DeviceError>;

    /// See [`BiasGeluBackward`].
    fn bias_gelu_backward(&self, op: BiasGeluBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`FirstTokens`].
    fn first_tokens(&self, op: FirstTokens<'_, Self>) -> Result<(), DeviceError>;

    /// See [`FirstTokensBackward`].
    fn first_tokens_backward(&self, op: FirstTokensBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`TanhDropout`].
    fn tanh_dropout(&self, op: TanhDropout<'_, Self>) -> Result<(), DeviceError>;

    /// See [`TanhDropoutBackward`].
    fn tanh_dropout_backward(&self, op: TanhDropoutBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`CrossEntropy`].
    fn cross_entropy(&self, op: CrossEntropy<'_, Self>) -> Result<(), DeviceError>;

    /// `into += from`, element by element.
    fn add(&self, into: SliceMut<'_, Self::Buffer>, from: Slice<'_, Self::Buffer>) -> Result<(), DeviceError>;

    /// The sum of the elements' squares, in `f64`, in an order that depends on their number alone.
    fn square_sum(&self, values: Slice<'_, Self::Buffer>) -> Result<f64, DeviceError>;

    /// See [`AdamW`].
    fn adamw(&self, op: AdamW<'_, Self>) -> Result<(), DeviceError>;

    /// See [`AdamWRows`].
    fn adamw_rows(&self, op: AdamWRows<'_, Self>) -> Result<(), DeviceError>;
}
