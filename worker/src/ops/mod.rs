//! The fused operations that a BERT classifier is made of: what a device has to offer.
//!
//! [`Ops`] stands between what is computed (`model/`, without a loop over elements) and how (`cpu/`). Each operation
//! takes one structure, documented with its formula in the file named after it.
//!
//! * Buffers are flat, matrices in them row-major. A buffer may be longer than what it holds. Elements are `f32`; a device
//!   may keep activations and their gradients (what [`Ops::grow_activations`] made room for) in half precision, and then
//!   has a copy of the parameters in it. `dy` is the gradient of the loss with respect to `y`. `T` tokens, `S` sequences,
//!   `H` hidden, `I` intermediate, `B` blocks of tokens.
//! * Bits: a row of an output depends on its own sequence alone, and a sum over rows on its own lane alone: never on the
//!   other rows of the pass nor on the number of threads; on a device that keeps lanes only
//!   [`LaneKeeping::Alone`], on the number of rows and tokens of the pass as well.
//! * Operations are enqueued in the order called; only [`Ops::read`], [`Ops::host`], [`Ops::download`] and
//!   [`Ops::square_sum`] wait for a result, and [`Ops::wait`] for all of them.

use std::borrow::Cow;
use std::ops::Range;

use medley_common::model::ModelConfig;

use crate::batch::Batch;
use crate::collective::SparseRows;

pub mod adamw;
pub mod attention;
pub mod buffer_pool;
pub mod cpu;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod head;
pub mod linear;
pub mod norm;
pub mod section;
pub mod sgd;
pub mod step;
pub mod sum_order;

use adamw::{AdamW, AdamWRows};
use attention::{Attention, AttentionBackward};
use dropout::Masks;
use embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};
use gelu::{BiasGelu, BiasGeluBackward};
use head::{CrossEntropy, FirstTokens, FirstTokensBackward, HeadDropout, LaneLosses, TanhDropout, TanhDropoutBackward};
use linear::{ColumnSum, Linear, LinearGradients, LinearInputGradient, LinearWeightGradient, SharedInputGradient};
use norm::{ResidualNorm, ResidualNormBackward};
use section::Section;
use sgd::{Sgd, SgdRows};

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

/// Why a device could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Its memory is exhausted.
    #[error("out of memory: {shortage}")]
    OutOfMemory {
        /// What there is of it.
        shortage: Shortage,
    },
    /// Anything else.
    #[error("{doing}: {problem}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        problem: String,
    },
}

/// Memory that a device does not have; in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// What was asked for; 0 where the device does not say.
    pub asked: u64,
    /// What is free, if the device says so.
    pub free: Option<u64>,
    /// What the device has in all, if it says so.
    pub total: Option<u64>,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let asked = (self.asked > 0).then(|| format!("{} MiB were asked for", mebibytes(self.asked)));
        let free = self.free.zip(self.total);
        let free = free.map(|(free, total)| format!("{} of {} MiB are free", free >> 20, mebibytes(total)));
        let known: Vec<String> = asked.into_iter().chain(free).collect();
        f.write_str(if known.is_empty() { "the device says no more" } else { "" })?;
        f.write_str(&known.join(", "))
    }
}

/// When a lane's sums, and a row's logits, have the same bits whatever other rows a rank computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKeeping {
    /// Whatever else is in their pass.
    Together,
    /// Where a pass is always the same: a lane has its own, a row that of its neighbours in the split.
    Alone,
}

/// The operations of one device.
///
/// # Errors
/// Every operation fails if the device does, and those that make buffers if its memory is exhausted. On the CPU, nothing
/// else fails.
pub trait Ops {
    /// Flat elements in the device's memory; none by default.
    type Buffer: Default;
    /// A batch in the device's memory.
    type Pack: AsRef<Batch>;
    /// What the device keeps of [sections](Self::section): nothing at first, and never more than it has room for.
    type Sections: Default;

    /// When lanes are kept apart.
    fn lane_keeping(&self) -> LaneKeeping;

    /// Checks that the device can compute this model.
    fn check(&self, model: &ModelConfig) -> Result<(), DeviceError> {
        model
            .validate()
            .map_err(|error| DeviceError::Failed { doing: "compute this model", problem: error.to_string() })
    }

    /// The most bytes that buffers have taken at a time, where the device counts them.
    fn peak_bytes(&self) -> Option<u64> {
        None
    }

    /// Makes a buffer of `length` zeros.
    fn zeros(&self, length: usize) -> Result<Self::Buffer, DeviceError>;

    /// Makes `buffer` hold at least `length` elements, whose values are then unspecified.
    fn grow(&self, buffer: &mut Self::Buffer, length: usize) -> Result<(), DeviceError>;

    /// The same for activations and their gradients.
    fn grow_activations(&self, buffer: &mut Self::Buffer, length: usize) -> Result<(), DeviceError> {
        self.grow(buffer, length)
    }

    /// Elements that a buffer has room for.
    fn room(&self, buffer: &Self::Buffer) -> usize;

    /// Moves values to the device.
    fn upload(&self, values: Vec<f32>) -> Result<Self::Buffer, DeviceError>;

    /// Moves the model's parameters to the device, in all the precisions that its operations read them in.
    fn upload_parameters(&self, values: Vec<f32>) -> Result<Self::Buffer, DeviceError> {
        self.upload(values)
    }

    /// Has operations read the parameters as they are, after another than a step has changed them.
    fn refresh_parameters(&self, _parameters: &mut Self::Buffer) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Moves a buffer to the host.
    fn download(&self, buffer: Self::Buffer) -> Result<Vec<f32>, DeviceError>;

    /// All elements of a buffer on the host, copied only if they are not there.
    fn host<'a>(&self, buffer: &'a Self::Buffer) -> Result<Cow<'a, [f32]>, DeviceError>;

    /// Copies elements to the host.
    fn read(&self, slice: Slice<'_, Self::Buffer>) -> Result<Vec<f32>, DeviceError>;

    /// Waits until all that is enqueued has been computed.
    fn wait(&self) -> Result<(), DeviceError>;

    /// Moves a batch to the device, with what all dropout of its pass is computed from.
    fn load(&self, batch: Batch, masks: &Masks) -> Result<Self::Pack, DeviceError>;

    /// Enqueues a section: by `enqueue`, which may be called twice, or as it was enqueued before, if `kept` has that.
    /// `enqueue` makes no buffer that it has made before, copies nothing to or from the host, and waits for nothing.
    fn section(
        &self,
        kept: &mut Self::Sections,
        section: Section,
        enqueue: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let (_, _) = (kept, section);
        enqueue()
    }

    /// Gives up what is kept of sections, and keeps no more of them; whether there was any.
    fn stop_sections(&self, kept: &mut Self::Sections) -> bool {
        let _ = kept;
        false
    }

    /// A number that tells a buffer from all others that there are, where the device keeps sections.
    fn place(&self, buffer: &Self::Buffer) -> u64 {
        let _ = buffer;
        0
    }

    /// The same of a batch.
    fn place_of_pack(&self, pack: &Self::Pack) -> u64 {
        let _ = pack;
        0
    }

    /// See [`Linear`].
    fn linear(&self, op: Linear<'_, Self>) -> Result<(), DeviceError>;

    /// See [`LinearInputGradient`].
    fn linear_input_gradient(&self, op: LinearInputGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`SharedInputGradient`].
    fn shared_input_gradient(&self, op: SharedInputGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`LinearWeightGradient`].
    fn linear_weight_gradient(&self, op: LinearWeightGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`LinearGradients`].
    fn linear_gradients(&self, op: LinearGradients<'_, Self>) -> Result<(), DeviceError> {
        op.apart(self)
    }

    /// See [`ColumnSum`].
    fn column_sum(&self, op: ColumnSum<'_, Self>) -> Result<(), DeviceError>;

    /// See [`Embedding`].
    fn embedding(&self, op: Embedding<'_, Self>) -> Result<(), DeviceError>;

    /// See [`EmbeddingBackward`].
    fn embedding_backward(&self, op: EmbeddingBackward<'_, Self>) -> Result<(), DeviceError>;

    /// See [`PositionGradient`].
    fn position_gradient(&self, op: PositionGradient<'_, Self>) -> Result<(), DeviceError>;

    /// See [`WordGradient`].
    fn word_gradient(&self, op: WordGradient<'_, Self>) -> Result<SparseRows<Self::Buffer>, DeviceError>;

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

    /// See [`HeadDropout`].
    fn head_dropout(&self, op: HeadDropout<'_, Self>) -> Result<(), DeviceError>;

    /// See [`CrossEntropy`].
    fn cross_entropy(&self, op: CrossEntropy<'_, Self>) -> Result<(), DeviceError>;

    /// See [`LaneLosses`].
    fn lane_losses(&self, op: LaneLosses<'_, Self>) -> Result<(), DeviceError>;

    /// `into += from`, element by element.
    fn add(&self, into: SliceMut<'_, Self::Buffer>, from: Slice<'_, Self::Buffer>) -> Result<(), DeviceError>;

    /// `into = from`, element by element, to the bit.
    fn copy(&self, into: SliceMut<'_, Self::Buffer>, from: Slice<'_, Self::Buffer>) -> Result<(), DeviceError>;

    /// The matrix of `rows`, ascending, with rows of `width` elements: those that `from` has, which are among them, and −0
    /// in all others. To add −0 changes no bit of any number.
    fn spread_rows(
        &self,
        from: &SparseRows<Self::Buffer>,
        rows: &[u32],
        width: usize,
    ) -> Result<Self::Buffer, DeviceError>;

    /// `left + right` where both have a row, the one there is where only one has it; rows of `width` elements.
    fn add_rows(
        &self,
        left: SparseRows<Self::Buffer>,
        right: SparseRows<Self::Buffer>,
        width: usize,
    ) -> Result<SparseRows<Self::Buffer>, DeviceError>;

    /// Elements of a piece of [`square_sums`](Self::square_sums), a multiple of 4.
    const PIECE: usize;

    /// The sums of the squares of each run's pieces, in `f64`: of its first [`PIECE`](Self::PIECE) elements, of the next, and
    /// so on; that of a piece has the same bits wherever it lies.
    fn square_sums(&self, runs: &[Slice<'_, Self::Buffer>]) -> Result<Vec<Vec<f64>>, DeviceError>;

    /// The sum of the squares of all runs' elements, in `f64`, in an order that depends on their lengths alone.
    fn square_sum(&self, runs: &[Slice<'_, Self::Buffer>]) -> Result<f64, DeviceError> {
        Ok(self.square_sums(runs)?.iter().map(|pieces| pieces.iter().sum::<f64>()).sum())
    }

    /// See [`AdamW`].
    fn adamw(&self, op: AdamW<'_, Self>) -> Result<(), DeviceError>;

    /// See [`AdamWRows`].
    fn adamw_rows(&self, op: AdamWRows<'_, Self>) -> Result<(), DeviceError>;

    /// See [`Sgd`].
    fn sgd(&self, op: Sgd<'_, Self>) -> Result<(), DeviceError>;

    /// See [`SgdRows`].
    fn sgd_rows(&self, op: SgdRows<'_, Self>) -> Result<(), DeviceError>;
}
