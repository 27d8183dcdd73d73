//! Attention: one task for each sequence and head, its probabilities in a tile that the thread keeps.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::Cpu;
use super::math::{exp, max, sum};
use super::matrix::{Matrix, MatrixMut, Product, SharedColumns, Threads};
use crate::batch::Batch;
use crate::ops::attention::{Attention, AttentionBackward, HeadShape};
use crate::ops::dropout::{Dropout, RowMask};
use crate::ops::linear::Write;

thread_local! {
    static TILES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `N` tiles of `elements` elements of unspecified values.
fn with_tiles<const N: usize>(elements: usize, work: impl FnOnce([&mut [f32]; N])) {
    TILES.with_borrow_mut(|tiles| {
        if tiles.len() < N * elements {
            tiles.resize(N * elements, 0.0);
        }
        let mut rest = tiles.as_mut_slice();
        work(std::array::from_fn(|_| {
            let (tile, others) = std::mem::take(&mut rest).split_at_mut(elements);
            rest = others;
            tile
        }));
    });
}

/// The attention of one head within one sequence.
struct Task<'a> {
    shape: HeadShape,
    head: usize,
    tokens: Range<usize>,
    qkv: &'a [f32],
    mask: Option<RowMask>,
}

/// The tasks of a batch, head by head within each sequence.
fn tasks<'a>(batch: &'a Batch, shape: HeadShape, qkv: &'a [f32], dropout: Option<Dropout>) -> Vec<Task<'a>> {
    let sequences = (0..batch.rows.len()).map(|sequence| (batch.sequence(sequence), batch.rows[sequence]));
    sequences
        .flat_map(|(tokens, row)| {
            let mask = dropout.map(|dropout| dropout.row(row));
            (0..shape.heads).map(move |head| Task { shape, head, tokens: tokens.clone(), qkv, mask })
        })
        .collect()
}

impl<'a> Task<'a> {
    /// Queries, keys or values (0, 1, 2) of the head, `[tokens, head_size]`.
    fn part(&self, which: usize) -> Matrix<'a> {
        let width = 3 * self.shape.hidden();
        let first = self.tokens.start * width + which * self.shape.hidden() + self.head * self.shape.head_size;
        Matrix::strided(&self.qkv[first..], self.tokens.len(), self.shape.head_size, width)
    }

    fn context(&self, dcontext: &'a [f32]) -> Matrix<'a> {
        let first = self.tokens.start * self.shape.hidden() + self.head * self.shape.head_size;
        Matrix::strided(&dcontext[first..], self.tokens.len(), self.shape.head_size, self.shape.hidden())
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_size as f32).sqrt()
    }

    /// The number of the first element of the head's probabilities in their dropout mask.
    fn first_element(&self) -> u32 {
        (self.head * self.tokens.len() * self.tokens.len()) as u32
    }

    fn scores(&self, tile: &mut [f32]) {
        let count = self.tokens.len();
        let c = MatrixMut::new(tile, count, count);
        let (a, b) = (self.part(0), self.part(1).transposed());
        Product { a, b, c, scale: self.scale(), write: Write::Set, threads: Threads::One }.compute();
    }

    fn forward(&self, stats: &mut [f32], context: MatrixMut<'_>) {
        let count = self.tokens.len();
        with_tiles(count * count, |[probabilities]| {
            self.scores(probabilities);
            softmax(probabilities, stats);
            if let Some(mask) = &self.mask {
                drop_out(mask, self.first_element(), probabilities);
            }
            let a = Matrix::new(probabilities, count, count);
            Product { a, b: self.part(2), c: context, scale: 1.0, write: Write::Set, threads: Threads::One }.compute();
        });
    }

    /// `[dq, dk, dv]` are the head's parts of `dqkv`.
    fn backward(&self, stats: &[f32], dcontext: &[f32], [dq, dk, dv]: [MatrixMut<'_>; 3]) {
        let count = self.tokens.len();
        let dcontext = self.context(dcontext);
        let (scale, write, threads) = (self.scale(), Write::Set, Threads::One);
        with_tiles(count * count, |[probabilities, gradient, dropped]| {
            self.scores(probabilities);
            softmax_again(probabilities, stats);
            let (b, c) = (self.part(2).transposed(), MatrixMut::new(gradient, count, count));
            Product { a: dcontext, b, c, scale: 1.0, write, threads }.compute();
            let mut kept = &*probabilities;
            if let Some(mask) = &self.mask {
                drop_out_pair(mask, self.first_element(), [probabilities, dropped, gradient]);
                kept = dropped;
            }
            let a = Matrix::new(kept, count, count).transposed();
            Product { a, b: dcontext, c: dv, scale: 1.0, write, threads }.compute();
            softmax_backward(probabilities, gradient);
            let a = Matrix::new(gradient, count, count);
            Product { a, b: self.part(1), c: dq, scale, write, threads }.compute();
            Product { a: a.transposed(), b: self.part(0), c: dk, scale, write, threads }.compute();
        });
    }
}

pub(super) fn forward(op: Attention<'_, Cpu>) {
    let tasks = tasks(op.pack, op.shape, op.qkv, op.dropout);
    let stats = by_task(op.stats, &tasks);
    let context = SharedColumns::new(op.context, op.shape.hidden());
    tasks.par_iter().with_max_len(1).zip(stats).for_each(|(task, stats)| {
        let size = task.shape.head_size;
        // SAFETY: no two tasks have the same sequence and head, so no other part overlaps this one.
        let context = unsafe { context.part(task.tokens.start, task.tokens.len(), task.head * size, size) };
        task.forward(stats, context);
    });
}

pub(super) fn backward(op: AttentionBackward<'_, Cpu>) {
    let tasks = tasks(op.pack, op.shape, op.qkv, op.dropout);
    let hidden = op.shape.hidden();
    let dqkv = SharedColumns::new(op.dqkv, 3 * hidden);
    tasks.par_iter().with_max_len(1).for_each(|task| {
        let (size, heads, count) = (task.shape.head_size, task.shape.heads, task.tokens.len());
        let first = 2 * (task.tokens.start * heads + task.head * count);
        let parts = [0, 1, 2].map(|which| {
            // SAFETY: the three parts are different columns, and no two tasks have the same sequence and head.
            unsafe { dqkv.part(task.tokens.start, count, which * hidden + task.head * size, size) }
        });
        task.backward(&op.stats[first..][..2 * count], op.dcontext, parts);
    });
}

/// Cuts the softmax statistics into each task's.
fn by_task<'a>(mut stats: &'a mut [f32], tasks: &[Task<'_>]) -> Vec<&'a mut [f32]> {
    let mut pieces = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (piece, rest) = stats.split_at_mut(2 * task.tokens.len());
        pieces.push(piece);
        stats = rest;
    }
    pieces
}

wide! {
    /// Softmax of every row, in place.
    fn softmax(tile: &mut [f32], stats: &mut [f32]) {
        let count = stats.len() / 2;
        for (row, stats) in tile.chunks_exact_mut(count).zip(stats.chunks_exact_mut(2)) {
            let most = max(row);
            for value in row.iter_mut() {
                *value = exp(*value - most);
            }
            let scale = 1.0 / sum(count, |i| row[i]);
            for value in row.iter_mut() {
                *value *= scale;
            }
            stats.copy_from_slice(&[most, scale]);
        }
    }
}

wide! {
    /// The same softmax, to the bit, from the statistics that [`softmax`] left.
    fn softmax_again(tile: &mut [f32], stats: &[f32]) {
        let count = stats.len() / 2;
        for (row, stats) in tile.chunks_exact_mut(count).zip(stats.chunks_exact(2)) {
            for value in row.iter_mut() {
                *value = exp(*value - stats[0]) * stats[1];
            }
        }
    }
}

wide! {
    fn drop_out(mask: &RowMask, first: u32, tile: &mut [f32]) {
        for (element, value) in tile.iter_mut().enumerate() {
            *value *= mask.factor(first.wrapping_add(element as u32));
        }
    }
}

wide! {
    /// Drops of probabilities and of their gradient alike.
    fn drop_out_pair(mask: &RowMask, first: u32, tiles: [&mut [f32]; 3]) {
        let [probabilities, dropped, gradient] = tiles;
        let count = probabilities.len();
        let (dropped, gradient) = (&mut dropped[..count], &mut gradient[..count]);
        for i in 0..count {
            let factor = mask.factor(first.wrapping_add(i as u32));
            dropped[i] = probabilities[i] * factor;
            gradient[i] *= factor;
        }
    }
}

wide! {
    /// `dS = P (dP - Σ P dP)` in every row, in the place of `dP`.
    fn softmax_backward(probabilities: &[f32], gradient: &mut [f32]) {
        let count = gradient.len().isqrt();
        for (gradient, probabilities) in gradient.chunks_exact_mut(count).zip(probabilities.chunks_exact(count)) {
            let mean = sum(count, |i| gradient[i] * probabilities[i]);
            for i in 0..count {
                gradient[i] = probabilities[i] * (gradient[i] - mean);
            }
        }
    }
}

#[cfg(test)]
#[path = "attention_test.rs"]
mod tests;
