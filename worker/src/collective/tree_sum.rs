//! Adding nodes in the order of the lane tree, which gives the same bits whoever holds which nodes.
//!
//! The value of a node is what was handed over for it, else the sum of its two halves; where a half has no value, the
//! other's alone.

use std::collections::BTreeMap;
use std::ops::Range;

use medley_common::lane::{LaneTree, Node};

use super::SparseRows;
use super::pool::Pool;

/// One chunk of a dense segment.
pub(super) struct ChunkSum<'a> {
    pub tree: LaneTree,
    /// This rank's own nodes, whole segments.
    pub buffers: &'a [Vec<f32>],
    /// Where the sum goes, a whole segment.
    pub sum: &'a mut [f32],
    /// The chunk's elements within the segment.
    pub range: Range<usize>,
    pub pool: &'a mut Pool,
}

/// Where the value of a node is.
pub(super) enum Value {
    /// In this rank's own buffer of this index.
    Own(usize),
    /// In a chunk's buffer.
    Chunk(Vec<f32>),
}

impl ChunkSum<'_> {
    /// Adds `parts` up into the chunk's elements of the sum; no parts sum to 0.
    pub(super) fn run(mut self, mut parts: BTreeMap<Node, Value>) {
        match self.value(self.tree.root(), &mut parts) {
            None => self.sum[self.range].fill(0.0),
            Some(Value::Own(index)) => {
                self.sum[self.range.clone()].copy_from_slice(&self.buffers[index][self.range]);
            }
            Some(Value::Chunk(chunk)) => {
                let count = self.range.len();
                self.sum[self.range].copy_from_slice(&chunk[..count]);
                self.pool.put(chunk);
            }
        }
    }

    fn value(&mut self, node: Node, parts: &mut BTreeMap<Node, Value>) -> Option<Value> {
        if let Some(value) = parts.remove(&node) {
            return Some(value);
        }
        let (left, right) = self.tree.children(node)?;
        let left = self.value(left, parts);
        let right = right.and_then(|right| self.value(right, parts));
        match (left, right) {
            (Some(left), Some(right)) => Some(self.add(left, right)),
            (value, None) | (None, value) => value,
        }
    }

    /// Adds in place where there is a place; the order of two summands does not change their sum.
    fn add(&mut self, left: Value, right: Value) -> Value {
        let range = self.range.clone();
        let (mut sum, other) = match (left, right) {
            (Value::Chunk(sum), other) | (other, Value::Chunk(sum)) => (sum, other),
            (Value::Own(left), right) => {
                let mut sum = self.pool.take();
                sum[..range.len()].copy_from_slice(&self.buffers[left][range.clone()]);
                (sum, right)
            }
        };
        let count = range.len();
        match other {
            Value::Own(index) => add_to(&mut sum[..count], &self.buffers[index][range]),
            Value::Chunk(other) => {
                add_to(&mut sum[..count], &other[..count]);
                self.pool.put(other);
            }
        }
        Value::Chunk(sum)
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
    match rows_of(tree, tree.root(), parts, hidden) {
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

fn rows_of<'a>(tree: LaneTree, node: Node, parts: &BTreeMap<Node, RowsView<'a>>, hidden: usize) -> Option<Rows<'a>> {
    if let Some(view) = parts.get(&node) {
        return Some(Rows::Borrowed(*view));
    }
    let (left, right) = tree.children(node)?;
    let left = rows_of(tree, left, parts, hidden);
    let right = right.and_then(|right| rows_of(tree, right, parts, hidden));
    match (left, right) {
        (Some(left), Some(right)) => Some(Rows::Owned(merge(left.view(), right.view(), hidden))),
        (rows, None) | (None, rows) => rows,
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
