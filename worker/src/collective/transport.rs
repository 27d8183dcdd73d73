//! What moves elements between devices, and knows nothing of what they are.

use std::ops::Range;

use super::{CollectiveError, Shard, device_failed};
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
    (own, shards): (usize, &[Shard]),
) -> Result<u64, CollectiveError> {
    // What is sent lies beside what is written to.
    let mut runs = Vec::new();
    for range in shards.get(own).into_iter().flatten().filter(|run| !run.is_empty()) {
        let (mut run, count) = (O::Buffer::default(), range.len());
        computing.grow(&mut run, count).map_err(device_failed)?;
        let into = SliceMut { buffer: &mut run, range: 0..count };
        computing.copy(into, Slice { buffer, range: range.clone() }).map_err(device_failed)?;
        runs.push((run, count));
    }
    transport.follow()?;
    let peers = || (0..shards.len()).filter(|peer| *peer != own);
    let to =
        |to: usize| runs.iter().map(move |(buffer, count)| Sent { to, elements: Slice { buffer, range: 0..*count } });
    let from = |from: usize| shards[from].iter().map(move |range| Received { from, buffer: 0, range: range.clone() });
    let sent: Vec<_> = peers().flat_map(to).collect();
    let received: Vec<_> = peers().flat_map(from).filter(|received| !received.range.is_empty()).collect();
    let bytes = sent.iter().map(|sent| (sent.elements.range.len() * size_of::<f32>()) as u64).sum();
    let exchanged = transport.exchange(&sent, std::slice::from_mut(buffer), &received);
    match exchanged.and_then(|()| transport.finish()) {
        Ok(()) => Ok(bytes),
        Err(error) => {
            // What is sent must not be freed before it has come to its end.
            transport.abandon();
            Err(error)
        }
    }
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
