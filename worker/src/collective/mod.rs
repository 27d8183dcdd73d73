//! The sum of gradients over all workers.
//!
//! A worker hands over, segment by segment and while backward goes on, its partial sums: one buffer for each node of
//! the lane tree that its own lanes cover. The collective adds all workers' nodes in the tree's order, so the result
//! has the same bits whatever the number of workers.

use std::ops::Range;

use medley_common::identity::Rank;
use medley_common::lane::Node;
use medley_common::message::Form;
use medley_common::spec::TrainSpec;

use crate::layout::{Layout, Segment};
use crate::ops::DeviceError;
use crate::ops::cpu::Cpu;

mod abort;
mod courier;
mod dense;
mod exchange;
mod frame;
mod gather;
mod group;
mod handshake;
#[cfg(any(feature = "cuda", test))]
mod lane_exchange;
mod link;
mod listener;
mod mesh;
#[cfg(feature = "cuda")]
pub mod nccl;
#[cfg(any(feature = "cuda", test))]
mod parcel;
#[cfg(any(feature = "cuda", test))]
mod patience;
mod pool;
mod reach;
mod rendezvous;
mod ring;
mod shared_memory;
mod solo;
mod tcp;
mod topology;
mod traffic;
#[cfg(any(feature = "cuda", test))]
mod transport;
mod tree_sum;
#[cfg(any(feature = "cuda", test))]
mod watchdog;
mod wire;
mod words;

pub use abort::AbortSwitch;
pub(crate) use group::{cover, leaf};
pub use listener::Listener;
pub use rendezvous::Rendezvous;
pub use solo::Solo;
pub use tcp::{Tcp, TcpSettings};
pub use traffic::Traffic;

use tree_sum::{RowsView, merge};

/// Gradient rows of the word embedding.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SparseRows<B = Vec<f32>> {
    /// Rows that have a gradient, ascending, each once.
    pub rows: Vec<u32>,
    /// Their gradients, `[rows, hidden]`.
    pub values: B,
}

impl SparseRows {
    /// Adds two sets of rows: `self + right` where both have a row, the one there is where only one has it.
    #[must_use]
    pub fn plus(&self, right: &Self) -> Self {
        let rows = self.rows.len() + right.rows.len();
        let hidden = (self.values.len() + right.values.len()).checked_div(rows).unwrap_or(0);
        merge(RowsView::whole(self), RowsView::whole(right), hidden)
    }
}

/// What ranks sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sums {
    /// A state, of which no bit may be lost on the way.
    State,
    /// Gradients, which may be rounded where the recipe says so.
    #[default]
    Gradients,
    /// Gradients, of whose dense segments each rank is given its own [`shard`](crate::layout::shard) alone, cut at multiples of
    /// so many elements; what else is in the buffer of a sum is void. Losses and words are given to all.
    Shards(usize),
}

impl Sums {
    /// Where each rank is given its own shard of this segment alone: the multiples that it is cut at.
    fn pieces(self, segment: Segment) -> Option<usize> {
        match self {
            Self::Shards(piece) if !matches!(segment, Segment::Losses | Segment::Words) => Some(piece),
            Self::State | Self::Gradients | Self::Shards(_) => None,
        }
    }
}

/// A rank's runs of a buffer, ascending.
pub type Shard = Vec<Range<usize>>;

/// A dense segment with this rank's partial sums of it, by node.
pub type DenseParts<B = Vec<f32>> = (Segment, Vec<(Node, B)>);

/// Buffers, and of which segment's sums they were made.
pub type Spare<B = Vec<f32>> = Vec<(Segment, B)>;

/// What was handed over for sums that did not come about: as it was, to be handed over again.
#[derive(Debug, Default)]
pub struct Parts<B = Vec<f32>> {
    /// The dense segments, in the order of launching.
    pub dense: Vec<DenseParts<B>>,
    /// The word embedding's rows; `None` where they were not launched.
    pub words: Option<Vec<(Node, SparseRows<B>)>>,
}

/// What a fence hands back: the sums over all lanes of all workers, in buffers of the device that computes.
#[derive(Debug)]
pub struct Summed<B = Vec<f32>> {
    /// Every launched dense segment with its sum, in the order of launching.
    pub segments: Vec<(Segment, B)>,
    /// The sum of the word embedding's rows.
    pub words: SparseRows<B>,
    /// Buffers handed over that the sums did not need; for reuse.
    pub spare: Spare<B>,
    /// What was gathered, after a gather.
    pub gathered: Option<B>,
    /// What it took; nothing in a group of one.
    pub traffic: Traffic,
}

impl<B: Default> Default for Summed<B> {
    fn default() -> Self {
        let (segments, words, spare) = (Vec::new(), SparseRows::default(), Vec::new());
        Self { segments, words, spare, gathered: None, traffic: Traffic::default() }
    }
}

/// Sums over a fixed group of ranks.
///
/// Owned by the one thread that computes; deliberately not `Send`. All ranks launch the same segments in the same
/// order. Sums are sums: nothing is divided here.
pub trait Collective<B = Vec<f32>> {
    /// This worker's place in the group.
    fn rank(&self) -> Rank;

    /// Number of workers in the group.
    fn world(&self) -> u32;

    /// Who sums with whom over what, in a line; `None` for a group of one.
    fn describe(&self) -> Option<String> {
        None
    }

    /// What is summed from here on; gradients, before it is called. A collective that gives every rank all of a sum, in full,
    /// need not know.
    fn sums(&mut self, _sums: Sums) {}

    /// Enqueues the sum of a dense segment and returns at once.
    ///
    /// `sums` holds this rank's partial sums; a node whose lanes are all empty is left out, so the list may be empty.
    ///
    /// # Errors
    /// A peer was lost or does not follow the protocol.
    fn launch(&mut self, segment: Segment, sums: Vec<(Node, B)>) -> Result<(), CollectiveError>;

    /// Enqueues the sum of the word embedding's rows and returns at once; once an update, last.
    ///
    /// # Errors
    /// A peer was lost or does not follow the protocol.
    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<B>)>) -> Result<(), CollectiveError>;

    /// Blocks until everything launched since the last fence is summed.
    ///
    /// # Errors
    /// A peer was lost, is silent for too long, or does not follow the protocol.
    fn fence(&mut self) -> Result<Summed<B>, CollectiveError>;

    /// Takes the buffers of sums back, once they are of no use: the next sums need as many. Gives back those that it
    /// has no use for.
    fn reuse(&mut self, sums: Vec<B>) -> Vec<B>;

    /// Makes `buffer`, of which every rank has its own one of `shards`, runs of elements, the same on all ranks, to the bit;
    /// blocks until it is. The runs do not overlap and are the same on all ranks; nothing is launched meanwhile. What else is
    /// in the buffer stays.
    ///
    /// # Errors
    /// A peer was lost, is silent for too long, or does not follow the protocol: the buffer is void.
    fn all_gather(&mut self, buffer: &mut B, shards: &[Shard]) -> Result<Traffic, CollectiveError>;

    /// After a failure: gives back what was handed over since the last fence. A collective that cannot gives nothing,
    /// and all of it is computed again.
    fn salvage(&mut self) -> Parts<B>;
}

/// How workers of a device come together; blocks until the group is connected.
pub type Connect<B> =
    Box<dyn Fn(&Listener, &Form, &Layout, &Rendezvous<'_>) -> Result<Box<dyn Collective<B>>, CollectiveError>>;

/// Workers whose buffers are the host's come together by TCP, share memory where they can and `shared_memory` lets them,
/// and need no token; one alone, with all lanes, needs nobody.
#[must_use]
pub fn by_tcp(spec: &TrainSpec, shared_memory: bool) -> Connect<Vec<f32>> {
    let (lanes, summation) = (spec.lanes, spec.compute.summation);
    Box::new(move |listener, form, layout, rendezvous| {
        if form.peers.len() == 1 {
            return Ok(Box::new(Solo::new(Cpu, layout, lanes)));
        }
        let settings = TcpSettings { summation, shared_memory, ..TcpSettings::default() };
        Ok(Box::new(Tcp::connect(listener, form, layout, settings, rendezvous.switch.clone())?))
    })
}

/// A device that fails in a sum.
fn device_failed(error: DeviceError) -> CollectiveError {
    match error {
        DeviceError::OutOfMemory { shortage } => CollectiveError::OutOfMemory { problem: shortage.to_string() },
        DeviceError::Failed { .. } => CollectiveError::Device { problem: error.to_string() },
    }
}

/// Why a sum did not come about; names the peer.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A connection to or from a peer failed.
    #[error("rank {peer} at {address}: {doing}: {source}")]
    Connection {
        /// The peer.
        peer: Rank,
        /// Its address.
        address: String,
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A peer said something that does not fit.
    #[error("rank {peer} at {address}: {problem}")]
    Protocol {
        /// The peer.
        peer: Rank,
        /// Its address.
        address: String,
        /// What did not fit.
        problem: String,
    },
    /// The group or the sums handed over cannot be, or this machine refuses a thread.
    #[error("{problem}")]
    Invalid {
        /// What cannot be.
        problem: String,
    },
    /// The device's memory does not hold what the sum needs beside the gradients.
    #[error("out of memory: {problem}")]
    OutOfMemory {
        /// What there is of it, or what NCCL says.
        problem: String,
    },
    /// The device failed: this rank's own matter, whatever becomes of the group.
    #[error("{problem}")]
    Device {
        /// What it says.
        problem: String,
    },
    /// The collective was aborted from outside.
    #[error("aborted: the group is being dissolved")]
    Aborted,
}

#[cfg(test)]
mod duet;
#[cfg(test)]
mod failure_test;
#[cfg(test)]
mod lane_exchange_test;
#[cfg(test)]
mod local_group;
#[cfg(test)]
pub(crate) mod local_transport;
#[cfg(test)]
mod sharing_test;
#[cfg(test)]
mod tcp_test;
