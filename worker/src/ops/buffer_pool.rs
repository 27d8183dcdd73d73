//! Buffers that are lent and taken back.

use std::collections::BTreeMap;

use super::{DeviceError, Ops};

/// Buffers for sums, kept from one update to the next.
pub struct BufferPool<O: Ops + ?Sized> {
    free: BTreeMap<usize, Vec<O::Buffer>>,
    /// How many buffers of each length were made: no more than these are taken back.
    made: BTreeMap<usize, usize>,
}

impl<O: Ops + ?Sized> Default for BufferPool<O> {
    fn default() -> Self {
        Self { free: BTreeMap::new(), made: BTreeMap::new() }
    }
}

impl<O: Ops + ?Sized> BufferPool<O> {
    /// Takes a buffer of `length` elements of unspecified values.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn take(&mut self, ops: &O, length: usize) -> Result<O::Buffer, DeviceError> {
        if let Some(buffer) = self.free.entry(length).or_default().pop() {
            return Ok(buffer);
        }
        *self.made.entry(length).or_default() += 1;
        ops.zeros(length)
    }

    /// Takes back a buffer of `length` elements.
    pub fn give(&mut self, buffer: O::Buffer, length: usize) {
        let free = self.free.entry(length).or_default();
        if free.len() < self.made.get(&length).copied().unwrap_or(0) {
            free.push(buffer);
        }
    }
}
