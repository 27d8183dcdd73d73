//! Runs of elements that one launch goes over: `kernels/runs.cuh`.

/// Runs, and which blocks of threads take which.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// Four words a run: where it lies, its elements, its first block, and what the kernel should know of it.
    words: Vec<u64>,
    blocks: usize,
}

impl Runs {
    /// Adds a run of `count` elements at `address`, which so many blocks take.
    pub(super) fn push(&mut self, address: u64, count: usize, (blocks, flags): (usize, u64)) {
        self.words.extend([address, count as u64, self.blocks as u64, flags]);
        self.blocks += blocks;
    }

    /// The runs.
    pub(super) fn len(&self) -> usize {
        self.words.len() / 4
    }

    /// Blocks of all runs.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// What the kernel reads.
    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }
}
