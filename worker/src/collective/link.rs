//! The connection to one peer: frames in and frames out, as far as its wire goes without waiting.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;

use super::CollectiveError;
use super::exchange::{Admission, Exchanges};
use super::frame::{HEADER_BYTES, Header, Kind};
use super::group::Group;
use super::wire::Wire;

/// The connection to one peer.
pub(super) struct Link {
    wire: Wire,
    peer: usize,
    inbound: Inbound,
    outbound: Option<Outbound>,
    /// The peer has left; no fault as long as nothing is to be done with it.
    closed: bool,
    /// Bytes sent since that was last asked.
    sent_bytes: u64,
}

/// The frame that is being received.
struct Inbound {
    bytes: [u8; HEADER_BYTES],
    filled: usize,
    header: Option<Header>,
    admission: Admission,
    /// Bytes received of what follows the header.
    taken: usize,
}

/// The frame that is being sent.
struct Outbound {
    header: Header,
    bytes: [u8; HEADER_BYTES],
    /// Bytes sent, the header's included.
    written: usize,
}

impl Inbound {
    fn new() -> Self {
        Self { bytes: [0; HEADER_BYTES], filled: 0, header: None, admission: Admission::Later, taken: 0 }
    }
}

impl Link {
    pub(super) fn new(wire: Wire, peer: usize) -> Self {
        Self { wire, peer, inbound: Inbound::new(), outbound: None, closed: false, sent_bytes: 0 }
    }

    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    /// Bytes sent since this was last asked, headers included.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wire.fd()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.wire.is_shared()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the peer's next frame has to wait until this rank or the others are as far.
    pub(super) fn is_stalled(&self) -> bool {
        self.inbound.header.is_some() && self.inbound.admission == Admission::Later
    }

    pub(super) fn shut_down(&self) {
        self.wire.shut_down();
    }

    /// The error behind a hang-up that `poll` reported.
    pub(super) fn hang_up(&mut self, exchanges: &Exchanges, group: &Group) -> Result<(), CollectiveError> {
        let error = self.wire.take_error();
        self.lost("receiving", error, exchanges, group)
    }

    /// Whether shared memory lets this side go on, without a look at the socket.
    pub(super) fn is_ready(&mut self, exchanges: &Exchanges, group: &Group) -> Result<bool, CollectiveError> {
        let (reads, writes) = (!self.closed && !self.is_stalled(), !self.closed && self.has_output(exchanges));
        self.wire.is_ready(reads, writes).map_err(|error| self.failed("receiving", error, group))
    }

    /// Tells the peer, where memory is shared, that this side is about to sleep; `false` where it need not.
    pub(super) fn sleeps(&mut self, exchanges: &Exchanges, group: &Group) -> Result<bool, CollectiveError> {
        let (reads, writes) = (!self.closed && !self.is_stalled(), !self.closed && self.has_output(exchanges));
        self.wire.sleeps(reads, writes).map_err(|error| self.failed("receiving", error, group))
    }

    /// Tells the peer, where memory is shared, that this side is awake.
    pub(super) fn rises(&self) {
        self.wire.rises();
    }

    /// Takes what has woken this side, where memory is shared.
    pub(super) fn hears(&mut self) {
        self.wire.hears();
    }

    /// Whether the socket beside shared memory has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.wire.has_ended()
    }

    /// What to sleep for; `None` where there is nothing.
    pub(super) fn interest(&self, exchanges: &Exchanges) -> Option<PollFlags> {
        self.wire.interest(!self.is_stalled(), self.has_output(exchanges))
    }

    fn failed(&self, doing: &'static str, error: io::Error, group: &Group) -> CollectiveError {
        match error.kind() {
            ErrorKind::InvalidData => group.protocol(self.peer, error.to_string()),
            _ => group.connection(self.peer, doing, error),
        }
    }

    /// Receives up to the end of one frame. Returns whether anything arrived.
    pub(super) fn receive(&mut self, exchanges: &mut Exchanges, group: &Group) -> Result<bool, CollectiveError> {
        let mut moved = false;
        while !self.closed {
            let Some(header) = self.inbound.header else {
                match self.wire.read(&mut self.inbound.bytes[self.inbound.filled..], true) {
                    Ok(0) => self.lost("receiving", ErrorKind::UnexpectedEof.into(), exchanges, group)?,
                    Ok(count) => self.inbound.filled += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::InvalidData => {
                        return Err(self.failed("receiving", error, group));
                    }
                    Err(error) => self.lost("receiving", error, exchanges, group)?,
                }
                if self.inbound.filled == HEADER_BYTES {
                    moved = true;
                    let header = Header::decode(&self.inbound.bytes);
                    self.inbound.header = Some(header.map_err(|problem| group.protocol(self.peer, problem))?);
                }
                continue;
            };
            if self.inbound.admission == Admission::Later {
                self.inbound.admission = exchanges.admit(self.peer, &header)?;
                if self.inbound.admission == Admission::Later {
                    return Ok(moved);
                }
            }
            match self.receive_payload(&header, exchanges) {
                Ok(None) => return Ok(true),
                Ok(Some(_)) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(error) => return Err(self.failed("receiving", error, group)),
            }
        }
        Ok(moved)
    }

    /// Receives once; `None` when the frame is complete.
    fn receive_payload(&mut self, header: &Header, exchanges: &mut Exchanges) -> io::Result<Option<usize>> {
        let Some((exchange, pool)) = exchanges.get(header.sequence) else { return Ok(None) };
        let place = exchange.space(self.peer, header, self.inbound.taken);
        if place.is_empty() {
            self.inbound = Inbound::new();
            exchange
                .received(self.peer, header, pool)
                .map_err(|problem| io::Error::new(ErrorKind::InvalidData, problem))?;
            return Ok(None);
        }
        // A part is added to others, and a sum waits for the fence.
        match self.wire.read(place, header.kind == Kind::Part) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
            Ok(count) => {
                self.inbound.taken += count;
                exchange.filled(self.peer, header, self.inbound.taken);
                Ok(Some(count))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends up to the end of one frame. Returns whether anything was sent.
    pub(super) fn send(&mut self, exchanges: &mut Exchanges, group: &Group) -> Result<bool, CollectiveError> {
        let mut moved = false;
        while !self.closed {
            if self.outbound.is_none() {
                let next = exchanges.next_frame(self.peer);
                self.outbound = next.map(|header| Outbound { header, bytes: header.encode(), written: 0 });
            }
            let Some(outbound) = &mut self.outbound else { return Ok(moved) };
            let Some((exchange, _)) = exchanges.get(outbound.header.sequence) else { return Ok(moved) };
            let [first, second] = exchange.payload(self.peer, &outbound.header);
            if outbound.written == HEADER_BYTES + first.len() + second.len() {
                exchange.sent(self.peer, outbound.header.kind);
                self.outbound = None;
                return Ok(true);
            }
            let mut slices = [IoSlice::new(&outbound.bytes), IoSlice::new(first), IoSlice::new(second)];
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, outbound.written);
            match self.wire.write_vectored(rest) {
                Ok(count) => {
                    outbound.written += count;
                    self.sent_bytes += count as u64;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("sending", error, group)),
            }
        }
        Ok(moved)
    }

    /// Whether anything is waiting to be sent.
    pub(super) fn has_output(&self, exchanges: &Exchanges) -> bool {
        self.outbound.is_some() || exchanges.next_frame(self.peer).is_some()
    }

    /// The connection is gone. Whoever has its sums may leave while others still exchange theirs, so this is an error
    /// only if something is still to be done with the peer.
    fn lost(
        &mut self,
        doing: &'static str,
        error: io::Error,
        exchanges: &Exchanges,
        group: &Group,
    ) -> Result<(), CollectiveError> {
        if self.inbound.filled > 0 || exchanges.outstanding(self.peer).is_some() {
            return Err(group.connection(self.peer, doing, error));
        }
        self.closed = true;
        Ok(())
    }
}
