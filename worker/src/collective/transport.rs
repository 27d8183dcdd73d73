//! What moves elements between devices, and knows nothing of what they are.

use std::ops::Range;

use super::CollectiveError;
use crate::ops::Slice;

/// What moves elements between the ranks' devices.
pub(super) trait Transport<B> {
    /// Who sums with whom over what, in a line.
    fn describe(&self) -> Option<String>;

    /// What is exchanged and added from here on comes after all that the device has been asked to compute before.
    fn follow(&mut self) -> Result<(), CollectiveError>;

    /// Enqueues messages, none of which waits for another. Those between two ranks meet in their order.
    fn exchange(&mut self, sent: &[Sent<'_, B>], into: &mut [B], received: &[Received]) -> Result<(), CollectiveError>;

    /// Tells all ranks which rows this one has; once an update.
    fn announce(&mut self, rows: Vec<u32>) -> Result<(), CollectiveError>;

    /// The rows that any rank has announced, ascending; blocks until all have.
    fn announced(&mut self) -> Result<Vec<u32>, CollectiveError>;

    /// Blocks until all that was enqueued is done; what the device computes from here on comes after it.
    fn finish(&mut self) -> Result<(), CollectiveError>;

    /// Ends, after a failure, what was enqueued. Whether what was handed over may be used again.
    fn abandon(&mut self) -> bool;
}

/// Elements for another rank.
pub(super) struct Sent<'a, B> {
    pub to: usize,
    pub elements: Slice<'a, B>,
}

/// A place for elements of another rank.
pub(super) struct Received {
    pub from: usize,
    /// Which of the buffers.
    pub buffer: usize,
    pub range: Range<usize>,
}
