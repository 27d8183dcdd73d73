//! Buffers that are lent and taken back.

use std::collections::BTreeMap;

use super::{DeviceError, Ops};
use crate::layout::Segment;

/// What buffers are for: the sums of a segment, or any others; and their length. What was made for one is lent for no other,
/// so that a segment's sums come to lie in few places: sections are kept by where they write to.
pub type Shelf = (Option<Segment>, usize);

/// Buffers for sums, kept from one update to the next.
pub struct BufferPool<O: Ops + ?Sized> {
    free: BTreeMap<Shelf, Vec<O::Buffer>>,
    /// How many buffers of each kind were made: no more than these are taken back.
    made: BTreeMap<Shelf, usize>,
}

impl<O: Ops + ?Sized> Default for BufferPool<O> {
    fn default() -> Self {
        Self { free: BTreeMap::new(), made: BTreeMap::new() }
    }
}

impl<O: Ops + ?Sized> BufferPool<O> {
    /// Takes a buffer of elements of unspecified values.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn take(&mut self, ops: &O, shelf: Shelf) -> Result<O::Buffer, DeviceError> {
        if let Some(buffer) = self.free.entry(shelf).or_default().pop() {
            return Ok(buffer);
        }
        *self.made.entry(shelf).or_default() += 1;
        ops.zeros(shelf.1)
    }

    /// Takes back a buffer.
    pub fn give(&mut self, buffer: O::Buffer, shelf: Shelf) {
        let free = self.free.entry(shelf).or_default();
        if free.len() < self.made.get(&shelf).copied().unwrap_or(0) {
            free.push(buffer);
        }
    }
}
