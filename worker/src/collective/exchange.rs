//! The sums under way: what each peer is to be sent next, and what each may send next.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::{Header, Kind};
use super::group::Group;
use super::pool::Pool;
use super::{CollectiveError, Parts, Summed};

/// What is to be sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This frame.
    Frame(Header),
    /// Nothing yet: the sum is not there.
    NotYet,
    /// Nothing any more.
    Done,
}

/// Whether a frame can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Its place is ready.
    Granted,
    /// The peer is too far ahead of this rank or of the others.
    Later,
}

/// What is still to be done with a peer; the least is named first, for the others may follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outstanding {
    Part,
    Sum,
    Sending,
}

impl Outstanding {
    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Part => "waiting for its part of a sum",
            Self::Sum => "waiting for a sum",
            Self::Sending => "sending",
        }
    }
}

/// One launched sum. Frames of one kind between two ranks have one order, which both know; nothing else is taken.
pub(super) trait Exchange: Send {
    /// The next frame of this kind for `peer`.
    fn next(&self, peer: usize, kind: Kind) -> Next;

    /// What follows the header that [`Self::next`] gave.
    fn payload(&self, peer: usize, header: &Header) -> [&[u8]; 2];

    /// The frame that [`Self::next`] gave has been sent.
    fn sent(&mut self, peer: usize, kind: Kind);

    /// Whether `peer` still owes frames of this kind.
    fn expects(&self, peer: usize, kind: Kind) -> bool;

    /// Checks a header against the one that is due, and makes a place for what follows it.
    fn admit(&mut self, peer: usize, header: &Header, pool: &mut Pool) -> Result<Admission, String>;

    /// The place for what comes after the first `taken` bytes that follow an admitted header, or for a part of it; empty
    /// where nothing does.
    fn space(&mut self, peer: usize, header: &Header, taken: usize) -> &mut [u8];

    /// The first `taken` bytes are in their places.
    fn filled(&mut self, _peer: usize, _header: &Header, _taken: usize) {}

    /// All that follows the header is there.
    fn received(&mut self, peer: usize, header: &Header, pool: &mut Pool) -> Result<(), String>;

    /// Hands over the sum and the buffers that are left.
    fn finish(self: Box<Self>, summed: &mut Summed);

    /// Gives back what was handed over, however far the sum is.
    fn salvage(self: Box<Self>, parts: &mut Parts);
}

/// All sums launched since the last fence, in the order of launching.
pub(super) struct Exchanges {
    group: Arc<Group>,
    pub pool: Pool,
    /// Sequence number of the first.
    first: u64,
    launched: VecDeque<Box<dyn Exchange>>,
}

impl Exchanges {
    pub(super) fn new(group: Arc<Group>) -> Self {
        let pool = Pool::new(group.chunk_elements);
        Self { group, pool, first: 0, launched: VecDeque::new() }
    }

    /// The sequence number of the next launch.
    pub(super) fn next_sequence(&self) -> u64 {
        self.first + self.launched.len() as u64
    }

    pub(super) fn launch(&mut self, exchange: Box<dyn Exchange>) {
        self.launched.push_back(exchange);
    }

    pub(super) fn get(&mut self, sequence: u64) -> Option<(&mut dyn Exchange, &mut Pool)> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let exchange = self.launched.get_mut(index)?;
        Some((exchange.as_mut(), &mut self.pool))
    }

    /// The next frame for `peer`. Sums go first: they were in the cache last, and the peer's fence waits for them.
    pub(super) fn next_frame(&self, peer: usize) -> Option<Header> {
        [Kind::Sum, Kind::Part].into_iter().find_map(|kind| {
            let next =
                self.launched.iter().map(|exchange| exchange.next(peer, kind)).find(|next| *next != Next::Done)?;
            match next {
                Next::Frame(header) => Some(header),
                Next::NotYet | Next::Done => None,
            }
        })
    }

    /// Checks that `header` is the one that is due from `peer`.
    pub(super) fn admit(&mut self, peer: usize, header: &Header) -> Result<Admission, CollectiveError> {
        let due = self.launched.iter().position(|exchange| exchange.expects(peer, header.kind));
        // Of those that are not launched here yet, it is not known which have frames of this kind from this peer.
        let unknown = header.sequence.max(self.next_sequence());
        let sequence = due.map_or(unknown, |index| self.first + index as u64);
        if header.generation != self.group.generation {
            let (theirs, ours) = (header.generation, self.group.generation);
            return Err(self.group.protocol(peer, format!("sent a frame of generation {theirs}, not {ours}")));
        }
        if header.sequence != sequence {
            let theirs = header.sequence;
            return Err(self.group.protocol(peer, format!("sent a frame of sum {theirs} where {sequence} was due")));
        }
        // The peer may be ahead with its backward pass; with a sum only where this rank has no part in it.
        let may_be_early = header.kind == Kind::Part || self.group.cover().is_empty();
        match self.get(sequence) {
            Some((exchange, pool)) => exchange.admit(peer, header, pool),
            None if may_be_early => Ok(Admission::Later),
            None => Err(format!("sent the sum {sequence} before it was launched here")),
        }
        .map_err(|problem| self.group.protocol(peer, problem))
    }

    /// What is still to be done with `peer`, `None` if nothing.
    pub(super) fn outstanding(&self, peer: usize) -> Option<Outstanding> {
        let any = |test: &dyn Fn(&dyn Exchange) -> bool| self.launched.iter().any(|exchange| test(exchange.as_ref()));
        if any(&|exchange| exchange.expects(peer, Kind::Part)) {
            Some(Outstanding::Part)
        } else if any(&|exchange| exchange.expects(peer, Kind::Sum)) {
            Some(Outstanding::Sum)
        } else if any(&|exchange| [Kind::Part, Kind::Sum].iter().any(|kind| exchange.next(peer, *kind) != Next::Done)) {
            Some(Outstanding::Sending)
        } else {
            None
        }
    }

    /// Whether nothing is to be done with any peer, as far as sums are launched.
    pub(super) fn is_done(&self) -> bool {
        self.group.peers().all(|peer| self.outstanding(peer).is_none())
    }

    /// The sums, if nothing is to be done with any peer any more.
    pub(super) fn finish(&mut self) -> Option<Summed> {
        if !self.is_done() {
            return None;
        }
        self.first = self.next_sequence();
        let mut summed = Summed::default();
        self.launched.drain(..).for_each(|exchange| exchange.finish(&mut summed));
        Some(summed)
    }

    /// Gives back all that was launched since the last fence.
    pub(super) fn salvage(self, parts: &mut Parts) {
        self.launched.into_iter().for_each(|exchange| exchange.salvage(parts));
    }
}
