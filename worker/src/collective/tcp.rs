//! The collective of CPU workers: a full mesh of TCP connections, of which those between processes of one machine send
//! through memory that both share.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SendError, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use medley_common::identity::Rank;
use medley_common::lane::Node;
use medley_common::message::Form;
use medley_common::spec::Summation;

use super::abort::AbortSwitch;
use super::courier::{Courier, Order};
use super::exchange::Exchanges;
use super::group::{Group, number};
use super::link::Link;
use super::listener::Listener;
use super::mesh::{self, Seat};
use super::topology::{ranks, way};
use super::traffic::{Meter, Traffic};
use super::{Collective, CollectiveError, Parts, Shard, SparseRows, Summed, Sums};
use crate::layout::{Layout, Segment};

/// Limits of the collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSettings {
    /// How long connecting the whole group may take.
    pub connect_timeout: Duration,
    /// How long a fence waits while nothing arrives and nothing can be sent.
    pub silence_timeout: Duration,
    /// After how long a silence the peers that are waited for are called, to see whether they can be reached.
    pub doubt_after: Duration,
    /// Elements that travel and are added at a time, 1 to 2^24; the same on all ranks.
    pub chunk_elements: usize,
    /// What the nodes are that ranks hand over; the same on all ranks.
    pub summation: Summation,
    /// Whether memory is shared with peers on this machine.
    pub shared_memory: bool,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            // The coordinator sees who is dead by their heartbeats; this is for a peer that lives and does not compute.
            silence_timeout: Duration::from_secs(600),
            doubt_after: Duration::from_secs(5),
            chunk_elements: 64 << 10,
            summation: Summation::ByLane,
            shared_memory: true,
        }
    }
}

/// Sums over TCP. A thread of its own exchanges them while the caller computes.
///
/// Dropping it closes the connections and joins the thread, at once.
#[derive(Debug)]
pub struct Tcp {
    group: Arc<Group>,
    /// What the sums travel over, in words.
    way: String,
    switch: AbortSwitch,
    /// `None` while dropping.
    orders: Option<Sender<Order>>,
    replies: Receiver<Result<Summed, CollectiveError>>,
    courier: Option<JoinHandle<Courier>>,
    sums: Sums,
    /// What went wrong first.
    failed: Option<CollectiveError>,
    /// What was handed over too late.
    refused: Parts,
}

impl Tcp {
    /// Connects this worker with all others of the group; blocks until it is connected with each.
    ///
    /// All ranks have the same `layout` and the same `settings`. `switch` aborts this call, too.
    ///
    /// # Errors
    /// The group cannot be; a peer could not be reached or did not connect in time; it was aborted.
    pub fn connect(
        listener: &Listener,
        form: &Form,
        layout: &Layout,
        settings: TcpSettings,
        switch: AbortSwitch,
    ) -> Result<Self, CollectiveError> {
        let group = Arc::new(Group::new(form, layout, settings)?);
        let seats = mesh::connect_all(listener, form, &group, settings, &switch)?;
        let way = way(&seats);
        let links = seats.into_iter().map(Seat::link).collect();
        let (orders, order_queue) = mpsc::channel();
        let (reply_queue, replies) = mpsc::channel();
        let courier = Courier {
            group: Arc::clone(&group),
            links,
            exchanges: Exchanges::new(Arc::clone(&group)),
            meter: Meter::default(),
            switch: switch.clone(),
            orders: order_queue,
            replies: reply_queue,
            silence_timeout: settings.silence_timeout,
            doubt_after: settings.doubt_after,
            doubt_at: settings.doubt_after,
            moved_at: None,
        };
        let courier = std::thread::Builder::new()
            .name("collective".to_owned())
            .spawn(|| courier.run())
            .map_err(|error| CollectiveError::Invalid { problem: format!("start the collective's thread: {error}") })?;
        Ok(Self {
            group,
            way,
            switch,
            orders: Some(orders),
            replies,
            courier: Some(courier),
            sums: Sums::default(),
            failed: None,
            refused: Parts::default(),
        })
    }

    fn order(&mut self, order: Order) -> Result<(), CollectiveError> {
        if let Err(error) = self.check() {
            order.salvage(&mut self.refused);
            return Err(error);
        }
        // While the courier is not joined its queue is open, whatever has become of it.
        match self.orders.as_ref().map(|orders| orders.send(order)) {
            Some(Ok(())) => {
                self.switch.ring();
                Ok(())
            }
            Some(Err(SendError(order))) => {
                order.salvage(&mut self.refused);
                Err(self.failure(None))
            }
            None => Err(self.failure(None)),
        }
    }

    fn check(&mut self) -> Result<(), CollectiveError> {
        if self.failed.is_some() || self.switch.is_aborted() {
            return Err(self.failure(None));
        }
        // A reply that nobody asked for is a failure.
        match self.replies.try_recv() {
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) | Ok(Ok(_)) => Err(self.failure(None)),
            Ok(Err(error)) => Err(self.failure(Some(error))),
        }
    }

    /// Ends the courier, if it still runs.
    fn dismiss(&mut self) -> Option<Courier> {
        self.orders = None;
        self.switch.ring();
        // A panic in there has been reported by the panic hook.
        self.courier.take().and_then(|courier| courier.join().ok())
    }

    /// What all ranks of the group know alike.
    #[cfg(feature = "cuda")]
    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Enqueues the union of the ranks' rows, and returns at once: what the next fence says of the words is which rows any
    /// rank has, without values.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn launch_rows(&mut self, rows: Vec<u32>) -> Result<(), CollectiveError> {
        // Whose rows they are does not matter: a rank without lanes has none.
        let node = self.group.cover().first().copied().filter(|_| !rows.is_empty());
        let rows = SparseRows { rows, values: Vec::new() };
        self.order(Order::Words(node.map(|node| (node, rows)).into_iter().collect(), 0))
    }

    /// What has gone wrong since the last order, if anything; does not wait.
    #[cfg(feature = "cuda")]
    pub(super) fn failed_meanwhile(&mut self) -> Option<CollectiveError> {
        match self.replies.try_recv() {
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) | Ok(Ok(_)) => Some(self.failure(None)),
            Ok(Err(error)) => Some(self.failure(Some(error))),
        }
    }

    /// Keeps the first failure, and tells it again and again.
    fn failure(&mut self, error: Option<CollectiveError>) -> CollectiveError {
        if self.failed.is_none() {
            self.failed = error;
        }
        if self.switch.is_aborted() {
            return CollectiveError::Aborted;
        }
        self.failed.as_ref().map_or_else(
            || CollectiveError::Invalid { problem: "the collective's thread has ended".to_owned() },
            CollectiveError::again,
        )
    }
}

impl Collective for Tcp {
    fn rank(&self) -> Rank {
        number(self.group.rank)
    }

    fn world(&self) -> u32 {
        number(self.group.world()).0
    }

    fn describe(&self) -> Option<String> {
        Some(format!("{} over {}", ranks(&self.group.addresses), self.way))
    }

    fn sums(&mut self, sums: Sums) {
        self.sums = sums;
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Vec<f32>)>) -> Result<(), CollectiveError> {
        self.order(Order::Dense((segment, sums), self.sums))
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows)>) -> Result<(), CollectiveError> {
        self.order(Order::Words(sums, self.group.hidden))
    }

    fn all_gather(&mut self, buffer: &mut Vec<f32>, shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        self.order(Order::Gather((std::mem::take(buffer), shards.to_vec())))?;
        let Summed { gathered, traffic, .. } = self.fence()?;
        *buffer = gathered.unwrap_or_default();
        Ok(traffic)
    }

    fn fence(&mut self) -> Result<Summed, CollectiveError> {
        self.order(Order::Fence)?;
        match self.replies.recv() {
            Ok(Ok(summed)) => Ok(summed),
            Ok(Err(error)) => Err(self.failure(Some(error))),
            Err(_) => Err(self.failure(None)),
        }
    }

    fn reuse(&mut self, sums: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        // A collective that has failed makes no more sums.
        match self.order(Order::Reuse(sums)) {
            Ok(()) | Err(_) => Vec::new(),
        }
    }

    fn salvage(&mut self) -> Parts {
        let mut parts = Parts::default();
        if let Some(courier) = self.dismiss() {
            courier.links.iter().for_each(Link::shut_down);
            courier.salvage(&mut parts);
        }
        let refused = std::mem::take(&mut self.refused);
        parts.dense.extend(refused.dense);
        parts.words = parts.words.or(refused.words);
        parts
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        if let Some(courier) = self.dismiss() {
            courier.links.iter().for_each(Link::shut_down);
        }
    }
}

impl CollectiveError {
    /// The same error once more.
    fn again(&self) -> Self {
        match self {
            Self::Connection { peer, address, doing, source } => Self::Connection {
                peer: *peer,
                address: address.clone(),
                doing,
                source: std::io::Error::new(source.kind(), source.to_string()),
            },
            Self::Protocol { peer, address, problem } => {
                Self::Protocol { peer: *peer, address: address.clone(), problem: problem.clone() }
            }
            Self::Invalid { problem } => Self::Invalid { problem: problem.clone() },
            Self::OutOfMemory { problem } => Self::OutOfMemory { problem: problem.clone() },
            Self::Device { problem } => Self::Device { problem: problem.clone() },
            Self::Aborted => Self::Aborted,
        }
    }
}
