//! Sums of matrix products, added up tile by tile: a weight's gradient over the lanes of a pass.
//!
//! Partial sums never leave the caches, and neither do the parts of both matrices that are packed for them. The bits are those
//! of whole products that are added in the same order.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use super::matrix::{Layout, Matrix, MatrixMut};
use super::panel;
use super::product::{LEAST_TILES, PIECES, helpers, numbers, spread, tiles, with_scratch};
use super::reduce::add_elements;
use super::tile::{Factors, Kernels, RowCopy, TILE, Target};
use crate::ops::linear::Write;
use crate::ops::sum_order::{SumOrder, SumStep};

/// The longest part of the inner dimension that is packed at a time.
const LONGEST_PART: usize = 256;
/// The most tiles of a column of a piece, each of which reads the same panel.
const MOST_TILES: usize = 16;
/// The most panels of a piece, each of which reads the same rows.
const MOST_PANELS: usize = 8;

/// `c = Σ a b` over parts of the inner dimension, each summed by itself and then added to the others in this order.
pub(super) struct SummedProduct<'a> {
    /// Lies by columns.
    pub(super) a: Matrix<'a>,
    /// Lies by rows.
    pub(super) b: Matrix<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) order: &'a SumOrder,
    /// The part of each leaf.
    pub(super) part: &'a dyn Fn(usize) -> Range<usize>,
}

/// A step of the sum of a tile.
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

/// The product, ready to be computed.
struct Job<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: MatrixMut<'a>,
    steps: Vec<Step>,
    /// Partial sums of a tile.
    slots: usize,
    kernels: &'static Kernels,
}

// SAFETY: `c` alone is written through, and each of its tiles by the one thread that has taken its piece.
unsafe impl Sync for Job<'_> {}

/// How the result is cut: rows of some tiles, columns of some panels.
#[derive(Debug, Clone, Copy)]
struct Cut {
    tiles: usize,
    panels: usize,
    pieces_down: usize,
    pieces_across: usize,
}

/// A piece of the result.
struct Piece {
    rows: Range<usize>,
    /// The first columns of its panels.
    panels: Vec<usize>,
}

impl SummedProduct<'_> {
    /// Computes the product, by all threads of the pool.
    pub(super) fn compute(self) {
        let Self { a, b, c, order, part } = self;
        assert!(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows, "matrices do not fit each other");
        assert!(a.layout == Layout::ByColumns && b.layout == Layout::ByRows, "matrices lie in another way");
        let mut steps = Vec::with_capacity(2 * order.steps().len());
        for step in order.steps() {
            match *step {
                SumStep::Leaf { leaf, slot, write } => push_leaf(&mut steps, part(leaf), slot, write),
                SumStep::Add { slot } => steps.push(Step::Add { slot }),
            }
        }
        // A long leaf that is added has a slot of its own first.
        let slot_of = |step: &Step| match step {
            Step::Part { slot, .. } => slot + 1,
            Step::Add { slot } => slot + 2,
        };
        let slots = steps.iter().map(slot_of).max().unwrap_or(1);
        Job { a, b, c, steps, slots, kernels: Kernels::of_processor() }.compute();
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

impl Job<'_> {
    fn compute(&self) {
        let threads = helpers([self.c.rows, self.c.columns, self.a.columns]);
        let cut = self.cut(threads);
        let all = cut.pieces_down * cut.pieces_across;
        let longest = self.steps.iter().map(|step| match step {
            Step::Part { part, .. } => part.len(),
            Step::Add { .. } => 0,
        });
        let longest = longest.max().unwrap_or(0);
        let (rows, width) = (cut.tiles * self.kernels.rows(), self.kernels.columns);
        let scratch = [longest * rows, longest * width, cut.panels * cut.tiles * self.slots * TILE];
        let next = AtomicUsize::new(0);
        spread(threads.min(all), &|| {
            with_scratch(scratch, |[a, b, sums]| {
                for piece in numbers(&next, all) {
                    let (down, across) = (piece / cut.pieces_across, piece % cut.pieces_across);
                    let end = ((across + 1) * cut.panels * width).min(self.c.columns);
                    let piece = Piece {
                        rows: down * rows..((down + 1) * rows).min(self.c.rows),
                        panels: (across * cut.panels * width..end).step_by(width).collect(),
                    };
                    self.sum(&piece, [a, b], sums);
                    self.write_out(&piece, sums);
                }
            });
        });
    }

    /// Pieces as large as the caches allow, and as small as it takes for all threads to have some.
    fn cut(&self, threads: usize) -> Cut {
        let (down, across) = (self.c.rows.div_ceil(self.kernels.rows()), self.c.columns.div_ceil(self.kernels.columns));
        let wanted = if threads == 1 { 1 } else { PIECES * threads };
        let pieces_down = down.div_ceil(MOST_TILES).max(1);
        let pieces_across = across.div_ceil(MOST_PANELS).max(wanted.div_ceil(pieces_down).min(across)).max(1);
        let pieces_down = pieces_down.max(wanted.div_ceil(pieces_across).min(down.div_ceil(LEAST_TILES)));
        let (tiles, panels) = (down.div_ceil(pieces_down).max(1), across.div_ceil(pieces_across).max(1));
        Cut { tiles, panels, pieces_down: down.div_ceil(tiles), pieces_across: across.div_ceil(panels) }
    }

    /// The tile of a piece's `panel` and `tile`, of this slot, among `sums`.
    fn place(&self, piece: &Piece, panel: usize, tile: usize, slot: usize) -> usize {
        let tiles = piece.rows.len().div_ceil(self.kernels.rows());
        ((panel * tiles + tile) * self.slots + slot) * TILE
    }

    /// Takes the steps of the sum, each for all tiles of a piece.
    fn sum(&self, piece: &Piece, [a, b]: [&mut [f32]; 2], sums: &mut [f32]) {
        let (width, most) = (self.kernels.columns, self.kernels.rows());
        for step in &self.steps {
            match step {
                Step::Part { part, slot, how } => {
                    (self.kernels.pack_tiles)(self.a, &piece.rows, part, a);
                    for (number, first_column) in piece.panels.iter().enumerate() {
                        panel::pack(self.b.rows_of(part.clone()), *first_column, self.kernels, b);
                        for (tile, (_, rows)) in tiles(piece.rows.clone(), most).enumerate() {
                            let sum = &mut sums[self.place(piece, number, tile, *slot)..][..TILE];
                            let (a, sum) = (a[tile * part.len() * most..].as_ptr(), sum.as_mut_ptr());
                            let there = Some((sum.cast_const(), width));
                            let begin = there.filter(|_| *how == How::GoOn);
                            let base = there.filter(|_| *how == How::Add);
                            let factors = Factors { a, a_stride: most, b: b.as_ptr(), inner: part.len(), begin };
                            let target = Target { c: sum, c_stride: width, scale: 1.0, base };
                            // SAFETY: both are packed, with so many rows and columns; the slot is a tile; the kernel is
                            // the processor's.
                            unsafe { self.kernels.kernel(rows, false)(&factors, &target) }
                        }
                    }
                }
                Step::Add { slot } => {
                    for number in 0..piece.panels.len() {
                        for (tile, (_, rows)) in tiles(piece.rows.clone(), most).enumerate() {
                            let place = self.place(piece, number, tile, *slot);
                            let (left, right) = sums[place..][..2 * TILE].split_at_mut(TILE);
                            add_elements(&mut left[..rows * width], &right[..rows * width]);
                        }
                    }
                }
            }
        }
    }

    /// Writes what the tiles of a piece have come to where they belong.
    fn write_out(&self, piece: &Piece, sums: &[f32]) {
        let (width, c_stride) = (self.kernels.columns, self.c.stride);
        for (number, first_column) in piece.panels.iter().enumerate() {
            let columns = width.min(self.c.columns - first_column);
            for (tile, (first, rows)) in tiles(piece.rows.clone(), self.kernels.rows()).enumerate() {
                let sum = &sums[self.place(piece, number, tile, 0)..][..TILE];
                // SAFETY: the tile lies within `c`, and this thread alone has it; the kernel is the processor's.
                unsafe {
                    let c = self.c.first.add(first * c_stride + first_column);
                    if columns == width {
                        let copy = RowCopy { from: sum.as_ptr(), from_stride: width, to: c, to_stride: c_stride, rows };
                        (self.kernels.copy)(&copy);
                    } else {
                        for (row, sum) in sum.chunks_exact(width).take(rows).enumerate() {
                            let c = std::slice::from_raw_parts_mut(c.add(row * c_stride), columns);
                            c.copy_from_slice(&sum[..columns]);
                        }
                    }
                }
            }
        }
    }
}
