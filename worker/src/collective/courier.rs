//! The thread that exchanges sums with all peers while the caller computes.
//!
//! One thread serves all peers and waits only in `poll`, never in a read or a write. So it cannot deadlock on full
//! buffers of sockets or rings: it always takes what it may from every peer, whatever it has to send. A peer's frame has
//! to wait only until this rank has launched the sum it belongs to, which depends on no peer, or until slower peers have
//! sent the same chunk, whose frames never wait. And since this thread owns every buffer in exchange, there is nothing to
//! lock and nothing is copied to share it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use medley_common::lane::Node;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::abort::AbortSwitch;
use super::dense::Dense;
use super::exchange::Exchanges;
use super::gather::Gather;
use super::group::Group;
use super::link::Link;
use super::reach::reach;
use super::traffic::Meter;
use super::words::Words;
use super::{CollectiveError, DenseParts, Parts, Shard, SparseRows, Summed, Sums};

/// How long to look for what a peer writes to shared memory before sleeping: about what it takes to be woken.
const LOOK: Duration = Duration::from_micros(20);

/// What the caller asks for.
pub(super) enum Order {
    Dense(DenseParts, Sums),
    /// Rows, and how many elements each has.
    Words(Vec<(Node, SparseRows)>, usize),
    /// A buffer of which every rank has a shard.
    Gather((Vec<f32>, Vec<Shard>)),
    /// Take these buffers for sums to come.
    Reuse(Vec<Vec<f32>>),
    Fence,
}

impl Order {
    /// Gives back what was handed over.
    pub(super) fn salvage(self, parts: &mut Parts) {
        match self {
            Self::Dense(dense, _) => parts.dense.push(dense),
            Self::Words(words, _) => parts.words = Some(words),
            Self::Gather(_) | Self::Reuse(_) | Self::Fence => {}
        }
    }
}

/// The exchange with all peers.
pub(super) struct Courier {
    pub group: Arc<Group>,
    pub links: Vec<Link>,
    pub exchanges: Exchanges,
    pub meter: Meter,
    pub switch: AbortSwitch,
    pub orders: Receiver<Order>,
    pub replies: Sender<Result<Summed, CollectiveError>>,
    /// How long a fence waits without anything moving.
    pub silence_timeout: Duration,
    /// How long a silence may be before the peers are called.
    pub doubt_after: Duration,
    /// How long this silence may be before they are called for the next time.
    pub doubt_at: Duration,
    /// Set while the caller waits in a fence: when something moved last.
    pub moved_at: Option<Instant>,
}

impl Courier {
    /// Serves until the caller hangs up or something fails. Gives itself back: its connections stay open until the
    /// caller lets go, lest the peers take this rank for the one that failed.
    pub(super) fn run(mut self) -> Self {
        if let Err(error) = self.serve() {
            if matches!(error, CollectiveError::Aborted) {
                self.links.iter().for_each(Link::shut_down);
            }
            // Nobody listens to a caller that has hung up.
            match self.replies.send(Err(error)) {
                Ok(()) | Err(_) => {}
            }
        }
        self
    }

    /// Gives back all that was handed over since the last fence.
    pub(super) fn salvage(self, parts: &mut Parts) {
        self.exchanges.salvage(parts);
        while let Ok(order) = self.orders.try_recv() {
            order.salvage(parts);
        }
    }

    fn serve(&mut self) -> Result<(), CollectiveError> {
        while self.take_orders()? {
            if self.switch.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            let mut moved = false;
            for link in &mut self.links {
                moved |= link.receive(&mut self.exchanges, &self.group)?;
                moved |= link.send(&mut self.exchanges, &self.group)?;
            }
            if self.moved_at.is_some()
                && let Some(mut summed) = self.exchanges.finish()
            {
                self.moved_at = None;
                self.links.iter_mut().for_each(|link| self.meter.send(link.take_sent()));
                summed.traffic = self.meter.take();
                match self.replies.send(Ok(summed)) {
                    Ok(()) | Err(_) => {}
                }
            } else if moved {
                self.moved_at = self.moved_at.map(|_| Instant::now());
                self.doubt_at = self.doubt_after;
            } else {
                if self.exchanges.is_done() {
                    self.meter.rest();
                }
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Takes all orders that are there; `false` once the caller has hung up.
    fn take_orders(&mut self) -> Result<bool, CollectiveError> {
        loop {
            let sequence = self.exchanges.next_sequence();
            match self.orders.try_recv() {
                Ok(Order::Dense(parts, sums)) => {
                    let pool = &mut self.exchanges.pool;
                    let dense = Dense::new(Arc::clone(&self.group), sequence, (parts, sums), pool)?;
                    self.exchanges.launch(Box::new(dense));
                    self.meter.begin();
                }
                Ok(Order::Words(nodes, width)) => {
                    let words = Words::new(Arc::clone(&self.group), sequence, (nodes, width))?;
                    self.exchanges.launch(Box::new(words));
                    self.meter.begin();
                }
                Ok(Order::Gather(shards)) => {
                    let gather = Gather::new(Arc::clone(&self.group), sequence, shards)?;
                    self.exchanges.launch(Box::new(gather));
                    self.meter.begin();
                }
                Ok(Order::Reuse(buffers)) => self.exchanges.pool.put_whole(buffers),
                Ok(Order::Fence) => {
                    (self.moved_at, self.doubt_at) = (Some(Instant::now()), self.doubt_after);
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Looks for a moment whether a peer that shares memory moves.
    fn look(&mut self) -> Result<bool, CollectiveError> {
        if self.exchanges.is_done() || !self.links.iter().any(Link::is_shared) {
            return Ok(false);
        }
        let since = Instant::now();
        while since.elapsed() < LOOK {
            for link in &mut self.links {
                if link.is_ready(&self.exchanges, &self.group)? {
                    return Ok(true);
                }
            }
            // The peer, or what computes, may be waiting for this very processor.
            std::thread::yield_now();
        }
        Ok(false)
    }

    /// Waits until a peer or the caller moves, or for too long.
    fn wait(&mut self) -> Result<(), CollectiveError> {
        if self.look()? {
            return Ok(());
        }
        let mut may_sleep = true;
        for link in &mut self.links {
            may_sleep &= link.sleeps(&self.exchanges, &self.group)?;
        }
        let slept = if may_sleep { self.sleep() } else { Ok(()) };
        self.links.iter().for_each(Link::rises);
        slept
    }

    /// Sleeps until a peer or the caller moves, or for too long.
    fn sleep(&mut self) -> Result<(), CollectiveError> {
        let left = match self.moved_at {
            None => None,
            Some(moved_at) => {
                if moved_at.elapsed() >= self.doubt_at {
                    self.call()?;
                    self.doubt_at = moved_at.elapsed() * 2;
                }
                match self.silence_timeout.checked_sub(moved_at.elapsed()) {
                    Some(left) => Some(left.min(self.doubt_at.saturating_sub(moved_at.elapsed()))),
                    None => return self.silent(),
                }
            }
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.switch.ear(), PollFlags::IN)];
        let mut open = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            if link.is_closed() {
                self.still_needed(link)?;
                continue;
            }
            if let Some(interest) = link.interest(&self.exchanges) {
                fds.push(PollFd::from_borrowed_fd(link.fd(), interest));
                open.push(index);
            }
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let problem = format!("poll of {} sockets: {}", fds.len(), io::Error::from(error));
                return Err(CollectiveError::Invalid { problem });
            }
        }
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if events.first().is_some_and(|event| !event.is_empty()) {
            self.switch.hush();
        }
        for (index, event) in open.into_iter().zip(events.into_iter().skip(1)) {
            if !event.is_empty() {
                self.links[index].hears();
            }
            // A stalled peer's hang-up would not be seen by a read, and would wake `poll` for ever.
            let link = &self.links[index];
            if (event.intersects(PollFlags::ERR | PollFlags::HUP) || link.has_ended()) && link.is_stalled() {
                self.links[index].hang_up(&self.exchanges, &self.group)?;
            }
        }
        Ok(())
    }

    /// Refuses a peer that has left although something is to be done with it.
    fn still_needed(&self, link: &Link) -> Result<(), CollectiveError> {
        match self.exchanges.outstanding(link.peer()) {
            None => Ok(()),
            Some(outstanding) => {
                let source = ErrorKind::UnexpectedEof.into();
                Err(self.group.connection(link.peer(), outstanding.doing(), source))
            }
        }
    }

    /// Calls the peers that are waited for.
    fn call(&self) -> Result<(), CollectiveError> {
        let awaited = self.group.peers().filter(|peer| self.exchanges.outstanding(*peer).is_some());
        for peer in awaited {
            let address = self.group.addresses.get(peer).map_or("", String::as_str);
            reach(address).map_err(|source| self.group.connection(peer, "calling a silent peer", source))?;
        }
        Ok(())
    }

    /// Names the peer that is silent. One whose part is missing comes first: others may only be waiting for it, too.
    fn silent(&self) -> Result<(), CollectiveError> {
        let peers = self.group.peers().filter_map(|peer| Some((self.exchanges.outstanding(peer)?, peer)));
        match peers.min() {
            None => Ok(()),
            Some((outstanding, peer)) => {
                let text = format!("nothing for {} ms", self.silence_timeout.as_millis());
                Err(self.group.connection(peer, outstanding.doing(), io::Error::new(ErrorKind::TimedOut, text)))
            }
        }
    }
}
