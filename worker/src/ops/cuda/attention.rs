//! Launches of `attention.cu`, and of `matrix_attention.cu` for what matrix units compute.

use super::driver::{Driver, Element, Grid, Kernel};
use super::pack::{Pack, Part};
use super::{Argument, Buffer, Cuda, dropout_argument, int};
use crate::ops::DeviceError;
use crate::ops::attention::{Attention, AttentionBackward, Columns, HeadShape};
use crate::ops::dropout::Dropout;

/// Rows that a block computes: `TILE`, `COLUMNS`, `WARPS` and `ROWS` are as in the kernels.
pub(super) const TILE: usize = 16;
const COLUMNS: usize = 32;
const WARPS: usize = 4;
const ROWS: usize = TILE / WARPS;

/// Rows of a block of a matrix that a warp multiplies.
const MATRIX_BLOCK: usize = 16;
/// Rows that a block of threads computes by matrix units.
pub(super) const MATRIX_TILE: usize = WARPS * MATRIX_BLOCK;
/// Columns that are in shared memory at once, at most.
const MOST_COLUMNS: usize = 128;

/// One of the computations, by lanes and by matrix units.
struct Forms {
    lanes: Kernel,
    matrix: Kernel,
    /// By lanes: tiles of rows that a block shares, and matrices of weights that each of its warps does.
    row_tiles: usize,
    weights: usize,
    /// By matrix units: numbers of each column that a block shares.
    numbers: usize,
}

const FORWARD: Forms = Forms {
    lanes: Kernel { module: "attention", name: "attention_forward" },
    matrix: Kernel { module: "matrix_attention", name: "matrix_attention_forward" },
    row_tiles: 1,
    weights: 1,
    numbers: 0,
};
const QUERY_GRADIENT: Forms = Forms {
    lanes: Kernel { module: "attention", name: "attention_query_gradient" },
    matrix: Kernel { module: "matrix_attention", name: "matrix_attention_query_gradient" },
    row_tiles: 2,
    weights: 2,
    numbers: 0,
};
const KEY_VALUE_GRADIENT: Forms = Forms {
    lanes: Kernel { module: "attention", name: "attention_key_value_gradient" },
    matrix: Kernel { module: "matrix_attention", name: "matrix_attention_key_value_gradient" },
    row_tiles: 2,
    weights: 2,
    numbers: 3,
};

impl Forms {
    /// What a block shares by lanes, in elements: two tiles of columns, tiles of rows, weights, and a row of columns.
    fn lanes_grid(&self, tiles: usize, shape: HeadShape) -> Grid {
        let columns = 2 * COLUMNS * (shape.head_size + 4);
        let rows = self.row_tiles * TILE * shape.head_size;
        let shared = columns + rows + self.weights * WARPS * ROWS * COLUMNS + COLUMNS;
        Grid { blocks: [tiles, shape.heads], threads: WARPS * 32, shared_bytes: shared * size_of::<f32>() }
    }

    /// By matrix units it has room for so many columns: two elements each of everything in a head, and their numbers.
    fn matrix_grid(&self, tiles: usize, shape: HeadShape, room: usize) -> Grid {
        let column = 2 * (shape.head_size + 8) * Element::Bf16.bytes() + self.numbers * size_of::<f32>();
        Grid { blocks: [tiles, shape.heads], threads: WARPS * 32, shared_bytes: room * column }
    }
}

/// What all computations of an attention are about.
struct Scene<'a, M> {
    queries: &'a Pack<M>,
    keys: &'a Pack<M>,
    shape: HeadShape,
    /// Columns of a row of queries, and of one of keys and values.
    widths: [usize; 2],
    dropout: Option<Dropout>,
}

impl<M> Scene<'_, M> {
    /// Matrix units multiply halves; the kernels are written for the sizes that BERT's heads have.
    fn is_for_matrix_units(&self, element: Element) -> bool {
        element != Element::F32 && matches!(self.shape.head_size, 32 | 64)
    }

    /// Enqueues the computation of what `rows` have from all of `columns`.
    fn enqueue<D: Driver<Memory = M>>(
        &self,
        cuda: &Cuda<D>,
        forms: &Forms,
        [rows, columns]: [&Pack<M>; 2],
        buffers: &[Argument],
    ) -> Result<(), DeviceError> {
        let Self { queries, keys, shape, widths: [query_width, pair_width], dropout } = *self;
        let by_matrix_units = self.is_for_matrix_units(cuda.element);
        let tiles = if by_matrix_units { Part::MatrixTiles } else { Part::Tiles };
        let mut arguments = buffers.to_vec();
        arguments.extend([
            cuda.part(rows, tiles),
            cuda.part(queries, Part::Offsets),
            cuda.part(keys, Part::Offsets),
            cuda.part(keys, Part::Rows),
        ]);
        arguments.extend([int(shape.heads), int(shape.head_size), Argument::Float(scale(shape))]);
        arguments.extend([int(query_width), int(pair_width)]);
        arguments.push(dropout_argument(cuda, keys, dropout)?);
        if !by_matrix_units {
            return cuda.enqueue(forms.lanes, cuda.element, forms.lanes_grid(rows.tiles, shape), &arguments);
        }
        let room = columns.longest.next_multiple_of(MATRIX_BLOCK).min(MOST_COLUMNS);
        arguments.push(int(room));
        cuda.enqueue(forms.matrix, cuda.element, forms.matrix_grid(rows.matrix_tiles, shape, room), &arguments)
    }
}

fn scale(shape: HeadShape) -> f32 {
    1.0 / (shape.head_size as f32).sqrt()
}

/// Where some columns of so many rows begin.
fn place<D: Driver>(
    cuda: &Cuda<D>,
    columns: &Columns<&Buffer<D::Memory>>,
    rows: usize,
) -> Result<Argument, DeviceError> {
    let end = rows * columns.width;
    cuda.stored(columns.rows, columns.first.min(end)..end)
}

pub(super) fn forward<D: Driver>(cuda: &Cuda<D>, op: Attention<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let Attention { queries, keys, shape, dropout, qkv, context, stats } = op;
    let (asking, tokens) = (queries.as_ref().tokens.len(), keys.as_ref().tokens.len());
    let [q, kv] = qkv.columns(shape.hidden(), |values, _| values);
    let buffers = [
        place(cuda, &q, asking)?,
        place(cuda, &kv, tokens)?,
        cuda.stored(context, 0..asking * shape.hidden())?,
        cuda.wide(stats, 0..asking * shape.heads * 2)?,
    ];
    let scene = Scene { queries, keys, shape, widths: [q.width, kv.width], dropout };
    scene.enqueue(cuda, &FORWARD, [queries, keys], &buffers)
}

pub(super) fn backward<D: Driver>(cuda: &Cuda<D>, op: AttentionBackward<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let AttentionBackward { queries, keys, shape, dropout, qkv, context, stats, dcontext } = op;
    let (asking, tokens, hidden) = (queries.as_ref().tokens.len(), keys.as_ref().tokens.len(), shape.hidden());
    let columns = qkv.columns(hidden, |(values, gradient), _| (values, &*gradient));
    let [q, kv] = columns.map(|columns| columns.map(|(values, _)| values));
    let [dq, dkv] = columns.map(|columns| columns.map(|(_, gradient)| gradient));
    let buffers = |gradient| {
        [
            place(cuda, &q, asking),
            place(cuda, &kv, tokens),
            cuda.stored(context, 0..asking * hidden),
            cuda.wide(stats, 0..asking * shape.heads * 2),
            cuda.stored(dcontext, 0..asking * hidden),
            gradient,
        ]
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
    };
    let scene = Scene { queries, keys, shape, widths: [q.width, kv.width], dropout };
    scene.enqueue(cuda, &QUERY_GRADIENT, [queries, keys], &buffers(place(cuda, &dq, asking))?)?;
    scene.enqueue(cuda, &KEY_VALUE_GRADIENT, [keys, queries], &buffers(place(cuda, &dkv, tokens))?)
}
