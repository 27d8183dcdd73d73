//! A buffer of which every rank has a shard becomes whole on all of them.
//!
//! Each rank sends every other its own shard, chunk by chunk, and takes theirs: nothing is added, so nothing is waited for
//! but what has to arrive.

use std::ops::Range;
use std::sync::Arc;

use super::exchange::{Admission, Exchange, Next};
use super::frame::{Header, Kind};
use super::group::{Chunks, Group};
use super::pool::Pool;
use super::{CollectiveError, Parts, Shard, Summed};
use crate::layout::Segment;

pub(super) struct Gather {
    group: Arc<Group>,
    sequence: u64,
    buffer: Vec<f32>,
    /// Of each rank, the elements of each of its frames.
    frames: Vec<Vec<Range<usize>>>,
    progress: Vec<Progress>,
}

/// How far the exchange with one peer is, in frames.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    sent: usize,
    received: usize,
}

impl Gather {
    /// Makes `buffer` whole.
    pub(super) fn new(
        group: Arc<Group>,
        sequence: u64,
        (buffer, shards): (Vec<f32>, Vec<Shard>),
    ) -> Result<Self, CollectiveError> {
        let is_inside = |shard: &Range<usize>| shard.start <= shard.end && shard.end <= buffer.len();
        if shards.len() != group.world() || !shards.iter().flatten().all(is_inside) {
            let (ranks, elements) = (group.world(), buffer.len());
            let problem = format!("{shards:?} are no shards of {elements} elements for {ranks} ranks");
            return Err(CollectiveError::Invalid { problem });
        }
        let progress = vec![Progress::default(); group.world()];
        let chunks = |run: &Range<usize>| {
            let chunks = Chunks::new(run.clone(), group.chunk_elements);
            (0..chunks.count()).map(move |chunk| chunks.get(chunk))
        };
        let frames = shards.iter().map(|shard| shard.iter().flat_map(chunks).collect()).collect();
        Ok(Self { group, sequence, buffer, frames, progress })
    }

    /// The frame that `from` sends as its `frame`th to every other.
    fn frame(&self, from: usize, frame: usize) -> Option<Header> {
        let range = self.frames[from].get(frame)?;
        Some(Header {
            kind: Kind::Part,
            present: true,
            generation: self.group.generation,
            sequence: self.sequence,
            segment: Segment::Words,
            node: self.group.tree.root(),
            offset: range.start as u64,
            count: u32::try_from(range.len()).unwrap_or(u32::MAX),
        })
    }
}

impl Exchange for Gather {
    /// All frames are of the kind that a peer may send before this rank has come so far.
    fn next(&self, peer: usize, kind: Kind) -> Next {
        match kind {
            Kind::Part => self.frame(self.group.rank, self.progress[peer].sent).map_or(Next::Done, Next::Frame),
            Kind::Sum => Next::Done,
        }
    }

    fn payload(&self, _peer: usize, header: &Header) -> [&[u8]; 2] {
        let start = header.offset as usize;
        [bytemuck::cast_slice(&self.buffer[start..start + header.count as usize]), &[]]
    }

    fn sent(&mut self, peer: usize, _kind: Kind) {
        self.progress[peer].sent += 1;
    }

    fn expects(&self, peer: usize, kind: Kind) -> bool {
        kind == Kind::Part && self.frame(peer, self.progress[peer].received).is_some()
    }

    fn admit(&mut self, peer: usize, header: &Header, _pool: &mut Pool) -> Result<Admission, String> {
        let due = self.frame(peer, self.progress[peer].received).filter(|_| header.kind == Kind::Part);
        if due != Some(*header) {
            return Err(format!("sent {header:?} where {due:?} was due"));
        }
        Ok(Admission::Granted)
    }

    fn space(&mut self, _peer: usize, header: &Header, taken: usize) -> &mut [u8] {
        let elements = &mut self.buffer[header.offset as usize..][..header.count as usize];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
        &mut bytes[taken..]
    }

    fn received(&mut self, peer: usize, _header: &Header, _pool: &mut Pool) -> Result<(), String> {
        self.progress[peer].received += 1;
        Ok(())
    }

    fn finish(self: Box<Self>, summed: &mut Summed) {
        summed.gathered = Some(self.buffer);
    }

    /// Half of it may be another rank's: it is of no use.
    fn salvage(self: Box<Self>, _parts: &mut Parts) {}
}

#[cfg(test)]
mod tests {
    use super::super::Collective;
    use super::super::local_group::{BOTH, run, split};
    use super::*;

    /// The second rank has nothing, and what is nobody's stays as it is.
    #[test]
    fn shards_of_any_length_become_the_same_on_all_ranks() {
        for settings in BOTH {
            for world in [1, 2, 3, 5] {
                let lengths = [230, 0, 1, 37, 38];
                let bound = |rank: usize| 3 + lengths[..rank].iter().sum::<usize>();
                // Each has two runs, of which one may be empty.
                let runs = |rank: usize| {
                    vec![
                        bound(rank)..(bound(rank) + 30).min(bound(rank + 1)),
                        (bound(rank) + 30).min(bound(rank + 1))..bound(rank + 1),
                    ]
                };
                let shards: Vec<Shard> = (0..world as usize).map(runs).collect();
                let whole: Vec<f32> = (0..320).map(|i| if i == 7 { -0.0 } else { i as f32 }).collect();
                let gathered = run(&split(8, world), settings, |rank, mut tcp| {
                    let mut buffer = vec![-1.0; 320];
                    for run in &shards[rank] {
                        buffer[run.clone()].copy_from_slice(&whole[run.clone()]);
                    }
                    // A second one follows on the heels of the first.
                    let first = tcp.all_gather(&mut buffer, &shards).unwrap();
                    tcp.all_gather(&mut buffer, &shards).unwrap();
                    (buffer, first.sent_bytes)
                });
                for (rank, (buffer, sent)) in gathered.into_iter().enumerate() {
                    for (i, value) in buffer.iter().enumerate() {
                        let expected = if (3..bound(world as usize)).contains(&i) { whole[i] } else { -1.0 };
                        assert_eq!(value.to_bits(), expected.to_bits(), "element {i} of rank {rank} of {world}");
                    }
                    assert!(sent >= (4 * lengths[rank] * (world as usize - 1)) as u64);
                }
            }
        }
    }

    #[test]
    fn shards_that_do_not_fit_are_refused() {
        for shards in [vec![vec![0..4]], vec![vec![0..4], vec![4..9]]] {
            let refused = run(&split(2, 2), BOTH[0], |_, mut tcp| {
                let mut buffer = vec![0.0; 8];
                tcp.all_gather(&mut buffer, &shards).unwrap_err().to_string()
            });
            assert!(refused.iter().any(|problem| problem.contains("are no shards of 8 elements")), "{refused:?}");
        }
    }
}
