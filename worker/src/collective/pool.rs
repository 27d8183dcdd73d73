//! Buffers for chunks on their way and for whole sums, kept for reuse.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::tree_sum::{Adder, add_to};
use crate::ops::{Slice, SliceMut};

/// Buffers of one chunk each, and of whole segments by their length.
#[derive(Debug)]
pub(super) struct Pool {
    elements: usize,
    free: Vec<Vec<f32>>,
    whole: BTreeMap<usize, Vec<Vec<f32>>>,
}

impl Pool {
    pub(super) fn new(elements: usize) -> Self {
        Self { elements, free: Vec::new(), whole: BTreeMap::new() }
    }

    /// A buffer of a chunk's elements, with any content.
    pub(super) fn take(&mut self) -> Vec<f32> {
        self.free.pop().unwrap_or_else(|| vec![0.0; self.elements])
    }

    pub(super) fn put(&mut self, buffer: Vec<f32>) {
        self.free.push(buffer);
    }

    /// A buffer of a whole segment, with any content.
    pub(super) fn take_whole(&mut self, length: usize) -> Vec<f32> {
        self.whole.get_mut(&length).and_then(Vec::pop).unwrap_or_else(|| vec![0.0; length])
    }

    pub(super) fn put_whole(&mut self, buffers: Vec<Vec<f32>>) {
        for buffer in buffers {
            self.whole.entry(buffer.len()).or_default().push(buffer);
        }
    }
}

impl Adder<Vec<f32>> for Pool {
    type Error = Infallible;

    fn take(&mut self, _elements: usize) -> Result<Vec<f32>, Infallible> {
        Ok(Self::take(self))
    }

    fn put(&mut self, chunk: Vec<f32>) {
        Self::put(self, chunk);
    }

    fn clear(&mut self, into: SliceMut<'_, Vec<f32>>) -> Result<(), Infallible> {
        into.buffer[into.range].fill(0.0);
        Ok(())
    }

    fn copy(&mut self, into: SliceMut<'_, Vec<f32>>, from: Slice<'_, Vec<f32>>) -> Result<(), Infallible> {
        into.buffer[into.range].copy_from_slice(&from.buffer[from.range]);
        Ok(())
    }

    fn add(&mut self, into: SliceMut<'_, Vec<f32>>, from: Slice<'_, Vec<f32>>) -> Result<(), Infallible> {
        add_to(&mut into.buffer[into.range], &from.buffer[from.range]);
        Ok(())
    }
}
