//! Embeddings: rows gathered, and gradients of rows summed.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::norm::{HostNorm, NormRow, token_mask};
use super::{Cpu, by_block, in_chunks, rows_per_task};
use crate::batch::Batch;
use crate::collective::SparseRows;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};

struct Forward<'a> {
    batch: &'a Batch,
    dropout: Option<Dropout>,
    width: usize,
    words: &'a [f32],
    positions: &'a [f32],
    types: &'a [f32],
    norm: HostNorm<'a>,
}

pub(super) fn forward(op: Embedding<'_, Cpu>) {
    let (width, tokens) = (op.norm.gamma.range.len(), op.pack.tokens.len());
    let (words, positions, types) = (op.words.values(), op.positions.values(), op.types.values());
    let norm = HostNorm::new(&op.norm);
    let kernel = Forward { batch: op.pack, dropout: op.dropout, width, words, positions, types, norm };
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
        let (width, batch) = (kernel.width, kernel.batch);
        let rows = z.chunks_exact_mut(width).zip(stats.chunks_exact_mut(2)).zip(y.chunks_exact_mut(width));
        for (token, ((z, stats), y)) in (first..).zip(rows) {
            let word = &kernel.words[batch.tokens[token] as usize * width..][..width];
            let position = &kernel.positions[batch.positions[token] as usize * width..][..width];
            let kind = &kernel.types[batch.segments[token] as usize * width..][..width];
            for i in 0..width {
                z[i] = word[i] + kind[i] + position[i];
            }
            kernel.norm.row(z, stats, y);
            if let Some((mask, number)) = token_mask(kernel.dropout, batch, token, width) {
                for (i, value) in y.iter_mut().enumerate() {
                    *value *= mask.factor(number + i as u32);
                }
            }
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

pub(super) fn backward(op: EmbeddingBackward<'_, Cpu>) {
    let batch = op.pack;
    let width = op.gamma.range.len();
    let kernel = Backward { batch, dropout: op.dropout, dy: op.dy, z: op.z, stats: op.stats, gamma: op.gamma.values() };
    let dz = by_block(op.dz, &batch.blocks, width).into_par_iter();
    let partials = op.partials.par_chunks_exact_mut((op.types + 2) * width);
    dz.zip(partials).zip(&batch.blocks).for_each(|((dz, partials), block)| {
        backward_block(&kernel, block.start, dz, partials, &mut vec![0.0; width]);
    });
}

wide! {
    fn backward_block(kernel: &Backward<'_>, first: usize, dz: &mut [f32], partials: &mut [f32], dropped: &mut [f32]) {
        let width = kernel.gamma.len();
        partials.fill(0.0);
        let types = partials.len() - 2 * width;
        let (dtypes, norms) = partials.split_at_mut(types);
        let (dgamma, dbeta) = norms.split_at_mut(width);
        for (token, dz) in (first..).zip(dz.chunks_exact_mut(width)) {
            let row = token * width;
            dropped.copy_from_slice(&kernel.dy[row..][..width]);
            if let Some((mask, number)) = token_mask(kernel.dropout, kernel.batch, token, width) {
                for (i, value) in dropped.iter_mut().enumerate() {
                    *value *= mask.factor(number + i as u32);
                }
            }
            let z = &kernel.z[row..][..width];
            let norm = NormRow { z, stats: &kernel.stats[token * 2..], gamma: kernel.gamma };
            norm.backward(dropped, dz, dgamma, dbeta);
            let dtype = &mut dtypes[kernel.batch.segments[token] as usize * width..][..width];
            for (dtype, dz) in dtype.iter_mut().zip(dz.iter()) {
                *dtype += dz;
            }
        }
    }
}

pub(super) fn position_gradient(op: PositionGradient<'_, Cpu>) {
    let (batch, width) = (op.pack, op.hidden);
    let starts: Vec<_> = op.lane.sequences.clone().map(|sequence| batch.sequence(sequence)).collect();
    let dpositions = op.dpositions.into_values();
    let rows = rows_per_task(dpositions.len() / width);
    in_chunks(dpositions, rows * width, |task, dpositions| {
        dpositions.fill(0.0);
        for (position, into) in (task * rows..).zip(dpositions.chunks_exact_mut(width)) {
            for tokens in starts.iter().filter(|tokens| position < tokens.len()) {
                add_row(into, &op.dz[(tokens.start + position) * width..]);
            }
        }
    });
}

pub(super) fn word_gradient(op: WordGradient<'_, Cpu>) -> SparseRows {
    let width = op.hidden;
    let mut places = BTreeMap::<u32, Vec<usize>>::new();
    for token in op.lane.tokens.clone() {
        places.entry(op.pack.tokens[token]).or_default().push(token);
    }
    let rows: Vec<u32> = places.keys().copied().collect();
    let places: Vec<Vec<usize>> = places.into_values().collect();
    let mut values = vec![0.0; rows.len() * width];
    for (into, places) in values.chunks_exact_mut(width).zip(&places) {
        for token in places {
            add_row(into, &op.dz[token * width..]);
        }
    }
    SparseRows { rows, values }
}

wide! {
    fn add_row(into: &mut [f32], from: &[f32]) {
        for (into, from) in into.iter_mut().zip(from) {
            *into += from;
        }
    }
}

#[cfg(test)]
#[path = "embedding_test.rs"]
mod tests;
