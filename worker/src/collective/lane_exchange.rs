//! Sums lane by lane of ranks whose buffers are on devices.
//!
//! The same ranks add the same elements in the same order as over TCP: each adds up a share of every segment, in the
//! order of the lane tree, and sends all others the sum, unless each is to have its own alone. What moves the elements is a
//! [`Transport`], which knows nothing
//! of lanes.
//!
//! Nobody says which nodes are absent for want of rows: what is sent for one is −0, which changes no bit of what it is
//! added to. Of the word embedding, ranks first tell each other which rows they have, and then sum the matrix of the rows
//! that any of them has like a dense segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use medley_common::identity::Rank;
use medley_common::lane::Node;

use super::group::{Extent, Group, number};
use super::parcel::Parcel;
use super::traffic::{Meter, Traffic};
use super::transport::{Received, Sent, Transport, all_gather};
use super::tree_sum::{Adder, ChunkSum, Value};
use super::{Collective, CollectiveError, Parts, Shard, SparseRows, Summed, Sums, device_failed};
use crate::layout::Segment;
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

/// A group of ranks whose buffers are on devices.
pub(super) struct LaneExchange<O: Ops, T> {
    /// Before the buffers: they are given back once nothing that is enqueued reads or writes them.
    transport: T,
    group: Arc<Group>,
    /// Makes what lives longer than a sum: in the order of computing.
    computing: O,
    /// Adds, in the order of the exchanges.
    adding: O,
    launched: Vec<Launched<O::Buffer>>,
    words: Option<Words<O>>,
    sums: Sums,
    /// Stands for nodes that are absent: the last one, which is the largest.
    nothing: Vec<O::Buffer>,
    /// By the host's clock, from the first sum that is handed over to the fence: the device says nothing of when it
    /// begins to exchange what it has been asked to.
    meter: Meter,
}

/// A dense segment whose sum is on its way.
struct Launched<B> {
    segment: Segment,
    nodes: Vec<Node>,
    /// This rank's sums of these nodes. They stay as they are, so that they need not be computed again if a peer is lost.
    buffers: Vec<B>,
    total: B,
}

/// The word embedding's rows.
struct Words<O: Ops> {
    /// This rank's.
    own: Vec<(Node, SparseRows<O::Buffer>)>,
    /// Those of all nodes, row by row what any rank has.
    matrices: Vec<O::Buffer>,
    total: SparseRows<O::Buffer>,
}

/// Adds on a device.
struct OnDevice<'a, O>(&'a O);

impl<O: Ops> Adder<O::Buffer> for OnDevice<'_, O> {
    type Error = DeviceError;

    fn take(&mut self, elements: usize) -> Result<O::Buffer, DeviceError> {
        room(self.0, elements)
    }

    fn put(&mut self, _chunk: O::Buffer) {}

    fn clear(&mut self, into: SliceMut<'_, O::Buffer>) -> Result<(), DeviceError> {
        let zeros = self.0.zeros(into.range.len())?;
        let range = 0..into.range.len();
        self.0.copy(into, Slice { buffer: &zeros, range })
    }

    fn copy(&mut self, into: SliceMut<'_, O::Buffer>, from: Slice<'_, O::Buffer>) -> Result<(), DeviceError> {
        self.0.copy(into, from)
    }

    fn add(&mut self, into: SliceMut<'_, O::Buffer>, from: Slice<'_, O::Buffer>) -> Result<(), DeviceError> {
        self.0.add(into, from)
    }
}

/// A buffer for `length` elements of any values.
fn room<O: Ops>(ops: &O, length: usize) -> Result<O::Buffer, DeviceError> {
    let mut buffer = O::Buffer::default();
    ops.grow(&mut buffer, length)?;
    Ok(buffer)
}

/// Bytes of elements for others.
fn bytes<B>(sent: &[Sent<'_, B>]) -> u64 {
    let elements: usize = sent.iter().map(|sent| sent.elements.range.len()).sum();
    (elements * size_of::<f32>()) as u64
}

impl<O: Ops, T: Transport<O::Buffer>> LaneExchange<O, T> {
    /// Sums of `group`'s ranks. Of the two, which are the same device, `computing` has the order of computing, and
    /// `adding` that of the transport.
    pub(super) fn new(group: Arc<Group>, transport: T, [computing, adding]: [O; 2]) -> Self {
        let (launched, words, nothing, meter) = (Vec::new(), None, Vec::new(), Meter::default());
        Self { transport, group, computing, adding, launched, words, sums: Sums::default(), nothing, meter }
    }

    /// Elements of a dense segment, if this rank may hand over sums of these nodes of it.
    fn check(&self, segment: Segment, sums: &[(Node, O::Buffer)]) -> Result<usize, CollectiveError> {
        let invalid = |problem: String| Err(CollectiveError::Invalid { problem });
        let Some(length) = self.group.lengths.get(&segment).copied() else {
            return invalid(format!("the model has no dense segment {segment:?}"));
        };
        for (place, (node, buffer)) in sums.iter().enumerate() {
            let is_known = self.group.cover().contains(node);
            if !is_known || sums[..place].iter().any(|(other, _)| other == node) {
                return invalid(format!("{node:?} of {segment:?} is not one of this rank's nodes, or is there twice"));
            }
            let room = self.computing.room(buffer);
            if room != length {
                return invalid(format!("{segment:?} has {length} elements, not {room}"));
            }
        }
        Ok(length)
    }

    /// Enqueues all that makes `total` the sum of all ranks' nodes; this rank's own are whole segments. Where
    /// each rank is given its own share alone, it becomes so there.
    fn add_up(
        &mut self,
        extent: Extent,
        (nodes, buffers): (&[Node], &[O::Buffer]),
        total: &mut O::Buffer,
    ) -> Result<(), CollectiveError> {
        let share = self.group.share(extent, self.group.rank);
        let incoming = self.group.incoming(extent);
        let chunks = self.gather(extent, (nodes, buffers))?;
        let own = nodes.iter().enumerate().map(|(index, node)| (*node, Value::Own(index)));
        let theirs = incoming.iter().map(|parcel| parcel.node).zip(chunks.into_iter().map(Value::Chunk));
        let parts: BTreeMap<Node, Value<O::Buffer>> = own.chain(theirs).collect();

        let mut adder = OnDevice(&self.adding);
        let mut chunk = ChunkSum { tree: self.group.tree, buffers, range: share.clone(), adder: &mut adder };
        let sum = match chunk.sum(parts).map_err(device_failed)? {
            Some(sum) => sum,
            // No rank has a row.
            None => Value::Chunk(self.adding.zeros(share.len()).map_err(device_failed)?),
        };
        if extent.piece.is_some() {
            return chunk.write(Some(sum), total).map_err(device_failed);
        }
        let peers = || self.group.peers();
        let place = || sum.place(buffers, &share);
        let sent: Vec<_> = peers().filter(|_| !share.is_empty()).map(|to| Sent { to, elements: place() }).collect();
        let shares = peers().map(|from| (from, self.group.share(extent, from)));
        let shares = shares.filter(|(_, range)| !range.is_empty());
        let received: Vec<_> = shares.map(|(from, range)| Received { from, buffer: 0, range }).collect();
        self.meter.send(bytes(&sent));
        self.transport.exchange(&sent, std::slice::from_mut(total), &received)?;
        chunk.write(Some(sum), total).map_err(device_failed)
    }

    /// Sends the others their shares of this rank's nodes, and takes theirs of its own share: a chunk for each parcel.
    fn gather(
        &mut self,
        extent: Extent,
        (nodes, buffers): (&[Node], &[O::Buffer]),
    ) -> Result<Vec<O::Buffer>, CollectiveError> {
        let (outgoing, incoming) = (self.group.outgoing(extent), self.group.incoming(extent));
        let buffer = |node| nodes.iter().position(|known| *known == node).map(|place| &buffers[place]);
        let is_missing = outgoing.iter().any(|parcel| buffer(parcel.node).is_none());
        if is_missing && self.nothing.last().is_none_or(|nothing| self.computing.room(nothing) < extent.length) {
            let nothing = self.computing.spread_rows(&SparseRows::default(), &[0], extent.length);
            self.nothing.push(nothing.map_err(device_failed)?);
        }
        let elements = |parcel: &Parcel| match (buffer(parcel.node), self.nothing.last()) {
            (None, Some(buffer)) => Some(Slice { buffer, range: 0..parcel.range.len() }),
            (buffer, _) => buffer.map(|buffer| Slice { buffer, range: parcel.range.clone() }),
        };
        let sent = outgoing.iter().filter_map(|parcel| Some(Sent { to: parcel.peer, elements: elements(parcel)? }));
        let sent: Vec<_> = sent.collect();
        self.transport.follow()?;
        let chunk = |parcel: &Parcel| room(&self.adding, parcel.range.len());
        let mut chunks = incoming.iter().map(chunk).collect::<Result<Vec<_>, _>>().map_err(device_failed)?;
        let received = incoming.iter().enumerate();
        let received: Vec<_> = received
            .map(|(buffer, parcel)| Received { from: parcel.peer, buffer, range: 0..parcel.range.len() })
            .collect();
        self.meter.send(bytes(&sent));
        self.transport.exchange(&sent, &mut chunks, &received)?;
        Ok(chunks)
    }

    /// Enqueues the sum of the word embedding's rows, once all ranks have said which they have.
    fn add_up_words(&mut self) -> Result<(), CollectiveError> {
        let Some(mut words) = self.words.take() else { return Ok(()) };
        let summed = self.add_up_rows(&mut words);
        self.words = Some(words);
        summed
    }

    fn add_up_rows(&mut self, words: &mut Words<O>) -> Result<(), CollectiveError> {
        let (rows, width) = (self.transport.announced()?, self.group.hidden);
        if rows.is_empty() {
            return Ok(());
        }
        let mut nodes = Vec::new();
        for (node, own) in &words.own {
            nodes.push(*node);
            words.matrices.push(self.computing.spread_rows(own, &rows, width).map_err(device_failed)?);
        }
        let length = rows.len() * width;
        words.total = SparseRows { rows, values: room(&self.computing, length).map_err(device_failed)? };
        self.add_up(Extent::whole(length), (&nodes, &words.matrices), &mut words.total.values)
    }
}

impl<O: Ops, T: Transport<O::Buffer>> Collective<O::Buffer> for LaneExchange<O, T> {
    fn rank(&self) -> Rank {
        number(self.group.rank)
    }

    fn world(&self) -> u32 {
        number(self.group.world()).0
    }

    fn describe(&self) -> Option<String> {
        self.transport.describe()
    }

    fn sums(&mut self, sums: Sums) {
        self.sums = sums;
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), CollectiveError> {
        let length = self.check(segment, &sums)?;
        self.meter.begin();
        let (nodes, buffers): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
        let mut total = O::Buffer::default();
        let result = self.computing.grow(&mut total, length).map_err(device_failed);
        let extent = Extent { length, piece: self.sums.pieces(segment) };
        let result = result.and_then(|()| self.add_up(extent, (&nodes, &buffers), &mut total));
        // Whatever has come of it: it may be on its way, and it may be handed over again.
        self.launched.push(Launched { segment, nodes, buffers, total });
        result
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), CollectiveError> {
        self.meter.begin();
        let mut rows: Vec<u32> = sums.iter().flat_map(|(_, sum)| &sum.rows).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        self.words = Some(Words { own: sums, matrices: Vec::new(), total: SparseRows::default() });
        self.transport.announce(rows)
    }

    fn fence(&mut self) -> Result<Summed<O::Buffer>, CollectiveError> {
        self.add_up_words()?;
        self.transport.finish()?;
        // No smaller one is in use any more.
        self.nothing.drain(..self.nothing.len().saturating_sub(1));
        let mut summed = Summed { traffic: self.meter.take(), ..Summed::default() };
        for Launched { segment, buffers, total, .. } in std::mem::take(&mut self.launched) {
            summed.segments.push((segment, total));
            summed.spare.extend(buffers.into_iter().map(|buffer| (segment, buffer)));
        }
        summed.words = self.words.take().map(|words| words.total).unwrap_or_default();
        Ok(summed)
    }

    fn all_gather(&mut self, buffer: &mut O::Buffer, shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        self.meter.begin();
        let sent = all_gather((&self.computing, &mut self.transport), buffer, (self.group.rank, shards))?;
        self.meter.send(sent);
        Ok(self.meter.take())
    }

    fn reuse(&mut self, sums: Vec<O::Buffer>) -> Vec<O::Buffer> {
        sums
    }

    fn salvage(&mut self) -> Parts<O::Buffer> {
        let (launched, words) = (std::mem::take(&mut self.launched), self.words.take());
        if !self.transport.abandon() {
            return Parts::default();
        }
        let dense = |Launched { segment, nodes, buffers, .. }| (segment, nodes.into_iter().zip(buffers).collect());
        Parts { dense: launched.into_iter().map(dense).collect(), words: words.map(|words| words.own) }
    }
}
