//! Matrix products by the `gemm` crate.

use std::marker::PhantomData;
use std::ops::Range;

use gemm::Parallelism;

use crate::ops::linear::Write;

/// A strided matrix to read.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    first: *const f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
    elements: PhantomData<&'a [f32]>,
}

impl<'a> Matrix<'a> {
    /// `columns` neighbouring elements every `stride` elements of `values`.
    pub(super) fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + columns <= values.len(), "a matrix exceeds its buffer");
        let first = values.as_ptr();
        Self { first, rows, columns, row_stride: stride, column_stride: 1, elements: PhantomData }
    }

    /// All of `values`, row-major.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// The same elements, rows for columns.
    pub(super) fn transposed(self) -> Self {
        let (rows, columns) = (self.columns, self.rows);
        let (row_stride, column_stride) = (self.column_stride, self.row_stride);
        Self { rows, columns, row_stride, column_stride, ..self }
    }
}

/// A matrix to write, with neighbouring columns.
pub(super) struct MatrixMut<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    elements: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// All of `values`, row-major.
    pub(super) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert!(rows * columns <= values.len(), "a matrix exceeds its buffer");
        Self { first: values.as_mut_ptr(), rows, columns, row_stride: columns, elements: PhantomData }
    }
}

/// A buffer of which several threads write different columns of the same rows.
#[derive(Clone, Copy)]
pub(super) struct SharedColumns<'a> {
    first: *mut f32,
    length: usize,
    width: usize,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only used through `part`, whose caller vouches that no two threads touch the same elements.
unsafe impl Send for SharedColumns<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedColumns<'_> {}

impl<'a> SharedColumns<'a> {
    /// All of `values` as rows of `width` elements.
    pub(super) fn new(values: &'a mut [f32], width: usize) -> Self {
        Self { first: values.as_mut_ptr(), length: values.len(), width, elements: PhantomData }
    }

    /// Some columns of some rows.
    ///
    /// # Safety
    /// As long as the result lives, nothing else may touch these elements.
    pub(super) unsafe fn part(self, rows: &Range<usize>, column: usize, columns: usize) -> MatrixMut<'a> {
        let inside = rows.start <= rows.end && rows.end * self.width <= self.length && column + columns <= self.width;
        assert!(inside, "a part exceeds its whole");
        // SAFETY: the first element of the part lies within the buffer, or one behind it, by the assertion.
        let first = unsafe { self.first.add(rows.start * self.width + column * usize::from(!rows.is_empty())) };
        MatrixMut { first, rows: rows.len(), columns, row_stride: self.width, elements: PhantomData }
    }
}

/// Who computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread.
    One,
    /// All threads of the pool.
    All,
}

/// `c = scale a b`, or `c += scale a b`.
pub(super) struct Product<'a> {
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) scale: f32,
    pub(super) write: Write,
    pub(super) threads: Threads,
}

impl Product<'_> {
    /// Computes the product.
    pub(super) fn compute(self) {
        let Self { a, b, c, .. } = self;
        assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matrices do not fit each other");
        let parallelism = match (self.threads, rayon::current_num_threads()) {
            (Threads::One, _) | (_, 1) => Parallelism::None,
            (Threads::All, threads) => Parallelism::Rayon(threads),
        };
        let [c_stride, a_row, a_column, b_row, b_column] =
            [c.row_stride, a.row_stride, a.column_stride, b.row_stride, b.column_stride].map(|stride| stride as isize);
        // SAFETY: sizes and strides stay within the three buffers (checked where the matrices were made, and against
        // each other above); `c` is borrowed for writing, so it overlaps neither `a` nor `b`.
        unsafe {
            gemm::gemm(
                c.rows,
                c.columns,
                a.columns,
                c.first,
                1,
                c_stride,
                self.write == Write::Add,
                a.first,
                a_column,
                a_row,
                b.first,
                b_column,
                b_row,
                1.0,
                self.scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}
