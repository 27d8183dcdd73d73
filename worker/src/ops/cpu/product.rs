//! Matrix products: spread over threads, a panel of columns of the result at a time.
//!
//! Every element of a product has the same bits whatever the other rows and columns, the number of threads, and the width
//! of the processor's vectors: see `tile.rs`.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::matrix::{Layout, Matrix, MatrixMut};
use super::panel;
use super::reduce::add_elements;
use super::tile::{Factors, Kernels, TILE, Target};

/// Elements from one multiple of which on a panel lies: a line of the cache.
const LINE: usize = 16;
/// Multiplications that are done before another thread has begun to help.
const ALONE: usize = 1 << 16;
/// Pieces for each thread, of which it takes one after the other: who is held up leaves more to the others.
pub(super) const PIECES: usize = 4;
/// About the fewest tiles of a piece, each of which packs its panel anew.
pub(super) const LEAST_TILES: usize = 4;

thread_local! {
    /// Panels, and tiles. It keeps the size of the largest so far, which is bounded by the widest layer.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Who computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread.
    One,
    /// All threads of the pool.
    All,
}

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Onto<'a> {
    /// Nothing: it replaces what is there.
    Nothing,
    /// What is there.
    Target,
    /// The same row everywhere.
    Row(&'a [f32]),
}

/// `c = scale a b`, or `c = onto + scale a b`.
pub(super) struct Product<'a> {
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) scale: f32,
    pub(super) onto: Onto<'a>,
    pub(super) threads: Threads,
}

// SAFETY: `c` alone is written through, and each of its tiles by the one thread that has taken its piece.
unsafe impl Sync for Product<'_> {}

/// How the result is cut: each panel of columns into so many pieces of so many rows.
#[derive(Debug, Clone, Copy)]
struct Cut {
    pieces: usize,
    rows: usize,
}

/// A piece of the result: some rows of the columns of a panel, which is packed.
struct Piece<'p> {
    rows: Range<usize>,
    first_column: usize,
    columns: usize,
    panel: &'p [f32],
}

impl Product<'_> {
    /// Computes the product.
    pub(super) fn compute(self) {
        let Self { a, b, c, .. } = &self;
        assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matrices do not fit each other");
        if let Onto::Row(row) = self.onto {
            assert!(row.len() >= c.columns, "a row is shorter than what it is added to");
        }
        let kernels = Kernels::of_processor();
        let threads = match self.threads {
            Threads::All => helpers([c.rows, c.columns, a.columns]),
            Threads::One => 1,
        };
        let panels = c.columns.div_ceil(kernels.columns);
        let tiles = c.rows.div_ceil(kernels.rows());
        let wanted = if threads == 1 { 1 } else { (PIECES * threads).div_ceil(panels.max(1)) };
        let tiles_of_one = tiles.div_ceil(wanted.min(tiles.div_ceil(LEAST_TILES)).max(1));
        let cut = Cut { pieces: tiles.div_ceil(tiles_of_one.max(1)), rows: tiles_of_one * kernels.rows() };
        let next = AtomicUsize::new(0);
        spread(threads.min(panels * cut.pieces), &|| self.take_pieces(&next, cut, kernels));
    }

    /// Computes one piece after the other until none is left.
    fn take_pieces(&self, next: &AtomicUsize, cut: Cut, kernels: &Kernels) {
        let (b, c, width) = (self.b, &self.c, kernels.columns);
        // An edge has a tile of its own.
        with_scratch([b.rows * width, TILE], |[panel, edge]| {
            let mut last = None;
            for piece in numbers(next, c.columns.div_ceil(width) * cut.pieces) {
                let (number, first) = (piece / cut.pieces, piece % cut.pieces * cut.rows);
                let first_column = number * width;
                if last.replace(number) != Some(number) {
                    panel::pack(b, first_column, kernels, panel);
                }
                let rows = first..(first + cut.rows).min(c.rows);
                let columns = width.min(c.columns - first_column);
                self.multiply(&Piece { rows, first_column, columns, panel }, kernels, edge);
            }
        });
    }

    fn multiply(&self, piece: &Piece<'_>, kernels: &Kernels, edge: &mut [f32]) {
        let (scale, width) = (self.scale, kernels.columns);
        let Piece { first_column, columns, panel, .. } = *piece;
        for (first, rows) in tiles(piece.rows.clone(), kernels.rows()) {
            let kernel = kernels.kernel(rows, self.a.layout == Layout::ByRows);
            let a = self.a.values.as_ptr().wrapping_add(first * self.a.strides().0);
            let factors = Factors { a, a_stride: self.a.stride, b: panel.as_ptr(), inner: self.a.columns, begin: None };
            // SAFETY: the tile lies within `c`, and this thread alone has it; `a` has these rows, the panel all columns of
            // a tile, and so has the one on the edge; the kernel is the processor's.
            unsafe {
                let c = self.c.first.add(first * self.c.stride + first_column);
                if columns == width {
                    let base = match self.onto {
                        Onto::Nothing => None,
                        Onto::Target => Some((c.cast_const(), self.c.stride)),
                        Onto::Row(row) => Some((row[first_column..].as_ptr(), 0)),
                    };
                    kernel(&factors, &Target { c, c_stride: self.c.stride, scale, base });
                } else {
                    kernel(&factors, &Target { c: edge.as_mut_ptr(), c_stride: width, scale, base: None });
                    for (row, sum) in edge.chunks_exact(width).take(rows).enumerate() {
                        let c = std::slice::from_raw_parts_mut(c.add(row * self.c.stride), columns);
                        self.put(first_column, c, &sum[..columns]);
                    }
                }
            }
        }
    }

    /// Writes a row of a tile on the edge.
    fn put(&self, first_column: usize, c: &mut [f32], sum: &[f32]) {
        match self.onto {
            Onto::Nothing => c.copy_from_slice(sum),
            Onto::Target => add_elements(c, sum),
            Onto::Row(base) => {
                c.copy_from_slice(&base[first_column..][..sum.len()]);
                add_elements(c, sum);
            }
        }
    }
}

/// How many threads a product of this size is worth.
pub(super) fn helpers(size: [usize; 3]) -> usize {
    if size.iter().product::<usize>() > ALONE { rayon::current_num_threads() } else { 1 }
}

/// The tiles of some rows: the first row of each, and how many it has.
pub(super) fn tiles(rows: Range<usize>, most: usize) -> impl Iterator<Item = (usize, usize)> {
    rows.clone().step_by(most).map(move |first| (first, most.min(rows.end - first)))
}

/// The numbers below `end` that no other thread has taken from `next`, one after the other.
pub(super) fn numbers(next: &AtomicUsize, end: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < end))
}

/// Calls `work` with so many elements of unspecified values, the first of each at the beginning of a line of the cache.
pub(super) fn with_scratch<const N: usize>(elements: [usize; N], work: impl FnOnce([&mut [f32]; N])) {
    SCRATCH.with_borrow_mut(|scratch| {
        let whole = elements.map(|elements| elements.next_multiple_of(LINE));
        let needed = whole.iter().sum::<usize>() + LINE;
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let mut rest = &mut scratch[aligned..];
        work(whole.map(|elements| {
            let (piece, others) = std::mem::take(&mut rest).split_at_mut(elements);
            rest = others;
            piece
        }));
    });
}

/// Calls `work` on so many threads, who share out the waking of each other.
pub(super) fn spread(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        work();
    } else {
        rayon::join(|| spread(threads / 2, work), || spread(threads - threads / 2, work));
    }
}
