//! The sum of a dense segment.
//!
//! Each rank adds up a share of the segment: the others send it their nodes' elements there, chunk by chunk; it adds a
//! chunk as soon as all are there, and sends every peer the sum, unless each rank is to have its own share alone. Where all
//! that there is to add to this rank's own is
//! one part, it is added as it comes, and put down nowhere else.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use medley_common::lane::Node;

use super::exchange::{Admission, Exchange, Next};
use super::frame::{Header, Kind};
use super::group::{Chunks, Extent, Group};
use super::pool::Pool;
use super::tree_sum::{ChunkSum, Value};
use super::{CollectiveError, DenseParts, Parts, Summed, Sums};
use crate::layout::Segment;

/// How many chunks one peer may be ahead of the slowest: bounds the memory for chunks that cannot be added yet.
const WINDOW: usize = 4;

/// Elements of a part that are added at once as they come: these and their sums stay in the cache that is nearest.
const PIECE: usize = 4 << 10;

pub(super) struct Dense {
    group: Arc<Group>,
    sequence: u64,
    segment: Segment,
    extent: Extent,
    /// This rank's nodes. They stay as they are, so that they need not be computed again if a peer is lost.
    buffers: Vec<Vec<f32>>,
    /// What becomes the sum.
    total: Vec<f32>,
    /// For each node of this rank's cover, its buffer; `None` where its lanes are empty.
    places: Vec<Option<usize>>,
    /// Whether a sum of this rank's share is one part of a peer, and this rank's own where it has one.
    is_pair: bool,
    progress: Vec<Progress>,
    /// Chunks of this rank's share that are summed.
    summed: usize,
    /// What has arrived of the chunks after those.
    columns: VecDeque<Column>,
}

/// How far the exchange with one peer is, in frames.
#[derive(Debug, Default)]
struct Progress {
    parts_sent: usize,
    sums_sent: usize,
    parts_received: usize,
    sums_received: usize,
    /// The chunk that is being received, or the piece of it where it is added as it comes.
    incoming: Option<Vec<f32>>,
    /// Elements of that chunk that are added.
    added: usize,
}

/// What has arrived of one chunk.
#[derive(Default)]
struct Column {
    frames: usize,
    parts: BTreeMap<Node, Value<Vec<f32>>>,
}

impl Dense {
    /// A sum of this rank's `nodes`.
    pub(super) fn new(
        group: Arc<Group>,
        sequence: u64,
        ((segment, nodes), sums): (DenseParts, Sums),
        pool: &mut Pool,
    ) -> Result<Self, CollectiveError> {
        let invalid = |problem: String| Err(CollectiveError::Invalid { problem });
        let Some(length) = group.lengths.get(&segment).copied() else {
            return invalid(format!("the model has no dense segment {segment:?}"));
        };
        let mut places = vec![None; group.cover().len()];
        let mut buffers = Vec::new();
        for (node, buffer) in nodes {
            let place = group.cover().iter().position(|known| *known == node).and_then(|place| places.get_mut(place));
            let Some(place @ None) = place else {
                return invalid(format!("{node:?} of {segment:?} is not one of this rank's nodes, or is there twice"));
            };
            if buffer.len() != length {
                return invalid(format!("{segment:?} has {length} elements, not {}", buffer.len()));
            }
            *place = Some(buffers.len());
            buffers.push(buffer);
        }
        let total = pool.take_whole(length);
        let progress = (0..group.world()).map(|_| Progress::default()).collect();
        let theirs: usize = group.peers().map(|peer| group.covers[peer].len()).sum();
        let is_pair = theirs == 1 && places.len() <= 1;
        let (summed, columns) = (0, VecDeque::new());
        let extent = Extent { length, piece: sums.pieces(segment) };
        let mut dense =
            Self { group, sequence, segment, extent, buffers, total, places, is_pair, progress, summed, columns };
        dense.add_up(pool);
        Ok(dense)
    }

    fn chunks(&self, owner: usize) -> Chunks {
        Chunks::new(self.group.share(self.extent, owner), self.group.chunk_elements)
    }

    fn header(&self, kind: Kind, node: Node, range: Range<usize>) -> Header {
        Header {
            kind,
            present: true,
            generation: self.group.generation,
            sequence: self.sequence,
            segment: self.segment,
            node,
            offset: range.start as u64,
            count: u32::try_from(range.len()).unwrap_or(u32::MAX),
        }
    }

    /// The frame that `from` sends as its `frame`th part to the owner of a share.
    fn part(&self, from: usize, owner: usize, frame: usize) -> Option<(Header, usize)> {
        let cover = &self.group.covers[from];
        let (chunk, node) = (frame.checked_div(cover.len())?, frame.checked_rem(cover.len())?);
        let chunks = self.chunks(owner);
        (chunk < chunks.count()).then(|| (self.header(Kind::Part, cover[node], chunks.get(chunk)), node))
    }

    /// The frame that an owner sends as the `frame`th of its sums, where the others are given them.
    fn sum(&self, owner: usize, frame: usize) -> Option<Header> {
        let chunks = self.chunks(owner);
        (self.extent.piece.is_none() && frame < chunks.count())
            .then(|| self.header(Kind::Sum, self.group.tree.root(), chunks.get(frame)))
    }

    /// Adds what has come of the only part to this rank's own, into the sum.
    fn add_piece(&mut self, peer: usize, header: &Header, taken: usize) {
        let progress = &mut self.progress[peer];
        let Some(piece) = &mut progress.incoming else { return };
        let count = taken / size_of::<f32>() - progress.added;
        let start = header.offset as usize + progress.added;
        let sums = &mut self.total[start..start + count];
        match self.places.first().copied().flatten() {
            Some(place) => {
                let own = &self.buffers[place][start..start + count];
                for ((sum, own), other) in sums.iter_mut().zip(own).zip(&piece[..count]) {
                    *sum = own + other;
                }
            }
            None => sums.copy_from_slice(&piece[..count]),
        }
        // Of an element whose other bytes are to come.
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(piece);
        let first = count * size_of::<f32>();
        bytes.copy_within(first..first + taken % size_of::<f32>(), 0);
        progress.added += count;
    }

    /// Adds up every chunk that has arrived from all peers.
    fn add_up(&mut self, pool: &mut Pool) {
        let due: usize = self.group.peers().map(|peer| self.group.covers[peer].len()).sum();
        let chunks = self.chunks(self.group.rank);
        while self.summed < chunks.count() && self.columns.front().map_or(0, |column| column.frames) == due {
            let mut parts = self.columns.pop_front().unwrap_or_default().parts;
            for (node, place) in self.group.cover().iter().zip(&self.places) {
                parts.extend(place.map(|place| (*node, Value::Own(place))));
            }
            let range = chunks.get(self.summed);
            let mut chunk = ChunkSum { tree: self.group.tree, buffers: &self.buffers, range, adder: &mut *pool };
            let Ok(()) = chunk.sum(parts).and_then(|sum| chunk.write(sum, &mut self.total));
            self.summed += 1;
        }
    }
}

impl Exchange for Dense {
    fn next(&self, peer: usize, kind: Kind) -> Next {
        let progress = &self.progress[peer];
        match kind {
            Kind::Part => match self.part(self.group.rank, peer, progress.parts_sent) {
                None => Next::Done,
                Some((header, node)) => Next::Frame(Header { present: self.places[node].is_some(), ..header }),
            },
            Kind::Sum => match self.sum(self.group.rank, progress.sums_sent) {
                None => Next::Done,
                Some(_) if progress.sums_sent >= self.summed => Next::NotYet,
                Some(header) => Next::Frame(header),
            },
        }
    }

    fn payload(&self, _peer: usize, header: &Header) -> [&[u8]; 2] {
        let whole = match header.kind {
            Kind::Sum => Some(&self.total),
            Kind::Part => {
                let node = self.group.cover().iter().position(|node| *node == header.node);
                node.and_then(|node| self.places[node]).map(|place| &self.buffers[place])
            }
        };
        let start = header.offset as usize;
        let elements = whole.map_or(&[][..], |whole| &whole[start..start + header.count as usize]);
        [bytemuck::cast_slice(elements), &[]]
    }

    fn sent(&mut self, peer: usize, kind: Kind) {
        let progress = &mut self.progress[peer];
        match kind {
            Kind::Part => progress.parts_sent += 1,
            Kind::Sum => progress.sums_sent += 1,
        }
    }

    fn expects(&self, peer: usize, kind: Kind) -> bool {
        let progress = &self.progress[peer];
        match kind {
            Kind::Part => self.part(peer, self.group.rank, progress.parts_received).is_some(),
            Kind::Sum => self.sum(peer, progress.sums_received).is_some(),
        }
    }

    fn admit(&mut self, peer: usize, header: &Header, pool: &mut Pool) -> Result<Admission, String> {
        let progress = &self.progress[peer];
        let due = match header.kind {
            Kind::Part => self.part(peer, self.group.rank, progress.parts_received).map(|(due, _)| due),
            Kind::Sum => self.sum(peer, progress.sums_received),
        };
        let present = header.present || header.kind == Kind::Sum;
        if due.map(|due| Header { present, ..due }) != Some(*header) {
            return Err(format!("sent {header:?} where {due:?} was due"));
        }
        match header.kind {
            Kind::Part => {
                let chunk = progress.parts_received / self.group.covers[peer].len().max(1);
                if chunk >= self.summed + WINDOW {
                    return Ok(Admission::Later);
                }
                let progress = &mut self.progress[peer];
                (progress.incoming, progress.added) = (header.present.then(|| pool.take()), 0);
            }
            Kind::Sum => {
                // The peer cannot have added up what it has not been sent.
                if progress.parts_sent < (progress.sums_received + 1) * self.places.len() {
                    return Err("sent a sum before it had all parts".to_owned());
                }
            }
        }
        Ok(Admission::Granted)
    }

    fn space(&mut self, peer: usize, header: &Header, taken: usize) -> &mut [u8] {
        let count = header.count as usize;
        let Progress { incoming, added, .. } = &mut self.progress[peer];
        let (elements, taken) = match header.kind {
            Kind::Sum => (&mut self.total[header.offset as usize..][..count], taken),
            Kind::Part => {
                let place = incoming.as_deref_mut().unwrap_or_default();
                if self.is_pair && !place.is_empty() {
                    (&mut place[..PIECE.min(count - *added)], taken - *added * size_of::<f32>())
                } else {
                    let count = count.min(place.len());
                    (&mut place[..count], taken)
                }
            }
        };
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
        &mut bytes[taken..]
    }

    fn filled(&mut self, peer: usize, header: &Header, taken: usize) {
        if header.kind == Kind::Part && self.is_pair {
            self.add_piece(peer, header, taken);
        }
    }

    fn received(&mut self, peer: usize, header: &Header, pool: &mut Pool) -> Result<(), String> {
        let progress = &mut self.progress[peer];
        if header.kind == Kind::Sum {
            progress.sums_received += 1;
            return Ok(());
        }
        let chunk = progress.parts_received / self.group.covers[peer].len().max(1);
        let column = chunk - self.summed;
        progress.parts_received += 1;
        let mut incoming = progress.incoming.take();
        if let Some(piece) = incoming.take_if(|_| self.is_pair) {
            pool.put(piece);
            self.summed += 1;
            return Ok(());
        }
        if self.columns.len() <= column {
            self.columns.resize_with(column + 1, Column::default);
        }
        self.columns[column].frames += 1;
        if let Some(elements) = incoming {
            self.columns[column].parts.insert(header.node, Value::Chunk(elements));
        }
        self.add_up(pool);
        Ok(())
    }

    fn finish(self: Box<Self>, summed: &mut Summed) {
        summed.segments.push((self.segment, self.total));
        let segment = self.segment;
        summed.spare.extend(self.buffers.into_iter().map(|buffer| (segment, buffer)));
    }

    fn salvage(self: Box<Self>, parts: &mut Parts) {
        let Self { group, segment, mut buffers, places, .. } = *self;
        let own = group.cover().iter().zip(places);
        let own = own.filter_map(|(node, place)| Some((*node, std::mem::take(buffers.get_mut(place?)?))));
        parts.dense.push((segment, own.collect()));
    }
}
