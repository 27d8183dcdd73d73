//! Adding nodes in the order of the lane tree, which gives the same bits whoever holds which nodes.
//!
//! The value of a node is what was handed over for it, else the sum of its two halves; where a half has no value, the
//! other's alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use medley_common::lane::{LaneTree, Node};

use super::SparseRows;
use crate::ops::{Slice, SliceMut};

/// Where chunks come from, and what adds them: the host, or a device.
pub(super) trait Adder<B> {
    /// Why it cannot.
    type Error;

    /// A buffer for as many elements, of any values.
    fn take(&mut self, elements: usize) -> Result<B, Self::Error>;

    /// Takes such a buffer back.
    fn put(&mut self, chunk: B);

    /// Sets elements to 0.
    fn clear(&mut self, into: SliceMut<'_, B>) -> Result<(), Self::Error>;

    /// `into = from`, to the bit.
    fn copy(&mut self, into: SliceMut<'_, B>, from: Slice<'_, B>) -> Result<(), Self::Error>;

    /// `into += from`.
    fn add(&mut self, into: SliceMut<'_, B>, from: Slice<'_, B>) -> Result<(), Self::Error>;
}

/// One chunk of a dense segment.
pub(super) struct ChunkSum<'a, B, A> {
    pub tree: LaneTree,
    /// This rank's own nodes, whole segments.
    pub buffers: &'a [B],
    /// The chunk's elements within the segment.
    pub range: Range<usize>,
    pub adder: &'a mut A,
}

/// Where the value of a node is.
pub(super) enum Value<B> {
    /// In this rank's own buffer of this index.
    Own(usize),
    /// In a chunk's buffer.
    Chunk(B),
}

impl<B> Value<B> {
    /// Where its elements are, which are those of `range` in a whole segment.
    pub(super) fn place<'b>(&'b self, buffers: &'b [B], range: &Range<usize>) -> Slice<'b, B> {
        match self {
            Self::Own(index) => Slice { buffer: &buffers[*index], range: range.clone() },
            Self::Chunk(buffer) => Slice { buffer, range: 0..range.len() },
        }
    }
}

impl<B, A: Adder<B>> ChunkSum<'_, B, A> {
    /// Adds `parts` up; `None` where there are none.
    pub(super) fn sum(&mut self, mut parts: BTreeMap<Node, Value<B>>) -> Result<Option<Value<B>>, A::Error> {
        let tree = self.tree;
        tree.total(tree.root(), &mut parts, &mut |left, right| self.add(left, right))
    }

    /// Writes a sum to the chunk's elements of `whole`, a whole segment; no parts sum to 0.
    pub(super) fn write(&mut self, sum: Option<Value<B>>, whole: &mut B) -> Result<(), A::Error> {
        let into = SliceMut { buffer: whole, range: self.range.clone() };
        let Some(sum) = sum else { return self.adder.clear(into) };
        self.adder.copy(into, sum.place(self.buffers, &self.range))?;
        if let Value::Chunk(chunk) = sum {
            self.adder.put(chunk);
        }
        Ok(())
    }

    /// Adds in place where there is a place; the order of two summands does not change their sum.
    fn add(&mut self, left: Value<B>, right: Value<B>) -> Result<Value<B>, A::Error> {
        let inside = 0..self.range.len();
        let (mut sum, other) = match (left, right) {
            (Value::Chunk(sum), other) | (other, Value::Chunk(sum)) => (sum, other),
            (own @ Value::Own(_), right) => {
                let mut sum = self.adder.take(inside.len())?;
                let into = SliceMut { buffer: &mut sum, range: inside.clone() };
                self.adder.copy(into, own.place(self.buffers, &self.range))?;
                (sum, right)
            }
        };
        let into = SliceMut { buffer: &mut sum, range: inside };
        self.adder.add(into, other.place(self.buffers, &self.range))?;
        if let Value::Chunk(other) = other {
            self.adder.put(other);
        }
        Ok(Value::Chunk(sum))
    }
}

pub(super) fn add_to(sum: &mut [f32], other: &[f32]) {
    for (sum, other) in sum.iter_mut().zip(other) {
        *sum += other;
    }
}

/// Rows of the word embedding, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsView<'a> {
    pub rows: &'a [u32],
    pub values: &'a [f32],
}

impl<'a> RowsView<'a> {
    pub(super) fn whole(rows: &'a SparseRows) -> Self {
        Self { rows: &rows.rows, values: &rows.values }
    }

    /// The rows with numbers in `range`.
    pub(super) fn within(self, range: &Range<usize>, hidden: usize) -> Self {
        let place = |number: usize| self.rows.partition_point(|row| (*row as usize) < number);
        let places = place(range.start)..place(range.end);
        Self { rows: &self.rows[places.clone()], values: &self.values[places.start * hidden..places.end * hidden] }
    }
}

/// Adds rows up; a row that only one half of a node has is that half's row.
pub(super) fn sum_rows(tree: LaneTree, parts: &BTreeMap<Node, RowsView<'_>>, hidden: usize) -> SparseRows {
    let mut known = parts.iter().map(|(node, view)| (*node, Rows::Borrowed(*view))).collect();
    let mut add =
        |left: Rows<'_>, right: Rows<'_>| Ok::<_, Infallible>(Rows::Owned(merge(left.view(), right.view(), hidden)));
    let Ok(sum) = tree.total(tree.root(), &mut known, &mut add);
    match sum {
        None => SparseRows::default(),
        Some(Rows::Borrowed(view)) => SparseRows { rows: view.rows.to_vec(), values: view.values.to_vec() },
        Some(Rows::Owned(rows)) => rows,
    }
}

enum Rows<'a> {
    Borrowed(RowsView<'a>),
    Owned(SparseRows),
}

impl Rows<'_> {
    fn view(&self) -> RowsView<'_> {
        match self {
            Self::Borrowed(view) => *view,
            Self::Owned(rows) => RowsView::whole(rows),
        }
    }
}

pub(super) fn merge(left: RowsView<'_>, right: RowsView<'_>, hidden: usize) -> SparseRows {
    let capacity = left.rows.len() + right.rows.len();
    let mut sum = SparseRows {
        rows: Vec::with_capacity(capacity),
        values: Vec::with_capacity(left.values.len() + right.values.len()),
    };
    let (mut l, mut r) = (0, 0);
    while l < left.rows.len() || r < right.rows.len() {
        let (a, b) = (left.rows.get(l), right.rows.get(r));
        let from_left = a.is_some() && (b.is_none() || a <= b);
        let from_right = b.is_some() && (a.is_none() || b <= a);
        let start = sum.values.len();
        if from_left {
            sum.rows.extend(a);
            sum.values.extend_from_slice(&left.values[l * hidden..(l + 1) * hidden]);
            l += 1;
        }
        if from_right {
            let row = &right.values[r * hidden..(r + 1) * hidden];
            if from_left {
                add_to(&mut sum.values[start..], row);
            } else {
                sum.rows.extend(b);
                sum.values.extend_from_slice(row);
            }
            r += 1;
        }
    }
    sum
}
