//! Buffers for chunks on their way, kept for reuse.

/// Buffers of one chunk each.
#[derive(Debug)]
pub(super) struct Pool {
    elements: usize,
    free: Vec<Vec<f32>>,
}

impl Pool {
    pub(super) fn new(elements: usize) -> Self {
        Self { elements, free: Vec::new() }
    }

    /// A buffer of a chunk's elements, with any content.
    pub(super) fn take(&mut self) -> Vec<f32> {
        self.free.pop().unwrap_or_else(|| vec![0.0; self.elements])
    }

    pub(super) fn put(&mut self, buffer: Vec<f32>) {
        self.free.push(buffer);
    }
}
