//! The panels that a matrix is packed into for a product: its columns in the order in which tiles read them.

use super::matrix::{Layout, Matrix};

/// Rows and columns of the blocks in which a matrix that lies by columns is turned.
const BLOCK: usize = 8;

/// Packs up to `width` columns of `b`, from `first` on, into `panel`: row after row, `width` numbers each, those that `b`
/// has not as 0. `width` is a multiple of 8.
pub(super) fn pack(b: Matrix<'_>, first: usize, width: usize, panel: &mut [f32]) {
    let columns = width.min(b.columns - first);
    match b.layout {
        Layout::ByRows => {
            for (row, packed) in panel.chunks_exact_mut(width).take(b.rows).enumerate() {
                let (known, rest) = packed.split_at_mut(columns);
                known.copy_from_slice(&b.values[row * b.stride + first..][..columns]);
                rest.fill(0.0);
            }
        }
        Layout::ByColumns => {
            let turned = columns / BLOCK * BLOCK;
            for column in (0..turned).step_by(BLOCK) {
                turn(&b.values[(first + column) * b.stride..], b.stride, b.rows, width, &mut panel[column..]);
            }
            for column in turned..width {
                let known = (column < columns).then(|| &b.values[(first + column) * b.stride..][..b.rows]);
                for (row, packed) in panel.chunks_exact_mut(width).take(b.rows).enumerate() {
                    packed[column] = known.map_or(0.0, |known| known[row]);
                }
            }
        }
    }
}

wide! {
    /// Turns `BLOCK` columns of `length` numbers, each `stride` after the last, into rows, each `width` after the last.
    fn turn(columns: &[f32], stride: usize, length: usize, width: usize, rows: &mut [f32]) {
        let whole = length / BLOCK * BLOCK;
        for start in (0..whole).step_by(BLOCK) {
            let block: [[f32; BLOCK]; BLOCK] = std::array::from_fn(|column| eight(&columns[column * stride + start..]));
            for row in 0..BLOCK {
                let turned: [f32; BLOCK] = std::array::from_fn(|column| block[column][row]);
                rows[(start + row) * width..][..BLOCK].copy_from_slice(&turned);
            }
        }
        for row in whole..length {
            for column in 0..BLOCK {
                rows[row * width + column] = columns[column * stride + row];
            }
        }
    }
}

#[inline(always)]
fn eight(values: &[f32]) -> [f32; BLOCK] {
    let mut eight = [0.0; BLOCK];
    eight.copy_from_slice(&values[..BLOCK]);
    eight
}
