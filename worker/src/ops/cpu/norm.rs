//! Layer norms. Mean and variance are taken in two passes over a row in cache: no cancellation.

use rayon::prelude::*;

use super::math::sum;
use super::{Cpu, by_block, rows_per_task};
use crate::batch::Batch;
use crate::ops::dropout::{Dropout, RowMask};
use crate::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};

/// A layer norm's parameters, on the host.
pub(super) struct HostNorm<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
}

impl<'a> HostNorm<'a> {
    pub(super) fn new(norm: &Norm<'a, Cpu>) -> Self {
        Self { gamma: norm.gamma.values(), beta: norm.beta.values(), epsilon: norm.epsilon as f32 }
    }

    /// Writes `layer_norm(z)` to `y`, mean and reciprocal standard deviation to `stats`.
    #[inline(always)]
    pub(super) fn row(&self, z: &[f32], stats: &mut [f32], y: &mut [f32]) {
        let width = z.len();
        let (y, gamma, beta) = (&mut y[..width], &self.gamma[..width], &self.beta[..width]);
        let mean = sum(width, |i| z[i]) / width as f32;
        let variance = sum(width, |i| (z[i] - mean) * (z[i] - mean)) / width as f32;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for i in 0..width {
            y[i] = (z[i] - mean) * scale * gamma[i] + beta[i];
        }
        stats[0] = mean;
        stats[1] = scale;
    }
}

/// What backward knows of a row.
pub(super) struct NormRow<'a> {
    pub(super) z: &'a [f32],
    pub(super) stats: &'a [f32],
    pub(super) gamma: &'a [f32],
}

impl NormRow<'_> {
    /// Writes the gradient of `z` to `dz` and adds those of `gamma` and `beta` to theirs.
    #[inline(always)]
    pub(super) fn backward(&self, dy: &[f32], dz: &mut [f32], dgamma: &mut [f32], dbeta: &mut [f32]) {
        let width = dz.len();
        let (z, gamma, dy) = (&self.z[..width], &self.gamma[..width], &dy[..width]);
        let (dgamma, dbeta) = (&mut dgamma[..width], &mut dbeta[..width]);
        let (mean, scale) = (self.stats[0], self.stats[1]);
        let slope = sum(width, |i| dy[i] * gamma[i]) / width as f32;
        let curve = sum(width, |i| dy[i] * gamma[i] * ((z[i] - mean) * scale)) / width as f32;
        for i in 0..width {
            let x = (z[i] - mean) * scale;
            dgamma[i] += dy[i] * x;
            dbeta[i] += dy[i];
            dz[i] = scale * (dy[i] * gamma[i] - slope - x * curve);
        }
    }
}

/// The dropout mask of a token's row, and the number of the row's first element.
#[inline(always)]
pub(super) fn token_mask(
    dropout: Option<Dropout>,
    batch: &Batch,
    token: usize,
    width: usize,
) -> Option<(RowMask, u32)> {
    let row = batch.rows[batch.sequences[token] as usize];
    dropout.map(|dropout| (dropout.row(row), batch.positions[token] * width as u32))
}

struct Forward<'a> {
    batch: &'a Batch,
    dropout: Option<Dropout>,
    bias: &'a [f32],
    residual: &'a [f32],
    norm: HostNorm<'a>,
}

pub(super) fn forward(op: ResidualNorm<'_, Cpu>) {
    let (width, tokens) = (op.bias.range.len(), op.pack.tokens.len());
    let norm = HostNorm::new(&op.norm);
    let kernel = Forward { batch: op.pack, dropout: op.dropout, bias: op.bias.values(), residual: op.residual, norm };
    let rows = rows_per_task(tokens);
    let z = op.z[..tokens * width].par_chunks_mut(rows * width);
    let stats = op.stats[..tokens * 2].par_chunks_mut(rows * 2);
    let y = op.y[..tokens * width].par_chunks_mut(rows * width);
    z.zip(stats).zip(y).enumerate().for_each(|(task, ((z, stats), y))| {
        forward_rows(&kernel, task * rows, z, stats, y);
    });
}

wide! {
    fn forward_rows(kernel: &Forward<'_>, first: usize, z: &mut [f32], stats: &mut [f32], y: &mut [f32]) {
        let bias = kernel.bias;
        let width = bias.len();
        let rows = z.chunks_exact_mut(width).zip(stats.chunks_exact_mut(2)).zip(y.chunks_exact_mut(width));
        for (token, ((z, stats), y)) in (first..).zip(rows) {
            let residual = &kernel.residual[token * width..][..width];
            match token_mask(kernel.dropout, kernel.batch, token, width) {
                Some((mask, number)) => {
                    for i in 0..width {
                        z[i] = (z[i] + bias[i]) * mask.factor(number + i as u32) + residual[i];
                    }
                }
                None => {
                    for i in 0..width {
                        z[i] = z[i] + bias[i] + residual[i];
                    }
                }
            }
            kernel.norm.row(z, stats, y);
        }
    }
}

struct Backward<'a> {
    batch: &'a Batch,
    dropout: Option<Dropout>,
    dy: &'a [f32],
    z: &'a [f32],
    stats: &'a [f32],
    gamma: &'a [f32],
}

pub(super) fn backward(op: ResidualNormBackward<'_, Cpu>) {
    let batch = op.pack;
    let width = op.gamma.range.len();
    let kernel = Backward { batch, dropout: op.dropout, dy: op.dy, z: op.z, stats: op.stats, gamma: op.gamma.values() };
    let dz = by_block(op.dz, &batch.blocks, width).into_par_iter();
    let du = by_block(op.du, &batch.blocks, width);
    let partials = op.partials.par_chunks_exact_mut(3 * width);
    dz.zip(du).zip(partials).zip(&batch.blocks).for_each(|(((dz, du), partials), block)| {
        backward_block(&kernel, block.start, dz, du, partials);
    });
}

wide! {
    fn backward_block(kernel: &Backward<'_>, first: usize, dz: &mut [f32], du: &mut [f32], partials: &mut [f32]) {
        let width = kernel.gamma.len();
        partials.fill(0.0);
        let (dbias, norms) = partials.split_at_mut(width);
        let (dgamma, dbeta) = norms.split_at_mut(width);
        for (token, (dz, du)) in (first..).zip(dz.chunks_exact_mut(width).zip(du.chunks_exact_mut(width))) {
            let row = token * width;
            let z = &kernel.z[row..][..width];
            let norm = NormRow { z, stats: &kernel.stats[token * 2..], gamma: kernel.gamma };
            norm.backward(&kernel.dy[row..], dz, dgamma, dbeta);
            match token_mask(kernel.dropout, kernel.batch, token, width) {
                Some((mask, number)) => {
                    for i in 0..width {
                        du[i] = dz[i] * mask.factor(number + i as u32);
                        dbias[i] += du[i];
                    }
                }
                None => {
                    du.copy_from_slice(dz);
                    for i in 0..width {
                        dbias[i] += dz[i];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "norm_test.rs"]
mod tests;
