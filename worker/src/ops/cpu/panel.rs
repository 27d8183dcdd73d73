//! The panels that a matrix is packed into for a product: its columns in the order in which tiles read them.

use super::matrix::{Layout, Matrix};
use super::tile::{Kernels, RowCopy};

/// Rows and columns of the blocks in which a matrix that lies by columns is turned.
const BLOCK: usize = 8;

/// Packs the columns of `b` from `first` on, as many as a tile has, into `panel`: row after row, those that `b` has not as 0.
pub(super) fn pack(b: Matrix<'_>, first: usize, kernels: &Kernels, panel: &mut [f32]) {
    let width = kernels.columns;
    let columns = width.min(b.columns - first);
    match b.layout {
        Layout::ByRows if columns == width && b.rows > 0 => {
            let from = &b.values[first..][..(b.rows - 1) * b.stride + width];
            let to = &mut panel[..b.rows * width];
            let (from, to) = (from.as_ptr(), to.as_mut_ptr());
            let copy = RowCopy { from, from_stride: b.stride, to, to_stride: width, rows: b.rows };
            // SAFETY: all rows lie within both slices, which cannot overlap; the kernel is the processor's.
            unsafe { (kernels.copy)(&copy) }
        }
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
            let mut block = [[0.0; BLOCK]; BLOCK];
            for column in 0..BLOCK {
                block[column].copy_from_slice(&columns[column * stride + start..][..BLOCK]);
            }
            for row in 0..BLOCK {
                let mut turned = [0.0; BLOCK];
                for column in 0..BLOCK {
                    turned[column] = block[column][row];
                }
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
