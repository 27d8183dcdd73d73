//! Launches of `gelu.cu`.

use super::driver::{Driver, Grid, Kernel};
use super::pack::Part;
use super::{Cuda, int};
use crate::ops::DeviceError;
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};

const FORWARD: Kernel = Kernel { module: "gelu", name: "gelu_forward" };
const BACKWARD: Kernel = Kernel { module: "gelu", name: "gelu_backward" };

/// A thread takes four columns.
const THREADS: usize = 128;

pub(super) fn forward<D: Driver>(cuda: &Cuda<D>, op: BiasGelu<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, tokens) = (op.bias.range.len(), op.pack.as_ref().tokens.len());
    let whole = 0..tokens * width;
    let arguments =
        [cuda.stored(op.u, whole.clone())?, cuda.wide_run(&op.bias)?, cuda.stored(op.a, whole)?, int(width)];
    cuda.enqueue(FORWARD, cuda.element, grid(tokens, width), &arguments)
}

pub(super) fn backward<D: Driver>(cuda: &Cuda<D>, op: BiasGeluBackward<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, batch) = (op.bias.range.len(), op.pack.as_ref());
    let whole = 0..batch.tokens.len() * width;
    let arguments = [
        cuda.stored(op.u, whole.clone())?,
        cuda.wide_run(&op.bias)?,
        cuda.stored(op.gradient, whole)?,
        cuda.wide(op.partials, 0..batch.blocks.len() * width)?,
        cuda.part(op.pack, Part::Blocks),
        int(width),
    ];
    cuda.enqueue(BACKWARD, cuda.element, grid(batch.blocks.len(), width), &arguments)
}

fn grid(rows: usize, width: usize) -> Grid {
    Grid { blocks: [rows, width.div_ceil(4 * THREADS)], threads: THREADS, shared_bytes: 0 }
}
