//! The Gaussian error linear unit.

use rayon::prelude::*;

use super::math::{gelu, gelu_slope};
use super::{Cpu, by_block, rows_per_task};
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};

pub(super) fn forward(op: BiasGelu<'_, Cpu>) {
    let bias = op.bias.values();
    let (width, tokens) = (bias.len(), op.pack.tokens.len());
    let elements = rows_per_task(tokens) * width;
    let (u, a) = (&op.u[..tokens * width], &mut op.a[..tokens * width]);
    a.par_chunks_mut(elements).zip(u.par_chunks(elements)).for_each(|(a, u)| forward_rows(u, bias, a));
}

wide! {
    fn forward_rows(u: &[f32], bias: &[f32], a: &mut [f32]) {
        for (a, u) in a.chunks_exact_mut(bias.len()).zip(u.chunks_exact(bias.len())) {
            for i in 0..bias.len() {
                a[i] = gelu(u[i] + bias[i]);
            }
        }
    }
}

pub(super) fn backward(op: BiasGeluBackward<'_, Cpu>) {
    let bias = op.bias.values();
    let (width, blocks) = (bias.len(), &op.pack.blocks);
    let gradients = by_block(op.gradient, blocks, width).into_par_iter();
    let partials = op.partials.par_chunks_exact_mut(width);
    gradients.zip(partials).zip(blocks).for_each(|((gradient, partials), block)| {
        backward_block(&op.u[block.start * width..], bias, gradient, partials);
    });
}

wide! {
    fn backward_block(u: &[f32], bias: &[f32], gradient: &mut [f32], dbias: &mut [f32]) {
        let width = bias.len();
        let dbias = &mut dbias[..width];
        dbias.fill(0.0);
        for (gradient, u) in gradient.chunks_exact_mut(width).zip(u.chunks_exact(width)) {
            for i in 0..width {
                gradient[i] *= gelu_slope(u[i] + bias[i]);
                dbias[i] += gradient[i];
            }
        }
    }
}

#[cfg(test)]
#[path = "gelu_test.rs"]
mod tests;
