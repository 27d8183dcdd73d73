//! The operations on the CPU: matrix products in tiles, loops that the compiler vectorises for the rest.
//!
//! Work is spread over the threads of the rayon pool that the caller runs in. How it is cut never shows in a result.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::adamw::{AdamW, AdamWRows};
use super::attention::{Attention, AttentionBackward};
use super::dropout::Masks;
use super::embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};
use super::gelu::{BiasGelu, BiasGeluBackward};
use super::head::{
    CrossEntropy, FirstTokens, FirstTokensBackward, HeadDropout, LaneLosses, TanhDropout, TanhDropoutBackward,
};
use super::linear::{ColumnSum, Linear, LinearInputGradient, LinearWeightGradient, SharedInputGradient};
use super::norm::{ResidualNorm, ResidualNormBackward};
use super::sgd::{Sgd, SgdRows};
use super::{DeviceError, LaneKeeping, Ops, Shortage, Slice, SliceMut};
use crate::batch::Batch;
use crate::collective::SparseRows;

#[macro_use]
pub(crate) mod wide;

mod adamw;
mod attention;
mod embedding;
mod gelu;
mod head;
mod linear;
mod math;
mod matrix;
mod norm;
mod panel;
mod product;
mod reduce;
mod sgd;
mod step_rows;
mod summed_product;
mod tile;
mod vector;

#[cfg(test)]
pub(super) mod oracle;

/// This host's processor, and the instructions that products are computed with.
///
/// Where the processor multiplies and adds in one step (all but the oldest do), all operations have the same bits with vectors
/// of any width; where it does not, products have others.
#[must_use]
pub fn processor() -> String {
    let known = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = known.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model.trim());
    format!("{model}, {}", instructions())
}

fn instructions() -> &'static str {
    match wide::width() {
        _ if !tile::is_fused() => "scalar",
        wide::Width::Avx512 => "avx512f",
        wide::Width::Avx2 => "fma",
        wide::Width::Portable if cfg!(target_arch = "aarch64") => "neon",
        wide::Width::Portable => "scalar, fma",
    }
}

/// The CPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl AsRef<Self> for Batch {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<'a> Slice<'a, Vec<f32>> {
    fn values(&self) -> &'a [f32] {
        &self.buffer[self.range.clone()]
    }
}

impl<'a> SliceMut<'a, Vec<f32>> {
    fn into_values(self) -> &'a mut [f32] {
        &mut self.buffer[self.range]
    }
}

impl Ops for Cpu {
    type Buffer = Vec<f32>;
    type Pack = Batch;
    type Sections = ();

    fn lane_keeping(&self) -> LaneKeeping {
        LaneKeeping::Together
    }

    fn zeros(&self, length: usize) -> Result<Vec<f32>, DeviceError> {
        let mut buffer = Vec::new();
        self.grow(&mut buffer, length)?;
        Ok(buffer)
    }

    fn grow(&self, buffer: &mut Vec<f32>, length: usize) -> Result<(), DeviceError> {
        if buffer.len() < length {
            buffer.clear();
            let asked = (length as u64).saturating_mul(size_of::<f32>() as u64);
            let shortage = Shortage { asked, free: None, total: None };
            buffer.try_reserve_exact(length).map_err(|_| DeviceError::OutOfMemory { shortage })?;
            buffer.resize(length, 0.0);
        }
        Ok(())
    }

    fn room(&self, buffer: &Vec<f32>) -> usize {
        buffer.len()
    }

    fn upload(&self, values: Vec<f32>) -> Result<Vec<f32>, DeviceError> {
        Ok(values)
    }

    fn download(&self, buffer: Vec<f32>) -> Result<Vec<f32>, DeviceError> {
        Ok(buffer)
    }

    fn host<'a>(&self, buffer: &'a Vec<f32>) -> Result<Cow<'a, [f32]>, DeviceError> {
        Ok(Cow::Borrowed(buffer))
    }

    fn read(&self, slice: Slice<'_, Vec<f32>>) -> Result<Vec<f32>, DeviceError> {
        Ok(slice.values().to_vec())
    }

    /// It is computed when it is asked for.
    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn load(&self, batch: Batch, _masks: &Masks) -> Result<Batch, DeviceError> {
        Ok(batch)
    }

    fn linear(&self, op: Linear<'_, Self>) -> Result<(), DeviceError> {
        linear::forward(op);
        Ok(())
    }

    fn linear_input_gradient(&self, op: LinearInputGradient<'_, Self>) -> Result<(), DeviceError> {
        linear::input_gradient(op);
        Ok(())
    }

    fn shared_input_gradient(&self, op: SharedInputGradient<'_, Self>) -> Result<(), DeviceError> {
        linear::shared_input_gradient(op);
        Ok(())
    }

    fn linear_weight_gradient(&self, op: LinearWeightGradient<'_, Self>) -> Result<(), DeviceError> {
        linear::weight_gradient(op);
        Ok(())
    }

    fn column_sum(&self, op: ColumnSum<'_, Self>) -> Result<(), DeviceError> {
        reduce::column_sum(op);
        Ok(())
    }

    fn embedding(&self, op: Embedding<'_, Self>) -> Result<(), DeviceError> {
        embedding::forward(op);
        Ok(())
    }

    fn embedding_backward(&self, op: EmbeddingBackward<'_, Self>) -> Result<(), DeviceError> {
        embedding::backward(op);
        Ok(())
    }

    fn position_gradient(&self, op: PositionGradient<'_, Self>) -> Result<(), DeviceError> {
        embedding::position_gradient(op);
        Ok(())
    }

    fn word_gradient(&self, op: WordGradient<'_, Self>) -> Result<SparseRows, DeviceError> {
        Ok(embedding::word_gradient(op))
    }

    fn attention(&self, op: Attention<'_, Self>) -> Result<(), DeviceError> {
        attention::forward(op);
        Ok(())
    }

    fn attention_backward(&self, op: AttentionBackward<'_, Self>) -> Result<(), DeviceError> {
        attention::backward(op);
        Ok(())
    }

    fn residual_norm(&self, op: ResidualNorm<'_, Self>) -> Result<(), DeviceError> {
        norm::forward(op);
        Ok(())
    }

    fn residual_norm_backward(&self, op: ResidualNormBackward<'_, Self>) -> Result<(), DeviceError> {
        norm::backward(op);
        Ok(())
    }

    fn bias_gelu(&self, op: BiasGelu<'_, Self>) -> Result<(), DeviceError> {
        gelu::forward(op);
        Ok(())
    }

    fn bias_gelu_backward(&self, op: BiasGeluBackward<'_, Self>) -> Result<(), DeviceError> {
        gelu::backward(op);
        Ok(())
    }

    fn first_tokens(&self, op: FirstTokens<'_, Self>) -> Result<(), DeviceError> {
        head::first_tokens(op);
        Ok(())
    }

    fn first_tokens_backward(&self, op: FirstTokensBackward<'_, Self>) -> Result<(), DeviceError> {
        head::first_tokens_backward(op);
        Ok(())
    }

    fn tanh_dropout(&self, op: TanhDropout<'_, Self>) -> Result<(), DeviceError> {
        head::tanh_dropout(op);
        Ok(())
    }

    fn tanh_dropout_backward(&self, op: TanhDropoutBackward<'_, Self>) -> Result<(), DeviceError> {
        head::tanh_dropout_backward(op);
        Ok(())
    }

    fn head_dropout(&self, op: HeadDropout<'_, Self>) -> Result<(), DeviceError> {
        head::dropout(op);
        Ok(())
    }

    fn cross_entropy(&self, op: CrossEntropy<'_, Self>) -> Result<(), DeviceError> {
        head::cross_entropy(op);
        Ok(())
    }

    fn lane_losses(&self, op: LaneLosses<'_, Self>) -> Result<(), DeviceError> {
        head::lane_losses(op);
        Ok(())
    }

    fn add(&self, into: SliceMut<'_, Vec<f32>>, from: Slice<'_, Vec<f32>>) -> Result<(), DeviceError> {
        reduce::add(into.into_values(), from.values());
        Ok(())
    }

    fn copy(&self, into: SliceMut<'_, Vec<f32>>, from: Slice<'_, Vec<f32>>) -> Result<(), DeviceError> {
        into.into_values().copy_from_slice(from.values());
        Ok(())
    }

    fn spread_rows(&self, from: &SparseRows, rows: &[u32], width: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(reduce::spread_rows(from, rows, width))
    }

    fn add_rows(&self, left: SparseRows, right: SparseRows, _width: usize) -> Result<SparseRows, DeviceError> {
        Ok(left.plus(&right))
    }

    const PIECE: usize = reduce::PIECE;

    fn square_sums(&self, runs: &[Slice<'_, Vec<f32>>]) -> Result<Vec<Vec<f64>>, DeviceError> {
        Ok(runs.iter().map(|run| reduce::square_sums(run.values())).collect())
    }

    fn adamw(&self, op: AdamW<'_, Self>) -> Result<(), DeviceError> {
        adamw::step(op);
        Ok(())
    }

    fn adamw_rows(&self, op: AdamWRows<'_, Self>) -> Result<(), DeviceError> {
        adamw::step_rows(op);
        Ok(())
    }

    fn sgd(&self, op: Sgd<'_, Self>) -> Result<(), DeviceError> {
        sgd::step(op);
        Ok(())
    }

    fn sgd_rows(&self, op: SgdRows<'_, Self>) -> Result<(), DeviceError> {
        sgd::step_rows(op);
        Ok(())
    }
}

/// Rows that a thread takes at a time where every row is computed by itself.
fn rows_per_task(rows: usize) -> usize {
    rows.div_ceil(4 * rayon::current_num_threads()).max(8)
}

/// Cuts a matrix of `width` columns into the rows of each block.
fn by_block<'a>(mut values: &'a mut [f32], blocks: &[Range<usize>], width: usize) -> Vec<&'a mut [f32]> {
    let mut pieces = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (piece, rest) = values.split_at_mut(block.len() * width);
        pieces.push(piece);
        values = rest;
    }
    pieces
}

/// Calls `work` on chunks of `values` by several threads, or at once where there is but one chunk.
fn in_chunks(values: &mut [f32], chunk: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if values.len() <= chunk {
        work(0, values);
    } else {
        values.par_chunks_mut(chunk).enumerate().for_each(|(index, values)| work(index, values));
    }
}
