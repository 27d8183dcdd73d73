//! Launches of `attention.cu`.

use super::driver::{Driver, Grid, Kernel};
use super::pack::Part;
use super::{Argument, Cuda, dropout_arguments, int};
use crate::ops::DeviceError;
use crate::ops::attention::{Attention, AttentionBackward, HeadShape};

const FORWARD: Kernel = Kernel { module: "attention", name: "attention_forward" };
const QUERY_GRADIENT: Kernel = Kernel { module: "attention", name: "attention_query_gradient" };
const KEY_VALUE_GRADIENT: Kernel = Kernel { module: "attention", name: "attention_key_value_gradient" };

/// Rows that a block computes: `TILE`, `COLUMNS`, `WARPS` and `ROWS` are as in the kernels.
pub(super) const TILE: usize = 16;
const COLUMNS: usize = 32;
const WARPS: usize = 4;
const ROWS: usize = TILE / WARPS;

/// What a block shares, in elements: two tiles of columns, `row_tiles` tiles of rows, `weights` matrices of weights a
/// warp, and a row of columns.
fn grid(tiles: usize, shape: HeadShape, row_tiles: usize, weights: usize) -> Grid {
    let columns = 2 * COLUMNS * (shape.head_size + 4);
    let rows = row_tiles * TILE * shape.head_size;
    let shared = columns + rows + weights * WARPS * ROWS * COLUMNS + COLUMNS;
    Grid { blocks: [tiles, shape.heads], threads: WARPS * 32, shared_bytes: shared * size_of::<f32>() }
}

fn head_arguments(shape: HeadShape) -> [Argument; 3] {
    [int(shape.heads), int(shape.head_size), Argument::Float(1.0 / (shape.head_size as f32).sqrt())]
}

pub(super) fn forward<D: Driver>(cuda: &Cuda<D>, op: Attention<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let hidden = op.shape.hidden();
    let (asking, tokens) = (op.queries.as_ref().tokens.len(), op.keys.as_ref().tokens.len());
    let [heads, size, scale] = head_arguments(op.shape);
    let [key, threshold, factor] = dropout_arguments(op.dropout);
    let arguments = [
        cuda.stored(op.q, 0..asking * hidden)?,
        cuda.stored(op.kv, 0..tokens * 2 * hidden)?,
        cuda.stored(op.context, 0..asking * hidden)?,
        cuda.wide(op.stats, 0..asking * op.shape.heads * 2)?,
        cuda.part(op.queries, Part::Tiles),
        cuda.part(op.queries, Part::Offsets),
        cuda.part(op.keys, Part::Offsets),
        cuda.part(op.keys, Part::Rows),
        heads,
        size,
        scale,
        key,
        threshold,
        factor,
    ];
    cuda.enqueue(FORWARD, cuda.element, grid(op.queries.tiles, op.shape, 1, 1), &arguments)
}

pub(super) fn backward<D: Driver>(cuda: &Cuda<D>, op: AttentionBackward<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let hidden = op.shape.hidden();
    let (asking, tokens) = (op.queries.as_ref().tokens.len(), op.keys.as_ref().tokens.len());
    let [heads, size, scale] = head_arguments(op.shape);
    let [key, threshold, factor] = dropout_arguments(op.dropout);
    let inputs = [
        cuda.stored(op.q, 0..asking * hidden)?,
        cuda.stored(op.kv, 0..tokens * 2 * hidden)?,
        cuda.stored(op.context, 0..asking * hidden)?,
        cuda.wide(op.stats, 0..asking * op.shape.heads * 2)?,
        cuda.stored(op.dcontext, 0..asking * hidden)?,
    ];
    let outputs = [
        (QUERY_GRADIENT, op.queries, &*op.dq, asking * hidden),
        (KEY_VALUE_GRADIENT, op.keys, &*op.dkv, tokens * 2 * hidden),
    ];
    for (kernel, pack, gradient, elements) in outputs {
        let mut arguments = inputs.to_vec();
        arguments.extend([
            cuda.stored(gradient, 0..elements)?,
            cuda.part(pack, Part::Tiles),
            cuda.part(op.queries, Part::Offsets),
            cuda.part(op.keys, Part::Offsets),
            cuda.part(op.keys, Part::Rows),
        ]);
        arguments.extend([heads, size, scale, key, threshold, factor]);
        cuda.enqueue(kernel, cuda.element, grid(pack.tiles, op.shape, 2, 2), &arguments)?;
    }
    Ok(())
}
