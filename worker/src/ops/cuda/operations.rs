//! Each operation, by the file that launches it.

use std::borrow::Cow;

use medley_common::model::ModelConfig;

use super::driver::{Driver, Element};
use super::{
    Buffer, Cuda, Graphs, Pack, adamw, attention, check_shape, embedding, gelu, head, linear, norm, reduce, sgd,
};
use crate::batch::Batch;
use crate::collective::SparseRows;
use crate::ops::adamw::{AdamW, AdamWRows};
use crate::ops::attention::{Attention, AttentionBackward};
use crate::ops::dropout::Masks;
use crate::ops::embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};
use crate::ops::head::{
    CrossEntropy, FirstTokens, FirstTokensBackward, HeadDropout, LaneLosses, TanhDropout, TanhDropoutBackward,
};
use crate::ops::linear::{
    ColumnSum, Linear, LinearGradients, LinearInputGradient, LinearWeightGradient, SharedInputGradient,
};
use crate::ops::norm::{ResidualNorm, ResidualNormBackward};
use crate::ops::section::Section;
use crate::ops::sgd::{Sgd, SgdRows};
use crate::ops::{DeviceError, LaneKeeping, Ops, Slice, SliceMut};

impl<D: Driver> Ops for Cuda<D> {
    type Buffer = Buffer<D::Memory>;
    type Pack = Pack<D::Memory>;
    type Sections = Graphs<D>;

    /// cuBLASLt chooses its kernels by the number of rows.
    fn lane_keeping(&self) -> LaneKeeping {
        LaneKeeping::Alone
    }

    fn check(&self, model: &ModelConfig) -> Result<(), DeviceError> {
        check_shape(model)
            .map_err(|error| DeviceError::Failed { doing: "compute this model", problem: error.to_string() })
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.driver.peak_bytes()
    }

    fn zeros(&self, length: usize) -> Result<Self::Buffer, DeviceError> {
        self.allocate_with(length, Element::F32, |memory| self.driver.clear(memory))
    }

    fn grow(&self, buffer: &mut Self::Buffer, length: usize) -> Result<(), DeviceError> {
        if buffer.room < length {
            // What it held is not needed, and there may not be room for both.
            *buffer = Buffer::default();
            *buffer = self.allocate(length, Element::F32)?;
        }
        Ok(())
    }

    fn grow_activations(&self, buffer: &mut Self::Buffer, length: usize) -> Result<(), DeviceError> {
        if buffer.room < length {
            *buffer = Buffer::default();
            *buffer = self.allocate(length, self.element)?;
        }
        Ok(())
    }

    fn room(&self, buffer: &Self::Buffer) -> usize {
        buffer.room
    }

    fn upload(&self, values: Vec<f32>) -> Result<Self::Buffer, DeviceError> {
        self.allocate_with(values.len(), Element::F32, |memory| {
            self.driver.write(memory, bytemuck::cast_slice(&values))
        })
    }

    fn upload_parameters(&self, values: Vec<f32>) -> Result<Self::Buffer, DeviceError> {
        let buffer = self.upload(values)?;
        if self.element == Element::F32 {
            return Ok(buffer);
        }
        let copy = self.narrowed(&buffer, buffer.room, self.element)?;
        Ok(buffer.with_copy(copy))
    }

    fn refresh_parameters(&self, parameters: &mut Self::Buffer) -> Result<(), DeviceError> {
        reduce::refresh_narrow(self, parameters)
    }

    fn download(&self, buffer: Self::Buffer) -> Result<Vec<f32>, DeviceError> {
        let range = 0..buffer.room;
        self.read(Slice { buffer: &buffer, range })
    }

    fn host<'a>(&self, buffer: &'a Self::Buffer) -> Result<Cow<'a, [f32]>, DeviceError> {
        self.read(Slice { buffer, range: 0..buffer.room }).map(Cow::Owned)
    }

    fn read(&self, slice: Slice<'_, Self::Buffer>) -> Result<Vec<f32>, DeviceError> {
        let (element, bytes) = self.bytes_of(&slice)?;
        let bits = bytes.chunks_exact(2).map(bytemuck::pod_read_unaligned::<u16>);
        Ok(match element {
            Element::F32 => bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
            Element::F16 => bits.map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            Element::Bf16 => bits.map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
        })
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.settle()?;
        self.driver.wait()
    }

    fn load(&self, batch: Batch, masks: &Masks) -> Result<Self::Pack, DeviceError> {
        self.pack(batch, masks)
    }

    fn section(
        &self,
        kept: &mut Self::Sections,
        section: Section,
        enqueue: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.enqueue_section(kept, section, enqueue)
    }

    fn stop_sections(&self, kept: &mut Self::Sections) -> bool {
        kept.stop()
    }

    fn place(&self, buffer: &Self::Buffer) -> u64 {
        self.place_of(buffer)
    }

    fn place_of_pack(&self, pack: &Self::Pack) -> u64 {
        self.key_of(pack)
    }

    fn linear(&self, op: Linear<'_, Self>) -> Result<(), DeviceError> {
        linear::forward(self, op)
    }

    fn linear_input_gradient(&self, op: LinearInputGradient<'_, Self>) -> Result<(), DeviceError> {
        linear::input_gradient(self, op)
    }

    fn shared_input_gradient(&self, op: SharedInputGradient<'_, Self>) -> Result<(), DeviceError> {
        linear::shared_input_gradient(self, op)
    }

    fn linear_weight_gradient(&self, op: LinearWeightGradient<'_, Self>) -> Result<(), DeviceError> {
        linear::weight_gradient(self, op)
    }

    fn linear_gradients(&self, op: LinearGradients<'_, Self>) -> Result<(), DeviceError> {
        linear::gradients(self, op)
    }

    fn column_sum(&self, op: ColumnSum<'_, Self>) -> Result<(), DeviceError> {
        linear::column_sum(self, op)
    }

    fn embedding(&self, op: Embedding<'_, Self>) -> Result<(), DeviceError> {
        embedding::forward(self, op)
    }

    fn embedding_backward(&self, op: EmbeddingBackward<'_, Self>) -> Result<(), DeviceError> {
        embedding::backward(self, op)
    }

    fn position_gradient(&self, op: PositionGradient<'_, Self>) -> Result<(), DeviceError> {
        embedding::position_gradient(self, op)
    }

    fn word_gradient(&self, op: WordGradient<'_, Self>) -> Result<SparseRows<Self::Buffer>, DeviceError> {
        embedding::word_gradient(self, op)
    }

    fn attention(&self, op: Attention<'_, Self>) -> Result<(), DeviceError> {
        attention::forward(self, op)
    }

    fn attention_backward(&self, op: AttentionBackward<'_, Self>) -> Result<(), DeviceError> {
        attention::backward(self, op)
    }

    fn residual_norm(&self, op: ResidualNorm<'_, Self>) -> Result<(), DeviceError> {
        norm::forward(self, op)
    }

    fn residual_norm_backward(&self, op: ResidualNormBackward<'_, Self>) -> Result<(), DeviceError> {
        norm::backward(self, op)
    }

    fn bias_gelu(&self, op: BiasGelu<'_, Self>) -> Result<(), DeviceError> {
        gelu::forward(self, op)
    }

    fn bias_gelu_backward(&self, op: BiasGeluBackward<'_, Self>) -> Result<(), DeviceError> {
        gelu::backward(self, op)
    }

    fn first_tokens(&self, op: FirstTokens<'_, Self>) -> Result<(), DeviceError> {
        head::first_tokens(self, op)
    }

    fn first_tokens_backward(&self, op: FirstTokensBackward<'_, Self>) -> Result<(), DeviceError> {
        head::first_tokens_backward(self, op)
    }

    fn tanh_dropout(&self, op: TanhDropout<'_, Self>) -> Result<(), DeviceError> {
        head::tanh_dropout(self, op)
    }

    fn tanh_dropout_backward(&self, op: TanhDropoutBackward<'_, Self>) -> Result<(), DeviceError> {
        head::tanh_dropout_backward(self, op)
    }

    fn head_dropout(&self, op: HeadDropout<'_, Self>) -> Result<(), DeviceError> {
        head::dropout(self, op)
    }

    fn cross_entropy(&self, op: CrossEntropy<'_, Self>) -> Result<(), DeviceError> {
        head::cross_entropy(self, op)
    }

    fn lane_losses(&self, op: LaneLosses<'_, Self>) -> Result<(), DeviceError> {
        head::lane_losses(self, &op)
    }

    fn add(&self, into: SliceMut<'_, Self::Buffer>, from: Slice<'_, Self::Buffer>) -> Result<(), DeviceError> {
        reduce::add(self, &into, &from)
    }

    fn copy(&self, into: SliceMut<'_, Self::Buffer>, from: Slice<'_, Self::Buffer>) -> Result<(), DeviceError> {
        reduce::copy(self, &into, &from)
    }

    fn spread_rows(
        &self,
        from: &SparseRows<Self::Buffer>,
        rows: &[u32],
        width: usize,
    ) -> Result<Self::Buffer, DeviceError> {
        reduce::spread_rows(self, from, rows, width)
    }

    fn add_rows(
        &self,
        left: SparseRows<Self::Buffer>,
        right: SparseRows<Self::Buffer>,
        width: usize,
    ) -> Result<SparseRows<Self::Buffer>, DeviceError> {
        reduce::add_rows(self, &left, &right, width)
    }

    const PIECE: usize = reduce::PIECE;

    fn square_sums(&self, runs: &[Slice<'_, Self::Buffer>]) -> Result<Vec<Vec<f64>>, DeviceError> {
        reduce::square_sums(self, runs)
    }

    fn adamw(&self, op: AdamW<'_, Self>) -> Result<(), DeviceError> {
        adamw::step(self, op)
    }

    fn adamw_rows(&self, op: AdamWRows<'_, Self>) -> Result<(), DeviceError> {
        adamw::step_rows(self, op)
    }

    fn sgd(&self, op: Sgd<'_, Self>) -> Result<(), DeviceError> {
        sgd::step(self, op)
    }

    fn sgd_rows(&self, op: SgdRows<'_, Self>) -> Result<(), DeviceError> {
        sgd::step_rows(self, op)
    }
}
