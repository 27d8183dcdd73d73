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
use super::tile::{Factors, Kernels, MOST_COLUMNS, MOST_ROWS, RowCopy, Target};
use crate::ops::linear::Write;

/// Bytes from one multiple of which on a panel lies: a line of the cache.
const LINE: usize = 64;
/// Multiplications that are done before another thread has begun to help.
const ALONE: usize = 1 << 16;
/// Pieces for each thread, of which it takes one after the other: who is held up leaves more to the others.
const PIECES: usize = 4;
/// The fewest tiles of a piece, each of which packs its panel anew.
const LEAST_TILES: usize = 4;

thread_local! {
    /// A panel, and tiles of partial sums.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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

/// A step of a sum of products, as [`crate::ops::sum_order::SumStep`] is one.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// `a b` over a part of the inner dimension.
    Part { part: Range<usize>, slot: usize, write: Write },
    /// `slot += slot + 1`.
    Add { slot: usize },
}

/// `c = Σ a b` over parts of the inner dimension, each summed by itself and then added to the others by these steps.
pub(super) struct SummedProduct<'a> {
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) steps: &'a [Step],
    pub(super) slots: usize,
}

impl Product<'_> {
    /// Computes the product.
    pub(super) fn compute(self) {
        let Self { a, b, c, scale, onto, threads } = self;
        let steps = &[Step::Part { part: 0..a.columns, slot: 0, write: Write::Set }];
        Job { a, b, c, scale, onto, steps, slots: 1, kernels: Kernels::of_processor() }.compute(threads);
    }
}

impl SummedProduct<'_> {
    /// Computes the product, by all threads of the pool.
    pub(super) fn compute(self) {
        let Self { a, b, c, steps, slots } = self;
        let (onto, kernels) = (Onto::Nothing, Kernels::of_processor());
        Job { a, b, c, scale: 1.0, onto, steps, slots, kernels }.compute(Threads::All);
    }
}

struct Job<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: MatrixMut<'a>,
    scale: f32,
    /// What slot 0 begins with: anything but [`Onto::Nothing`] only where there is a single leaf.
    onto: Onto<'a>,
    steps: &'a [Step],
    slots: usize,
    kernels: &'static Kernels,
}

// SAFETY: `c` alone is written through, and each of its tiles by the one thread that has taken its piece.
unsafe impl Sync for Job<'_> {}

/// Some columns of the result, and what they are packed into.
struct Panel<'p> {
    first: usize,
    columns: usize,
    packed: &'p [f32],
}

impl Job<'_> {
    fn compute(&self, threads: Threads) {
        let Self { a, b, c, .. } = self;
        assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matrices do not fit each other");
        if let Onto::Row(row) = self.onto {
            assert!(row.len() >= c.columns, "a row is shorter than what it is added to");
        }
        if c.rows == 0 || c.columns == 0 {
            return;
        }
        let threads = match threads {
            Threads::All if c.rows * c.columns * a.columns > ALONE => rayon::current_num_threads(),
            _ => 1,
        };
        let panels = c.columns.div_ceil(self.kernels.columns);
        let tiles = c.rows.div_ceil(self.kernels.rows());
        let wanted = if threads == 1 { 1 } else { (PIECES * threads).div_ceil(panels) };
        let pieces = wanted.min(tiles.div_ceil(LEAST_TILES));
        let rows = tiles.div_ceil(pieces) * self.kernels.rows();
        let next = AtomicUsize::new(0);
        spread(threads.min(panels * pieces), &|| self.take_pieces(&next, pieces, rows));
    }

    /// Computes one piece of `rows` rows of a panel after the other until none is left.
    fn take_pieces(&self, next: &AtomicUsize, pieces: usize, rows: usize) {
        let (inner, width) = (self.a.columns, self.kernels.columns);
        let panels = self.c.columns.div_ceil(width);
        PACKED.with_borrow_mut(|buffer| {
            let needed = inner * width + self.slots * MOST_ROWS * MOST_COLUMNS;
            if buffer.len() < needed + LINE {
                buffer.resize(needed + LINE, 0.0);
            }
            let aligned = buffer.as_ptr().align_offset(LINE).min(LINE);
            let (packed, tiles) = buffer[aligned..].split_at_mut(inner * width);
            let mut last = None;
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= panels * pieces {
                    return;
                }
                let (panel, first) = (piece / pieces, piece % pieces * rows);
                let start = panel * width;
                if last.replace(panel) != Some(panel) {
                    panel::pack(self.b, start, self.kernels, packed);
                }
                let panel = Panel { first: start, columns: width.min(self.c.columns - start), packed };
                self.compute_piece(&panel, first..(first + rows).min(self.c.rows), tiles);
            }
        });
    }

    fn compute_piece(&self, panel: &Panel<'_>, rows: Range<usize>, tiles: &mut [f32]) {
        for first in rows.clone().step_by(self.kernels.rows()) {
            let rows = self.kernels.rows().min(rows.end - first);
            // SAFETY: the tile lies within `c`, since `rows` and the panel's columns do, and this thread alone has it.
            unsafe { self.compute_tile(panel, first, rows, tiles) }
        }
    }

    /// # Safety
    /// The tile of `rows` rows from `first` on lies within `c`, and nobody else touches it.
    unsafe fn compute_tile(&self, panel: &Panel<'_>, first: usize, rows: usize, tiles: &mut [f32]) {
        let width = self.kernels.columns;
        let (a_row, a_column) = self.a.strides();
        let by_rows = self.a.layout == Layout::ByRows;
        let kernel = self.kernels.kernel(rows, by_rows);
        // A tile that is written more than once lies in the first cache meanwhile; rows of `c` may drive each other out of it.
        let is_direct = panel.columns == width && self.steps.len() == 1;
        let tiles = tiles.as_mut_ptr();
        // SAFETY: as `compute` has checked, `a` has a row for each of `c` and a column for each of the parts, the panel a
        // row for each part and `width` columns, and `tiles` a tile for each slot; the kernel is the processor's.
        unsafe {
            let target = self.c.first.add(first * self.c.stride + panel.first);
            let place = |slot: usize| match slot {
                0 if is_direct => (target, self.c.stride),
                slot => (tiles.add(slot * MOST_ROWS * MOST_COLUMNS), width),
            };
            let onto = match self.onto {
                Onto::Nothing => None,
                Onto::Target => Some((target.cast_const(), self.c.stride)),
                Onto::Row(row) => Some((row.as_ptr().add(panel.first), 0)),
            };
            for step in self.steps {
                match step {
                    Step::Part { part, slot, write } => {
                        let (c, c_stride) = place(*slot);
                        let base = match write {
                            Write::Add => Some((c.cast_const(), c_stride)),
                            Write::Set if is_direct => onto,
                            Write::Set => None,
                        };
                        let factors = Factors {
                            a: self.a.values.as_ptr().wrapping_add(first * a_row + part.start * a_column),
                            a_stride: self.a.stride,
                            b: panel.packed.as_ptr().wrapping_add(part.start * width),
                            inner: part.len(),
                        };
                        kernel(&factors, &Target { c, c_stride, scale: self.scale, base });
                    }
                    Step::Add { slot } => {
                        let ((left, _), (right, _)) = (place(*slot), place(slot + 1));
                        let elements = rows * width;
                        let left = std::slice::from_raw_parts_mut(left, elements);
                        add_elements(left, std::slice::from_raw_parts(right, elements));
                    }
                }
            }
            if !is_direct {
                self.write_out(panel, target, rows, place(0).0);
            }
        }
    }

    /// Writes what a tile has come to where it belongs.
    ///
    /// # Safety
    /// The tile of so many rows at `target` lies within `c`, and nobody else touches it; `sum` is a tile of its own.
    unsafe fn write_out(&self, panel: &Panel<'_>, target: *mut f32, rows: usize, sum: *const f32) {
        let (width, c_stride) = (self.kernels.columns, self.c.stride);
        // SAFETY: the caller's; the kernel is the processor's.
        unsafe {
            if panel.columns == width && matches!(self.onto, Onto::Nothing) {
                let copy = RowCopy { from: sum, from_stride: width, to: target, to_stride: c_stride, rows };
                return (self.kernels.copy)(&copy);
            }
            for row in 0..rows {
                let sum = std::slice::from_raw_parts(sum.add(row * width), panel.columns);
                let c = std::slice::from_raw_parts_mut(target.add(row * c_stride), panel.columns);
                match self.onto {
                    Onto::Nothing => c.copy_from_slice(sum),
                    Onto::Target => add_elements(c, sum),
                    Onto::Row(base) => {
                        c.copy_from_slice(&base[panel.first..][..panel.columns]);
                        add_elements(c, sum);
                    }
                }
            }
        }
    }
}

/// Calls `work` on so many threads.
fn spread(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        work();
    } else {
        rayon::join(work, || spread(threads - 1, work));
    }
}
