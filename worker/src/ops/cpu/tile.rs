//! The innermost loop of a matrix product: a tile of the result, kept in registers while its sums are taken.
//!
//! A tile is some rows of two vectors each. Every element is one chain of multiplications and additions in the order of the
//! inner dimension, each rounded once, beginning with 0: its bits depend on nothing but its row of `a` and its column of `b`.
//! The shape is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): one operand in
//! vectors from a packed panel, the other a number at a time.

use std::ops::Range;

use super::matrix::Matrix;
use super::panel::pack_tiles;
use super::vector::{Plain, Vector};
use super::wide::{Width, width};

/// The most rows of a tile, of all kernels.
const MOST_ROWS: usize = 12;
/// The most columns of a tile, of all kernels.
const MOST_COLUMNS: usize = 32;

/// Elements of the largest tile: the room that one is given.
pub(super) const TILE: usize = MOST_ROWS * MOST_COLUMNS;

/// What a tile's elements are sums of.
pub(super) struct Factors {
    /// The tile's first row of `a`.
    pub(super) a: *const f32,
    /// From an element of `a` to the next where that is not 1: to the next row if `a` lies by rows, else along the inner
    /// dimension.
    pub(super) a_stride: usize,
    /// The panel of `b`: the tile's columns of it, one row of all of them after the other.
    pub(super) b: *const f32,
    /// How many products each element is the sum of.
    pub(super) inner: usize,
    /// What the sums begin with, and from a row of it to the next; 0 where there is nothing.
    pub(super) begin: Option<(*const f32, usize)>,
}

/// Where a tile goes: `c = scale a b`, or `c = base + scale a b`.
pub(super) struct Target {
    /// The tile's first element of `c`.
    pub(super) c: *mut f32,
    /// From a row of `c` to the next.
    pub(super) c_stride: usize,
    /// What the products are multiplied by.
    pub(super) scale: f32,
    /// What they are added to, and from a row of it to the next.
    pub(super) base: Option<(*const f32, usize)>,
}

/// Computes one tile.
///
/// # Safety
/// The processor has the kernel's instructions; `a`, `b`, `c` and `base` are as large as the kernel's rows and columns.
type Kernel = unsafe fn(&Factors, &Target);

/// Rows to copy, each as wide as a tile: where they are and where they go, and from one to the next.
pub(super) struct RowCopy {
    /// The first.
    pub(super) from: *const f32,
    /// From one to the next.
    pub(super) from_stride: usize,
    /// Where the first goes.
    pub(super) to: *mut f32,
    /// From one to the next.
    pub(super) to_stride: usize,
    /// How many.
    pub(super) rows: usize,
}

/// The kernels of one width of vectors.
pub(super) struct Kernels {
    /// Columns of a tile.
    pub(super) columns: usize,
    /// Copies rows of a tile's width, which do not overlap. It needs what a [`Kernel`] needs.
    pub(super) copy: unsafe fn(&RowCopy),
    /// [`pack_tiles`], for tiles of these kernels.
    pub(super) pack_tiles: fn(Matrix<'_>, &Range<usize>, &Range<usize>, &mut [f32]),
    /// For 1, 2, … rows, of an `a` that lies by rows.
    by_rows: &'static [Kernel],
    /// For 1, 2, … rows, of an `a` that lies by columns.
    by_columns: &'static [Kernel],
}

impl Kernels {
    /// Those for this processor.
    pub(super) fn of_processor() -> &'static Self {
        Self::of(width(), is_fused())
    }

    /// Those for a processor with vectors of this width, which multiplies and adds in one step or does not.
    fn of(width: Width, fused: bool) -> &'static Self {
        match width {
            _ if !fused => &UNFUSED,
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => &x86::AVX512,
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => &x86::AVX2,
            _ => &PLAIN,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(&self) -> usize {
        self.by_rows.len()
    }

    /// The kernel for tiles of so many rows, at most [`Self::rows`].
    pub(super) fn kernel(&self, rows: usize, a_lies_by_rows: bool) -> Kernel {
        (if a_lies_by_rows { self.by_rows } else { self.by_columns })[rows - 1]
    }
}

/// Whether the processor multiplies and adds in one step.
pub(super) fn is_fused() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        cfg!(target_arch = "aarch64")
    }
}

/// A tile of `ROWS` rows of two vectors; `a` lies by rows or by columns.
#[inline(always)]
unsafe fn compute<V: Vector, const ROWS: usize, const BY_ROWS: bool>(factors: &Factors, target: &Target) {
    let Factors { a, a_stride, mut b, inner, begin } = *factors;
    // SAFETY: the caller vouches for the instructions and for the sizes: `ROWS` rows of `a` and `c`, `inner` of `b`.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; ROWS];
        if let Some((begin, stride)) = begin {
            for (row, sums) in sums.iter_mut().enumerate() {
                let begin = begin.add(row * stride);
                *sums = [V::load(begin), V::load(begin.add(V::LANES))];
            }
        }
        let step = if BY_ROWS { a_stride } else { 1 };
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.wrapping_add(row * step));
        let mut at = 0;
        for _ in 0..inner {
            let columns = [V::load(b), V::load(b.add(V::LANES))];
            for (sums, row) in sums.iter_mut().zip(rows) {
                let value = V::splat(*row.wrapping_add(at));
                *sums = [sums[0].plus_product(value, columns[0]), sums[1].plus_product(value, columns[1])];
            }
            b = b.add(2 * V::LANES);
            at += if BY_ROWS { 1 } else { a_stride };
        }
        let scale = V::splat(target.scale);
        for (row, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                let place = half * V::LANES;
                let mut value = sum.times(scale);
                if let Some((base, stride)) = target.base {
                    value = V::load(base.add(row * stride + place)).plus(value);
                }
                value.store(target.c.add(row * target.c_stride + place));
            }
        }
    }
}

/// Copies rows of two vectors.
#[inline(always)]
unsafe fn copy_rows<V: Vector>(copy: &RowCopy) {
    let RowCopy { mut from, from_stride, mut to, to_stride, rows } = *copy;
    for _ in 0..rows {
        // SAFETY: the caller vouches for the rows.
        unsafe {
            V::load(from).store(to);
            V::load(from.add(V::LANES)).store(to.add(V::LANES));
        }
        (from, to) = (from.wrapping_add(from_stride), to.wrapping_add(to_stride));
    }
}

/// The kernels of `$kernel` for these numbers of rows.
macro_rules! kernels {
    ($columns:literal, $most:literal, $copy:ident, $kernel:ident, [$($rows:literal),*]) => {{
        const { assert!($columns <= MOST_COLUMNS && $most <= MOST_ROWS && [$($rows),*].len() == $most) };
        Kernels {
            columns: $columns,
            copy: $copy,
            pack_tiles: pack_tiles::<$most>,
            by_rows: &[$($kernel::<$rows, true>),*],
            by_columns: &[$($kernel::<$rows, false>),*],
        }
    }};
}

unsafe fn copy_rows_plain(copy: &RowCopy) {
    // SAFETY: the caller's.
    unsafe { copy_rows::<Plain<true>>(copy) }
}

unsafe fn plain<const ROWS: usize, const BY_ROWS: bool>(factors: &Factors, target: &Target) {
    // SAFETY: the caller's.
    unsafe { compute::<Plain<true>, ROWS, BY_ROWS>(factors, target) }
}

unsafe fn unfused<const ROWS: usize, const BY_ROWS: bool>(factors: &Factors, target: &Target) {
    // SAFETY: the caller's.
    unsafe { compute::<Plain<false>, ROWS, BY_ROWS>(factors, target) }
}

static PLAIN: Kernels = kernels!(8, 6, copy_rows_plain, plain, [1, 2, 3, 4, 5, 6]);
static UNFUSED: Kernels = kernels!(8, 6, copy_rows_plain, unfused, [1, 2, 3, 4, 5, 6]);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Factors, Kernels, MOST_COLUMNS, MOST_ROWS, RowCopy, Target, compute, copy_rows, pack_tiles};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn avx512<const ROWS: usize, const BY_ROWS: bool>(factors: &Factors, target: &Target) {
        // SAFETY: the caller's, and the instructions are enabled here.
        unsafe { compute::<__m512, ROWS, BY_ROWS>(factors, target) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const ROWS: usize, const BY_ROWS: bool>(factors: &Factors, target: &Target) {
        // SAFETY: the caller's, and the instructions are enabled here.
        unsafe { compute::<__m256, ROWS, BY_ROWS>(factors, target) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn copy_avx512(copy: &RowCopy) {
        // SAFETY: the caller's, and the instructions are enabled here.
        unsafe { copy_rows::<__m512>(copy) }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn copy_avx2(copy: &RowCopy) {
        // SAFETY: the caller's, and the instructions are enabled here.
        unsafe { copy_rows::<__m256>(copy) }
    }

    /// 24 of the 32 registers are sums.
    pub(super) static AVX512: Kernels = kernels!(32, 12, copy_avx512, avx512, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    /// 12 of the 16 registers are sums.
    pub(super) static AVX2: Kernels = kernels!(16, 6, copy_avx2, avx2, [1, 2, 3, 4, 5, 6]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::oracle::noise;
    use crate::ops::cpu::wide::widest;

    /// All kernels that this processor has the instructions of, and whether they multiply and add in one step.
    fn all() -> Vec<(&'static Kernels, bool)> {
        let mut all = vec![(&UNFUSED, false), (&PLAIN, true)];
        #[cfg(target_arch = "x86_64")]
        if is_fused() {
            all.extend((widest() >= Width::Avx2).then_some((&x86::AVX2, true)));
            all.extend((widest() >= Width::Avx512).then_some((&x86::AVX512, true)));
        }
        all
    }

    #[test]
    fn tiles_of_any_shape_are_those_of_the_formula() {
        const INNER: usize = 19;
        const HALF: usize = 8;
        for (kernels, fused) in all() {
            let columns = kernels.columns;
            let b = noise(INNER * columns, 1);
            for (rows, by_rows) in (1..=kernels.rows()).flat_map(|rows| [(rows, true), (rows, false)]) {
                let a_stride = if by_rows { INNER + 2 } else { rows + 2 };
                let a = noise(if by_rows { rows * a_stride } else { INNER * a_stride }, 2);
                let before = noise(rows * (columns + 3), 3);
                let mut c = before.clone();
                let base = Some((before.as_ptr(), columns + 3));
                let target = Target { c: c.as_mut_ptr(), c_stride: columns + 3, scale: 0.5, base };
                // In two goes: the second goes on where the first has ended.
                let mut sums = vec![f32::NAN; rows * columns];
                let half = Target { c: sums.as_mut_ptr(), c_stride: columns, scale: 1.0, base: None };
                let mut factors = Factors { a: a.as_ptr(), a_stride, b: b.as_ptr(), inner: HALF, begin: None };
                // SAFETY: the processor has the instructions, and all sizes are those of the tile.
                unsafe {
                    kernels.kernel(rows, by_rows)(&factors, &half);
                    factors.a = a[HALF * if by_rows { 1 } else { a_stride }..].as_ptr();
                    factors.b = b[HALF * columns..].as_ptr();
                    (factors.inner, factors.begin) = (INNER - HALF, Some((sums.as_ptr(), columns)));
                    kernels.kernel(rows, by_rows)(&factors, &target);
                }
                for (place, c) in c.iter().enumerate() {
                    let (row, column) = (place / (columns + 3), place % (columns + 3));
                    let expected = (0..INNER).fold(0.0_f32, |sum, k| {
                        let a = a[if by_rows { row * a_stride + k } else { k * a_stride + row }];
                        let Some(b) = b[k * columns..][..columns].get(column) else { return 0.0 };
                        if fused { a.mul_add(*b, sum) } else { a * b + sum }
                    });
                    assert_eq!(*c, before[place] + 0.5 * expected, "{columns} columns, row {row} of {rows}, {by_rows}");
                }
            }
        }
    }

    #[test]
    fn a_processor_has_the_kernels_of_its_instructions() {
        let columns = |width, fused| Kernels::of(width, fused).columns;
        let expected = if cfg!(target_arch = "x86_64") { [8, 16, 32] } else { [8; 3] };
        assert_eq!([Width::Portable, Width::Avx2, Width::Avx512].map(|width| columns(width, true)), expected);
        let slow = [Width::Portable, Width::Avx2, Width::Avx512].map(|width| Kernels::of(width, false));
        assert!(slow.iter().all(|kernels| std::ptr::eq(*kernels, &raw const UNFUSED)));
    }

    #[test]
    fn rows_are_copied_whole_and_nothing_else_is() {
        for (kernels, _) in all() {
            let columns = kernels.columns;
            let from = noise(3 * columns + 2, 1);
            let mut to = vec![0.0; 4 * (columns + 4)];
            let copy = RowCopy {
                from: from.as_ptr(),
                from_stride: columns + 1,
                to: to.as_mut_ptr(),
                to_stride: columns + 4,
                rows: 3,
            };
            // SAFETY: the processor has the instructions, and the rows lie within the vectors.
            unsafe { (kernels.copy)(&copy) }
            for (place, to) in to.iter().enumerate() {
                let (row, column) = (place / (columns + 4), place % (columns + 4));
                let is_copied = row < 3 && column < columns;
                assert_eq!(*to, if is_copied { from[row * (columns + 1) + column] } else { 0.0 });
            }
        }
    }
}
