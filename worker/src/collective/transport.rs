//! What moves elements between devices, and knows nothing of what they are.

use std::ops::Range;

use super::{CollectiveError, device_failed};
use crate::ops::{Ops, Slice, SliceMut};

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

/// Enqueues all that makes `buffer` whole on all ranks, of which rank `own` has its own one of `shards`, and waits for it.
/// Returns the bytes sent. `computing` has the order of computing.
pub(super) fn all_gather<O: Ops, T: Transport<O::Buffer>>(
    (computing, transport): (&O, &mut T),
    buffer: &mut O::Buffer,
    (own, shards): (usize, &[Range<usize>]),
) -> Result<u64, CollectiveError> {
    let range = shards.get(own).cloned().unwrap_or_default();
    // What is sent lies beside what is written to.
    let mut shard = O::Buffer::default();
    let count = range.len();
    computing.grow(&mut shard, count).map_err(device_failed)?;
    let into = SliceMut { buffer: &mut shard, range: 0..count };
    computing.copy(into, Slice { buffer, range }).map_err(device_failed)?;
    transport.follow()?;
    let peers = || (0..shards.len()).filter(|peer| *peer != own);
    let elements = || Slice { buffer: &shard, range: 0..count };
    let sent: Vec<_> = peers().filter(|_| count > 0).map(|to| Sent { to, elements: elements() }).collect();
    let theirs = peers().map(|from| Received { from, buffer: 0, range: shards[from].clone() });
    let received: Vec<_> = theirs.filter(|received| !received.range.is_empty()).collect();
    let bytes = (sent.len() * count * size_of::<f32>()) as u64;
    transport.exchange(&sent, std::slice::from_mut(buffer), &received)?;
    transport.finish()?;
    Ok(bytes)
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
