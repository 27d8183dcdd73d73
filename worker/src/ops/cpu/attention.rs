//! Attention: one task for each sequence and head, its probabilities in a tile that the thread keeps.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::Cpu;
use super::math::{exp, max, sum};
use super::matrix::{Matrix, MatrixMut, SharedColumns};
use super::product::{Onto, Product, Threads};
use crate::batch::Batch;
use crate::ops::attention::{Attention, AttentionBackward, Columns, HeadShape};
use crate::ops::dropout::{Dropout, RowMask};

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
    queries: Range<usize>,
    keys: Range<usize>,
    q: Columns<&'a [f32]>,
    kv: Columns<&'a [f32]>,
    mask: Option<RowMask>,
}

struct Inputs<'a> {
    queries: &'a Batch,
    keys: &'a Batch,
    shape: HeadShape,
    qkv: [Columns<&'a [f32]>; 2],
    dropout: Option<Dropout>,
}

impl<'a> Inputs<'a> {
    /// The tasks, head by head within each sequence.
    fn tasks(&self) -> Vec<Task<'a>> {
        let Self { queries, keys, shape, qkv: [q, kv], dropout } = *self;
        let sequence = |sequence: usize| {
            let mask = dropout.map(|dropout| dropout.row(keys.rows[sequence]));
            let (queries, keys) = (queries.sequence(sequence), keys.sequence(sequence));
            let task = move |head| Task { shape, head, queries: queries.clone(), keys: keys.clone(), q, kv, mask };
            (0..shape.heads).map(task)
        };
        (0..keys.rows.len()).flat_map(sequence).collect()
    }
}

impl<'a> Task<'a> {
    /// The head's part of some rows of `columns`.
    fn part<'b>(&self, columns: Columns<&'b [f32]>, rows: &Range<usize>) -> Matrix<'b> {
        let (size, Columns { rows: values, first, width }) = (self.shape.head_size, columns);
        Matrix::strided(&values[rows.start * width + first + self.head * size..], rows.len(), size, width)
    }

    fn queries(&self) -> Matrix<'a> {
        self.part(self.q, &self.queries)
    }

    fn keys(&self) -> Matrix<'a> {
        self.part(self.kv, &self.keys)
    }

    fn values(&self) -> Matrix<'a> {
        self.part(Columns { first: self.kv.first + self.shape.hidden(), ..self.kv }, &self.keys)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_size as f32).sqrt()
    }

    /// Rows and columns of the probabilities.
    fn size(&self) -> (usize, usize) {
        (self.queries.len(), self.keys.len())
    }

    /// The number of the first element of the head's probabilities in their dropout mask.
    fn first_element(&self) -> u32 {
        (self.head * self.keys.len() * self.keys.len()) as u32
    }

    fn scores(&self, tile: &mut [f32]) {
        let (rows, columns) = self.size();
        let c = MatrixMut::new(tile, rows, columns);
        let (a, b) = (self.queries(), self.keys().transposed());
        Product { a, b, c, scale: self.scale(), onto: Onto::Nothing, threads: Threads::One }.compute();
    }

    fn forward(&self, stats: &mut [f32], context: MatrixMut<'_>) {
        let (rows, columns) = self.size();
        with_tiles(rows * columns, |[probabilities]| {
            self.scores(probabilities);
            softmax(probabilities, columns, stats);
            if let Some(mask) = &self.mask {
                drop_out(mask, self.first_element(), probabilities);
            }
            let (a, b) = (Matrix::new(probabilities, rows, columns), self.values());
            Product { a, b, c: context, scale: 1.0, onto: Onto::Nothing, threads: Threads::One }.compute();
        });
    }

    /// `[dq, dk, dv]` are the head's parts of the gradients.
    fn backward(&self, stats: &[f32], dcontext: &[f32], [dq, dk, dv]: [MatrixMut<'_>; 3]) {
        let (rows, columns) = self.size();
        let dcontext = self.dcontext(dcontext);
        let (scale, onto, threads) = (self.scale(), Onto::Nothing, Threads::One);
        with_tiles(rows * columns, |[probabilities, gradient, dropped]| {
            self.scores(probabilities);
            softmax_again(probabilities, columns, stats);
            let (b, c) = (self.values().transposed(), MatrixMut::new(gradient, rows, columns));
            Product { a: dcontext, b, c, scale: 1.0, onto, threads }.compute();
            let mut kept = &*probabilities;
            if let Some(mask) = &self.mask {
                drop_out_pair(mask, self.first_element(), [probabilities, dropped, gradient]);
                kept = dropped;
            }
            let a = Matrix::new(kept, rows, columns).transposed();
            Product { a, b: dcontext, c: dv, scale: 1.0, onto, threads }.compute();
            softmax_backward(probabilities, columns, gradient);
            let a = Matrix::new(gradient, rows, columns);
            Product { a, b: self.keys(), c: dq, scale, onto, threads }.compute();
            Product { a: a.transposed(), b: self.queries(), c: dk, scale, onto, threads }.compute();
        });
    }

    fn dcontext<'b>(&self, dcontext: &'b [f32]) -> Matrix<'b> {
        self.part(Columns { rows: dcontext, first: 0, width: self.shape.hidden() }, &self.queries)
    }
}

pub(super) fn forward(op: Attention<'_, Cpu>) {
    let (queries, keys) = (op.queries, op.keys);
    let qkv = op.qkv.columns(op.shape.hidden(), |values, _| values.as_slice());
    let tasks = Inputs { queries, keys, shape: op.shape, qkv, dropout: op.dropout }.tasks();
    let stats = by_task(op.stats, &tasks);
    let context = SharedColumns::new(op.context, op.shape.hidden());
    tasks.par_iter().with_max_len(1).zip(stats).for_each(|(task, stats)| {
        let size = task.shape.head_size;
        // SAFETY: no two tasks have the same sequence and head, so no other part overlaps this one.
        let context = unsafe { context.part(&task.queries, task.head * size, size) };
        task.forward(stats, context);
    });
}

pub(super) fn backward(op: AttentionBackward<'_, Cpu>) {
    let (queries, keys) = (op.queries, op.keys);
    let hidden = op.shape.hidden();
    let with_gradients =
        op.qkv.columns(hidden, |(values, gradient), width| (values.as_slice(), SharedColumns::new(gradient, width)));
    let qkv = with_gradients.map(|columns| columns.map(|(values, _)| values));
    let [(dq, to_query), (dkv, to_key)] = with_gradients.map(|columns| (columns.rows.1, columns.first));
    let tasks = Inputs { queries, keys, shape: op.shape, qkv, dropout: op.dropout }.tasks();
    tasks.par_iter().with_max_len(1).for_each(|task| {
        let (size, heads, count) = (task.shape.head_size, task.shape.heads, task.queries.len());
        let (column, stats) = (task.head * size, 2 * (task.queries.start * heads + task.head * count));
        // SAFETY: the three parts are different columns or buffers, and no two tasks have the same sequence and head.
        let parts = unsafe {
            [
                dq.part(&task.queries, to_query + column, size),
                dkv.part(&task.keys, to_key + column, size),
                dkv.part(&task.keys, to_key + hidden + column, size),
            ]
        };
        task.backward(&op.stats[stats..][..2 * count], op.dcontext, parts);
    });
}

/// Cuts the softmax statistics into each task's.
fn by_task<'a>(mut stats: &'a mut [f32], tasks: &[Task<'_>]) -> Vec<&'a mut [f32]> {
    let mut pieces = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (piece, rest) = stats.split_at_mut(2 * task.queries.len());
        pieces.push(piece);
        stats = rest;
    }
    pieces
}

wide! {
    /// Softmax of every row, in place.
    fn softmax(tile: &mut [f32], count: usize, stats: &mut [f32]) {
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
    fn softmax_again(tile: &mut [f32], count: usize, stats: &[f32]) {
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
    fn softmax_backward(probabilities: &[f32], count: usize, gradient: &mut [f32]) {
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
