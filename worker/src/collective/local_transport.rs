//! Groups of threads that exchange the elements of their devices by channels, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use medley_common::identity::{Generation, Rank, Update};
use medley_common::message::{Form, Lanes};
use medley_common::secret::Secret;

use super::group::Group;
use super::lane_exchange::LaneExchange;
use super::transport::{Received, Sent, Transport};
use super::{Collective, CollectiveError, TcpSettings};
use crate::layout::Layout;
use crate::ops::{Ops, Slice, SliceMut};

/// The ends of a rank's channels to another.
struct Ends {
    elements: (Sender<Vec<f32>>, Receiver<Vec<f32>>),
    rows: (Sender<Vec<u32>>, Receiver<Vec<u32>>),
}

/// A rank that has not chosen its device yet: it may go to another thread.
pub(crate) struct Seat {
    pub(super) group: Arc<Group>,
    peers: BTreeMap<usize, Ends>,
}

/// A rank's channels.
struct Local<O> {
    ops: O,
    peers: BTreeMap<usize, Ends>,
    announced: Vec<u32>,
}

/// The ranks of a group in which each has these lanes.
pub(crate) fn seats(layout: &Layout, lanes: &[Lanes]) -> Vec<Seat> {
    let form = |rank| Form {
        generation: Generation(1),
        rank: Rank(rank),
        peers: vec![String::new(); lanes.len()],
        secret: Secret([0; 32]),
        lanes: lanes.to_vec(),
        update: Update(0),
        line: Generation(0),
        source: None,
    };
    let group = |rank| Arc::new(Group::new(&form(rank), layout, TcpSettings::default()).unwrap());
    let mut seats: Vec<Seat> =
        (0..lanes.len() as u32).map(|rank| Seat { group: group(rank), peers: BTreeMap::new() }).collect();
    for left in 0..seats.len() {
        for right in 0..left {
            let ((to_left, left_takes), (to_right, right_takes)) = (channel(), channel());
            let ((rows_to_left, left_told), (rows_to_right, right_told)) = (channel(), channel());
            let ends = Ends { elements: (to_right, left_takes), rows: (rows_to_right, left_told) };
            seats[left].peers.insert(right, ends);
            let ends = Ends { elements: (to_left, right_takes), rows: (rows_to_left, right_told) };
            seats[right].peers.insert(left, ends);
        }
    }
    seats
}

impl Seat {
    /// Takes it with this device.
    pub(crate) fn join<O: Ops + Clone>(self, ops: O) -> impl Collective<O::Buffer> {
        let transport = Local { ops: ops.clone(), peers: self.peers, announced: Vec::new() };
        LaneExchange::new(self.group, transport, [ops.clone(), ops])
    }
}

impl<O: Ops> Transport<O::Buffer> for Local<O> {
    fn describe(&self) -> Option<String> {
        None
    }

    fn follow(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn exchange(
        &mut self,
        sent: &[Sent<'_, O::Buffer>],
        into: &mut [O::Buffer],
        received: &[Received],
    ) -> Result<(), CollectiveError> {
        for Sent { to, elements } in sent {
            let elements = Slice { buffer: elements.buffer, range: elements.range.clone() };
            let elements = self.ops.read(elements).unwrap();
            self.peers[to].elements.0.send(elements).map_err(|_| CollectiveError::Aborted)?;
        }
        for Received { from, buffer, range } in received {
            let elements = self.peers[from].elements.1.recv().map_err(|_| CollectiveError::Aborted)?;
            assert_eq!(elements.len(), range.len(), "both ends know how many elements there are");
            let elements = self.ops.upload(elements).unwrap();
            let to = SliceMut { buffer: &mut into[*buffer], range: range.clone() };
            self.ops.copy(to, Slice { buffer: &elements, range: 0..range.len() }).unwrap();
        }
        Ok(())
    }

    fn announce(&mut self, rows: Vec<u32>) -> Result<(), CollectiveError> {
        for peer in self.peers.values() {
            peer.rows.0.send(rows.clone()).map_err(|_| CollectiveError::Aborted)?;
        }
        self.announced = rows;
        Ok(())
    }

    fn announced(&mut self) -> Result<Vec<u32>, CollectiveError> {
        let mut rows = std::mem::take(&mut self.announced);
        for peer in self.peers.values() {
            rows.extend(peer.rows.1.recv().map_err(|_| CollectiveError::Aborted)?);
        }
        rows.sort_unstable();
        rows.dedup();
        Ok(rows)
    }

    fn finish(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn abandon(&mut self) -> bool {
        self.peers.clear();
        true
    }
}
