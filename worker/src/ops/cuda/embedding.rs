//! Launches of `embedding.cu`.

use super::driver::{Driver, Element, Grid, Kernel};
use super::norm::{block_grid, row_grid};
use super::pack::Part;
use super::{Argument, Buffer, Cuda, dropout_argument, int};
use crate::collective::SparseRows;
use crate::ops::DeviceError;
use crate::ops::embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};

const FORWARD: Kernel = Kernel { module: "embedding", name: "embedding_forward" };
const BACKWARD: Kernel = Kernel { module: "embedding", name: "embedding_backward" };
const POSITIONS: Kernel = Kernel { module: "embedding", name: "position_gradient" };
const WORDS: Kernel = Kernel { module: "embedding", name: "word_gradient" };

pub(super) fn forward<D: Driver>(cuda: &Cuda<D>, op: Embedding<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, tokens) = (op.norm.gamma.range.len(), op.pack.as_ref().tokens.len());
    let whole = 0..tokens * width;
    let arguments = [
        cuda.wide_run(&op.words)?,
        cuda.wide_run(&op.positions)?,
        cuda.wide_run(&op.types)?,
        cuda.wide_run(&op.norm.gamma)?,
        cuda.wide_run(&op.norm.beta)?,
        Argument::Float(op.norm.epsilon as f32),
        cuda.stored(op.z, whole.clone())?,
        cuda.wide(op.stats, 0..2 * tokens)?,
        cuda.stored(op.y, whole)?,
        cuda.part(op.pack, Part::Tokens),
        cuda.part(op.pack, Part::Segments),
        cuda.part(op.pack, Part::Positions),
        cuda.part(op.pack, Part::Sequences),
        cuda.part(op.pack, Part::Rows),
        dropout_argument(cuda, op.pack, op.dropout)?,
        int(tokens),
        int(width),
    ];
    cuda.enqueue(FORWARD, cuda.element, row_grid(tokens, width), &arguments)
}

pub(super) fn backward<D: Driver>(cuda: &Cuda<D>, op: EmbeddingBackward<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, batch) = (op.gamma.range.len(), op.pack.as_ref());
    let (tokens, blocks) = (batch.tokens.len(), batch.blocks.len());
    let whole = 0..tokens * width;
    let arguments = [
        cuda.stored(op.dy, whole.clone())?,
        cuda.stored(op.z, whole.clone())?,
        cuda.wide(op.stats, 0..2 * tokens)?,
        cuda.wide_run(&op.gamma)?,
        cuda.stored(op.dz, whole)?,
        cuda.wide(op.partials, 0..blocks * (op.types + 2) * width)?,
        cuda.part(op.pack, Part::Segments),
        int(op.types),
        cuda.part(op.pack, Part::Blocks),
        cuda.part(op.pack, Part::Positions),
        cuda.part(op.pack, Part::Sequences),
        cuda.part(op.pack, Part::Rows),
        dropout_argument(cuda, op.pack, op.dropout)?,
        int(width),
    ];
    cuda.enqueue(BACKWARD, cuda.element, block_grid(blocks, width), &arguments)
}

pub(super) fn position_gradient<D: Driver>(
    cuda: &Cuda<D>,
    op: PositionGradient<'_, Cuda<D>>,
) -> Result<(), DeviceError> {
    let width = op.hidden;
    let arguments = [
        cuda.stored(op.dz, 0..op.pack.as_ref().tokens.len() * width)?,
        cuda.part(op.pack, Part::Offsets),
        int(op.lane.sequences.start),
        int(op.lane.sequences.end),
        cuda.wide_mut(&op.dpositions)?,
        int(width),
    ];
    cuda.enqueue(POSITIONS, cuda.element, row_copy_grid(op.dpositions.range.len() / width.max(1), width), &arguments)
}

pub(super) fn word_gradient<D: Driver>(
    cuda: &Cuda<D>,
    op: WordGradient<'_, Cuda<D>>,
) -> Result<SparseRows<Buffer<D::Memory>>, DeviceError> {
    let Some(words) = op.pack.words(op.lane) else { return Ok(SparseRows::default()) };
    let values = cuda.allocate(words.rows.len() * op.hidden, Element::F32)?;
    let arguments = [
        cuda.stored(op.dz, 0..op.pack.as_ref().tokens.len() * op.hidden)?,
        cuda.part_from(op.pack, Part::WordStarts, words.first),
        cuda.part(op.pack, Part::WordTokens),
        cuda.wide(&values, 0..words.rows.len() * op.hidden)?,
        int(op.hidden),
    ];
    cuda.enqueue(WORDS, cuda.element, row_copy_grid(words.rows.len(), op.hidden), &arguments)?;
    Ok(SparseRows { rows: words.rows.clone(), values })
}

/// One row a block of threads, four columns a thread.
fn row_copy_grid(rows: usize, width: usize) -> Grid {
    Grid::new(rows, (width / 4).next_multiple_of(32).clamp(32, 256))
}
