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
use crate::ops::sum_order::{SumOrder, SumStep};

/// Elements from one multiple of which on a panel lies: a line of the cache.
const LINE: usize = 16;
/// Multiplications that are done before another thread has begun to help.
const ALONE: usize = 1 << 16;
/// Pieces for each thread, of which it takes one after the other: who is held up leaves more to the others.
const PIECES: usize = 4;
/// About the fewest tiles of a piece, each of which packs its panel anew.
const LEAST_TILES: usize = 4;
/// The most tiles of a piece of sums: their partial sums stay in the second cache, and for each a panel is packed anew.
const MOST_TILES: usize = 16;
/// The longest part of the inner dimension that sums take at a time: its panel, and the pages of `a`, stay in caches.
const LONGEST_PART: usize = 1024;
/// Elements of a tile's place among partial sums.
const TILE: usize = MOST_ROWS * MOST_COLUMNS;

thread_local! {
    /// A panel and partial sums. It keeps the size of the largest so far, which is bounded by the widest layer.
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

/// `c = Σ a b` over parts of the inner dimension, each summed by itself and then added to the others in this order.
pub(super) struct SummedProduct<'a> {
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) order: &'a SumOrder,
    /// The part of each leaf.
    pub(super) part: &'a dyn Fn(usize) -> Range<usize>,
}

/// A step of a [`Job`].
#[derive(Debug, Clone)]
enum Step {
    /// `a b` over a part of the inner dimension.
    Part { part: Range<usize>, slot: usize, how: How },
    /// `slot += slot + 1`.
    Add { slot: usize },
}

/// What a part's sums begin with, and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// They begin with 0 and replace what is there.
    Set,
    /// They begin with 0 and are added to what is there.
    Add,
    /// They go on from what is there: the same chain as that of the part before.
    GoOn,
}

impl Product<'_> {
    /// Computes the product.
    pub(super) fn compute(self) {
        let Self { a, b, c, scale, onto, threads } = self;
        let steps = &[Step::Part { part: 0..a.columns, slot: 0, how: How::Set }];
        Job { a, b, c, scale, onto, steps, slots: 0, kernels: Kernels::of_processor() }.compute(threads);
    }
}

impl SummedProduct<'_> {
    /// Computes the product, by all threads of the pool.
    pub(super) fn compute(self) {
        let Self { a, b, c, order, part } = self;
        let mut steps = Vec::with_capacity(order.steps().len());
        for step in order.steps() {
            match *step {
                SumStep::Leaf { leaf, slot, write } => push_leaf(&mut steps, part(leaf), slot, write),
                SumStep::Add { slot } => steps.push(Step::Add { slot }),
            }
        }
        // A long leaf that is added has a slot of its own first.
        let slots = order.slots() + 1;
        let (onto, kernels) = (Onto::Nothing, Kernels::of_processor());
        Job { a, b, c, scale: 1.0, onto, steps: &steps, slots, kernels }.compute(Threads::All);
    }
}

/// The steps of one leaf.
fn push_leaf(steps: &mut Vec<Step>, part: Range<usize>, slot: usize, write: Write) {
    let is_long = part.len() > LONGEST_PART;
    let (into, how) = match write {
        Write::Set => (slot, How::Set),
        Write::Add if is_long => (slot + 1, How::Set),
        Write::Add => (slot, How::Add),
    };
    steps.push(Step::Part { part: part.start..part.end.min(part.start + LONGEST_PART), slot: into, how });
    for start in part.clone().step_by(LONGEST_PART).skip(1) {
        steps.push(Step::Part { part: start..part.end.min(start + LONGEST_PART), slot: into, how: How::GoOn });
    }
    if into != slot {
        steps.push(Step::Add { slot });
    }
}

struct Job<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: MatrixMut<'a>,
    scale: f32,
    onto: Onto<'a>,
    steps: &'a [Step],
    /// Partial sums of each tile; with none, the only step writes to `c`.
    slots: usize,
    kernels: &'static Kernels,
}

// SAFETY: `c` alone is written through, and each of its tiles by the one thread that has taken its piece.
unsafe impl Sync for Job<'_> {}

/// How the result is cut: panels of columns, of each so many pieces of so many rows.
#[derive(Debug, Clone, Copy)]
struct Cut {
    panels: usize,
    pieces: usize,
    rows: usize,
}

/// A piece of the result: some rows of the columns of a panel.
struct Piece {
    rows: Range<usize>,
    first_column: usize,
    columns: usize,
}

impl Job<'_> {
    fn compute(&self, threads: Threads) {
        let Self { a, b, c, .. } = self;
        assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matrices do not fit each other");
        if let Onto::Row(row) = self.onto {
            assert!(row.len() >= c.columns, "a row is shorter than what it is added to");
        }
        let is_sound = |step: &Step| match step {
            Step::Part { part, slot, .. } => {
                part.start <= part.end && part.end <= a.columns && *slot < self.slots.max(1)
            }
            Step::Add { slot } => slot + 1 < self.slots,
        };
        assert!(self.steps.iter().all(is_sound), "a step exceeds the product");
        if c.rows == 0 || c.columns == 0 {
            return;
        }
        let threads = match threads {
            Threads::All if c.rows * c.columns * a.columns > ALONE => rayon::current_num_threads(),
            _ => 1,
        };
        let cut = self.cut(threads);
        let next = AtomicUsize::new(0);
        spread(threads.min(cut.panels * cut.pieces), &|| self.take_pieces(&next, cut));
    }

    fn cut(&self, threads: usize) -> Cut {
        let panels = self.c.columns.div_ceil(self.kernels.columns);
        let tiles = self.c.rows.div_ceil(self.kernels.rows());
        let for_threads = if threads == 1 { 1 } else { (PIECES * threads).div_ceil(panels) };
        let for_caches = if self.slots > 0 { tiles.div_ceil(MOST_TILES) } else { 1 };
        let wanted = for_threads.min(tiles.div_ceil(LEAST_TILES)).max(for_caches);
        let tiles_of_one = tiles.div_ceil(wanted);
        Cut { panels, pieces: tiles.div_ceil(tiles_of_one), rows: tiles_of_one * self.kernels.rows() }
    }

    /// Computes one piece after the other until none is left.
    fn take_pieces(&self, next: &AtomicUsize, cut: Cut) {
        let width = self.kernels.columns;
        let longest = self.steps.iter().map(|step| match step {
            Step::Part { part, .. } => part.len(),
            Step::Add { .. } => 0,
        });
        let panel = longest.max().unwrap_or(0) * width;
        SCRATCH.with_borrow_mut(|buffer| {
            let sums = self.slots * (cut.rows / self.kernels.rows()) * TILE;
            // An edge has a tile of its own.
            let needed = panel + sums.max(TILE) + LINE;
            if buffer.len() < needed {
                buffer.resize(needed, 0.0);
            }
            let aligned = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
            let (panel, sums) = buffer[aligned..].split_at_mut(panel);
            let mut last = None;
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= cut.panels * cut.pieces {
                    return;
                }
                let (number, first) = (piece / cut.pieces, piece % cut.pieces * cut.rows);
                let first_column = number * width;
                let columns = width.min(self.c.columns - first_column);
                let piece = Piece { rows: first..(first + cut.rows).min(self.c.rows), first_column, columns };
                if self.slots > 0 {
                    self.sum(&piece, panel, sums);
                } else {
                    if last.replace(number) != Some(number) {
                        panel::pack(self.b, first_column, self.kernels, panel);
                    }
                    self.multiply(&piece, panel, sums);
                }
            }
        });
    }

    /// Computes a piece of the only part.
    fn multiply(&self, piece: &Piece, panel: &[f32], edge: &mut [f32]) {
        let width = self.kernels.columns;
        let whole = 0..self.a.columns;
        for (first, rows) in self.tiles(piece) {
            // SAFETY: the tile lies within `c`, and this thread alone has it.
            let c = unsafe { self.c.first.add(first * self.c.stride + piece.first_column) };
            let scale = self.scale;
            let factors = self.factors(first, whole.clone(), panel);
            let kernel = self.kernels.kernel(rows, self.a.layout == Layout::ByRows);
            if piece.columns == width {
                let base = match self.onto {
                    Onto::Nothing => None,
                    Onto::Target => Some((c.cast_const(), self.c.stride)),
                    Onto::Row(row) => Some((row[piece.first_column..].as_ptr(), 0)),
                };
                let target = Target { c, c_stride: self.c.stride, scale, base };
                // SAFETY: `a` has these rows, `b` and `c` the columns of a panel; the kernel is the processor's.
                unsafe { kernel(&factors, &target) }
            } else {
                let sum = edge.as_mut_ptr();
                // SAFETY: the same; the tile on the edge has room for all columns of a panel, `c` for the piece's.
                unsafe {
                    kernel(&factors, &Target { c: sum, c_stride: width, scale, base: None });
                    self.write_out(piece, c, rows, sum);
                }
            }
        }
    }

    /// Takes the steps of a sum, each for all tiles of a piece.
    fn sum(&self, piece: &Piece, panel: &mut [f32], sums: &mut [f32]) {
        let width = self.kernels.columns;
        let by_rows = self.a.layout == Layout::ByRows;
        let place = |tile: usize, slot: usize| (tile * self.slots + slot) * TILE;
        for step in self.steps {
            match step {
                Step::Part { part, slot, how } => {
                    panel::pack(self.b.rows_of(part.clone()), piece.first_column, self.kernels, panel);
                    for (tile, (first, rows)) in self.tiles(piece).enumerate() {
                        let sum = sums[place(tile, *slot)..][..TILE].as_mut_ptr();
                        let there = Some((sum.cast_const(), width));
                        let mut factors = self.factors(first, part.clone(), panel);
                        factors.begin = there.filter(|_| *how == How::GoOn);
                        let base = there.filter(|_| *how == How::Add);
                        let target = Target { c: sum, c_stride: width, scale: 1.0, base };
                        // SAFETY: `a` has these rows and this part, the panel its rows, and the slot is a tile.
                        unsafe { self.kernels.kernel(rows, by_rows)(&factors, &target) }
                    }
                }
                Step::Add { slot } => {
                    for (tile, (_, rows)) in self.tiles(piece).enumerate() {
                        let (left, right) = sums[place(tile, *slot)..].split_at_mut(TILE);
                        add_elements(&mut left[..rows * width], &right[..rows * width]);
                    }
                }
            }
        }
        for (tile, (first, rows)) in self.tiles(piece).enumerate() {
            let sum = sums[place(tile, 0)..][..TILE].as_ptr();
            // SAFETY: the tile lies within `c`, and this thread alone has it.
            unsafe { self.write_out(piece, self.c.first.add(first * self.c.stride + piece.first_column), rows, sum) }
        }
    }

    /// The tiles of a piece: the first row of each, and how many it has.
    fn tiles(&self, piece: &Piece) -> impl Iterator<Item = (usize, usize)> {
        let (end, rows) = (piece.rows.end, self.kernels.rows());
        piece.rows.clone().step_by(rows).map(move |first| (first, rows.min(end - first)))
    }

    fn factors(&self, first: usize, part: Range<usize>, panel: &[f32]) -> Factors {
        let (row, column) = self.a.strides();
        // An empty part may begin behind the last element.
        let a = self.a.values.as_ptr().wrapping_add(first * row + part.start * column);
        Factors { a, a_stride: self.a.stride, b: panel.as_ptr(), inner: part.len(), begin: None }
    }

    /// Writes what a tile has come to where it belongs.
    ///
    /// # Safety
    /// The tile of so many rows at `c` lies within the result, and nobody else touches it; `sum` is a tile of its own.
    unsafe fn write_out(&self, piece: &Piece, c: *mut f32, rows: usize, sum: *const f32) {
        let (width, c_stride, columns) = (self.kernels.columns, self.c.stride, piece.columns);
        if columns == width && matches!(self.onto, Onto::Nothing) {
            let copy = RowCopy { from: sum, from_stride: width, to: c, to_stride: c_stride, rows };
            // SAFETY: the caller's; the kernel is the processor's.
            return unsafe { (self.kernels.copy)(&copy) };
        }
        for row in 0..rows {
            // SAFETY: the caller's.
            let (sum, c) = unsafe {
                let sum = std::slice::from_raw_parts(sum.add(row * width), columns);
                (sum, std::slice::from_raw_parts_mut(c.add(row * c_stride), columns))
            };
            match self.onto {
                Onto::Nothing => c.copy_from_slice(sum),
                Onto::Target => add_elements(c, sum),
                Onto::Row(base) => {
                    c.copy_from_slice(&base[piece.first_column..][..columns]);
                    add_elements(c, sum);
                }
            }
        }
    }
}

/// Calls `work` on so many threads, who share out the waking of each other.
fn spread(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        work();
    } else {
        rayon::join(|| spread(threads / 2, work), || spread(threads - threads / 2, work));
    }
}
