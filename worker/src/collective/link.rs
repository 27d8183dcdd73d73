//! The connection to one peer: frames in and frames out, as far as the socket goes without waiting.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use super::CollectiveError;
use super::exchange::{Admission, Exchanges};
use super::frame::{HEADER_BYTES, Header};
use super::group::Group;

/// The connection to one peer.
pub(super) struct Link {
    stream: TcpStream,
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
    pub(super) fn new(stream: TcpStream, peer: usize) -> Self {
        Self { stream, peer, inbound: Inbound::new(), outbound: None, closed: false, sent_bytes: 0 }
    }

    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    /// Bytes sent since this was last asked, headers included.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the peer's next frame has to wait until this rank or the others are as far.
    pub(super) fn is_stalled(&self) -> bool {
        self.inbound.header.is_some() && self.inbound.admission == Admission::Later
    }

    pub(super) fn shut_down(&self) {
        // It may be shut down already.
        match self.stream.shutdown(Shutdown::Both) {
            Ok(()) | Err(_) => {}
        }
    }

    /// The error behind a hang-up that `poll` reported.
    pub(super) fn hang_up(&mut self, exchanges: &Exchanges, group: &Group) -> Result<(), CollectiveError> {
        let error = self.stream.take_error().ok().flatten().unwrap_or_else(|| ErrorKind::ConnectionReset.into());
        self.lost("receiving", error, exchanges, group)
    }

    /// Receives up to the end of one frame. Returns whether anything arrived.
    pub(super) fn receive(&mut self, exchanges: &mut Exchanges, group: &Group) -> Result<bool, CollectiveError> {
        let mut moved = false;
        while !self.closed {
            let Some(header) = self.inbound.header else {
                match self.stream.read(&mut self.inbound.bytes[self.inbound.filled..]) {
                    Ok(0) => self.lost("receiving", ErrorKind::UnexpectedEof.into(), exchanges, group)?,
                    Ok(count) => self.inbound.filled += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
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
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return Err(group.protocol(self.peer, error.to_string()));
                }
                Err(error) => return Err(group.connection(self.peer, "receiving", error)),
            }
        }
        Ok(moved)
    }

    /// Receives once; `None` when the frame is complete.
    fn receive_payload(&mut self, header: &Header, exchanges: &mut Exchanges) -> io::Result<Option<usize>> {
        let Some((exchange, pool)) = exchanges.get(header.sequence) else { return Ok(None) };
        let [first, second] = exchange.space(self.peer, header);
        let taken = self.inbound.taken;
        let rest = if taken < first.len() { &mut first[taken..] } else { &mut second[taken - first.len()..] };
        if rest.is_empty() {
            self.inbound = Inbound::new();
            exchange
                .received(self.peer, header, pool)
                .map_err(|problem| io::Error::new(ErrorKind::InvalidData, problem))?;
            return Ok(None);
        }
        match self.stream.read(rest) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
            Ok(count) => {
                self.inbound.taken += count;
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
            match self.stream.write_vectored(rest) {
                Ok(count) => {
                    outbound.written += count;
                    self.sent_bytes += count as u64;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(group.connection(self.peer, "sending", error)),
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
