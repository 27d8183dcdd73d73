//! Matrices, as products read and write them.

use std::marker::PhantomData;
use std::ops::Range;

/// Which elements of a matrix are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Those of a row.
    ByRows,
    /// Those of a column.
    ByColumns,
}

/// A matrix to read.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// From the first element to the last.
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// From a row, or a column, to the next.
    pub(super) stride: usize,
    pub(super) layout: Layout,
}

impl<'a> Matrix<'a> {
    /// `columns` neighbouring elements every `stride` elements of `values`.
    pub(super) fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + columns <= values.len(), "a matrix exceeds its buffer");
        Self { values, rows, columns, stride, layout: Layout::ByRows }
    }

    /// All of `values`, row-major.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// The same elements, rows for columns.
    pub(super) fn transposed(self) -> Self {
        let layout = match self.layout {
            Layout::ByRows => Layout::ByColumns,
            Layout::ByColumns => Layout::ByRows,
        };
        Self { rows: self.columns, columns: self.rows, layout, ..self }
    }

    /// Some rows of it.
    pub(super) fn rows_of(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "a part exceeds its matrix");
        let first = if rows.is_empty() { 0 } else { rows.start * self.strides().0 };
        Self { values: &self.values[first..], rows: rows.len(), ..self }
    }

    /// From a row to the next, and from a column to the next.
    pub(super) fn strides(&self) -> (usize, usize) {
        match self.layout {
            Layout::ByRows => (self.stride, 1),
            Layout::ByColumns => (1, self.stride),
        }
    }
}

/// A matrix to write, with neighbouring columns.
pub(super) struct MatrixMut<'a> {
    pub(super) first: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    elements: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// All of `values`, row-major.
    pub(super) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert!(rows * columns <= values.len(), "a matrix exceeds its buffer");
        Self { first: values.as_mut_ptr(), rows, columns, stride: columns, elements: PhantomData }
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
        MatrixMut { first, rows: rows.len(), columns, stride: self.width, elements: PhantomData }
    }
}
