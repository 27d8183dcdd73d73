//! The panels that a matrix is packed into for a product: its columns in the order in which tiles read them.

use std::ops::Range;

use super::matrix::{Layout, Matrix};
use super::tile::{Kernels, RowCopy};
#[cfg(target_arch = "x86_64")]
use super::wide::{Width, width as width_of_vectors};

/// Rows and columns of the blocks in which a matrix that lies by columns is turned.
const BLOCK: usize = 8;

/// Packs the columns of `b` from `first` on, as many as a tile has, into `panel`: row after row, those that `b` has not as 0.
pub(super) fn pack(b: Matrix<'_>, first: usize, kernels: &Kernels, panel: &mut [f32]) {
    let width = kernels.columns;
    let columns = width.min(b.columns - first);
    if b.rows == 0 {
        return;
    }
    match b.layout {
        Layout::ByRows if columns == width => {
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
            for column in turned..columns {
                let known = &b.values[(first + column) * b.stride..][..b.rows];
                for (packed, known) in panel[column..].iter_mut().step_by(width).zip(known) {
                    *packed = *known;
                }
            }
            for packed in panel.chunks_exact_mut(width).take(b.rows) {
                packed[columns..].fill(0.0);
            }
        }
    }
}

/// Packs some rows of `a`, which lies by columns, over a part of the inner dimension: tile after tile of `MOST` rows, each one
/// column after the other.
pub(super) fn pack_tiles<const MOST: usize>(a: Matrix<'_>, rows: &Range<usize>, part: &Range<usize>, to: &mut [f32]) {
    for (at, column) in part.clone().enumerate() {
        let column = &a.values[column * a.stride..][rows.clone()];
        let (tiles, rest) = column.as_chunks::<MOST>();
        for (tile, values) in tiles.iter().enumerate() {
            to[(tile * part.len() + at) * MOST..][..MOST].copy_from_slice(values);
        }
        if !rest.is_empty() {
            to[(tiles.len() * part.len() + at) * MOST..][..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Turns `BLOCK` columns of `length` numbers, each `stride` after the last, into rows, each `width` after the last.
fn turn(columns: &[f32], stride: usize, length: usize, width: usize, rows: &mut [f32]) {
    let mut start = 0;
    #[cfg(target_arch = "x86_64")]
    if width_of_vectors() >= Width::Avx2 {
        let whole = length / BLOCK * BLOCK;
        if whole > 0 {
            let columns = &columns[..(BLOCK - 1) * stride + whole];
            let rows = &mut rows[..(whole - 1) * width + BLOCK];
            while start < whole {
                // SAFETY: the processor has AVX2, and the block's columns and rows lie within the slices.
                unsafe {
                    x86::turn_block(columns.as_ptr().add(start), stride, rows.as_mut_ptr().add(start * width), width)
                }
                start += BLOCK;
            }
        }
    }
    for row in start..length {
        for column in 0..BLOCK {
            rows[row * width + column] = columns[column * stride + row];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };

    use super::BLOCK;

    /// Turns one block: pairs of numbers, then fours, then halves change places.
    ///
    /// # Safety
    /// The processor has AVX2; there are `BLOCK` columns to read and rows to write, `BLOCK` numbers each.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn turn_block(columns: *const f32, stride: usize, rows: *mut f32, width: usize) {
        // SAFETY: the caller's.
        let column = |column: usize| unsafe { _mm256_loadu_ps(columns.add(column * stride)) };
        let fours = |first: usize| -> [__m256; 4] {
            let (a, b, c, d) = (column(first), column(first + 1), column(first + 2), column(first + 3));
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (next_low, next_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(low, next_low),
                _mm256_shuffle_ps::<0xee>(low, next_low),
                _mm256_shuffle_ps::<0x44>(high, next_high),
                _mm256_shuffle_ps::<0xee>(high, next_high),
            ]
        };
        let (left, right) = (fours(0), fours(BLOCK / 2));
        for row in 0..BLOCK / 2 {
            // SAFETY: the caller's.
            unsafe {
                let upper = _mm256_permute2f128_ps::<0x20>(left[row], right[row]);
                let lower = _mm256_permute2f128_ps::<0x31>(left[row], right[row]);
                _mm256_storeu_ps(rows.add(row * width), upper);
                _mm256_storeu_ps(rows.add((row + BLOCK / 2) * width), lower);
            }
        }
    }
}
