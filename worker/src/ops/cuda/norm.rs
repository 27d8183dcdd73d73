//! Launches of `norm.cu`, and the shapes of the grids that norm rows.

use super::driver::{Driver, Grid, Kernel};
use super::pack::Part;
use super::{Argument, Cuda, dropout_argument, int};
use crate::batch::BLOCK_TOKENS;
use crate::ops::DeviceError;
use crate::ops::norm::{ResidualNorm, ResidualNormBackward};

const FORWARD: Kernel = Kernel { module: "norm", name: "norm_forward" };
const BACKWARD: Kernel = Kernel { module: "norm", name: "norm_backward" };

const WARP: usize = 32;
/// What blocks share at most, on any device, without asking for more.
const SHARED_BYTES: usize = 48 * 1024;

pub(super) fn forward<D: Driver>(cuda: &Cuda<D>, op: ResidualNorm<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, tokens) = (op.bias.range.len(), op.pack.as_ref().tokens.len());
    let whole = 0..tokens * width;
    let arguments = [
        cuda.stored(op.z, whole.clone())?,
        cuda.wide_run(&op.bias)?,
        cuda.stored(op.residual, whole.clone())?,
        cuda.wide_run(&op.norm.gamma)?,
        cuda.wide_run(&op.norm.beta)?,
        Argument::Float(op.norm.epsilon as f32),
        cuda.wide(op.stats, 0..2 * tokens)?,
        cuda.stored(op.y, whole)?,
        cuda.part(op.pack, Part::Positions),
        cuda.part(op.pack, Part::Sequences),
        cuda.part(op.pack, Part::Rows),
        dropout_argument(cuda, op.pack, op.dropout)?,
        int(tokens),
        int(width),
    ];
    cuda.enqueue(FORWARD, cuda.element, row_grid(tokens, width), &arguments)
}

pub(super) fn backward<D: Driver>(cuda: &Cuda<D>, op: ResidualNormBackward<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, batch) = (op.gamma.range.len(), op.pack.as_ref());
    let (tokens, blocks) = (batch.tokens.len(), batch.blocks.len());
    let whole = 0..tokens * width;
    let arguments = [
        cuda.stored(op.dy, whole.clone())?,
        cuda.stored(op.z, whole.clone())?,
        cuda.wide(op.stats, 0..2 * tokens)?,
        cuda.wide_run(&op.gamma)?,
        cuda.stored(op.dz, whole.clone())?,
        cuda.stored(op.du, whole)?,
        cuda.wide(op.partials, 0..blocks * 3 * width)?,
        cuda.part(op.pack, Part::Blocks),
        cuda.part(op.pack, Part::Positions),
        cuda.part(op.pack, Part::Sequences),
        cuda.part(op.pack, Part::Rows),
        dropout_argument(cuda, op.pack, op.dropout)?,
        int(width),
    ];
    cuda.enqueue(BACKWARD, cuda.element, block_grid(blocks, width), &arguments)
}

/// One row a warp, each with its row in shared memory.
pub(super) fn row_grid(rows: usize, width: usize) -> Grid {
    let row_bytes = width * size_of::<f32>();
    let warps = (SHARED_BYTES / row_bytes.max(1)).clamp(1, 4);
    Grid { blocks: [rows.div_ceil(warps), 1], threads: warps * WARP, shared_bytes: warps * row_bytes }
}

/// One block of tokens a block of threads, with two means a token in shared memory; a thread takes four columns.
pub(super) fn block_grid(blocks: usize, width: usize) -> Grid {
    let threads = (width / 4).next_multiple_of(WARP).clamp(4 * WARP, 512);
    Grid { blocks: [blocks, 1], threads, shared_bytes: BLOCK_TOKENS * 2 * size_of::<f32>() }
}
