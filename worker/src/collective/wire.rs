//! What carries the bytes between two ranks: a socket, or memory that both share, with the socket for a bell.
//!
//! Where memory is shared, a byte through the socket wakes who sleeps until something is written or read, and the
//! socket's end tells that the peer is gone, as it does elsewhere. What it had written before is read first.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;

use super::ring::{Reader, Writer};

/// Bytes that are copied before the other side is told, so that both have something to do.
const PIECE: usize = 64 << 10;

/// The connection to one peer.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    shared: Option<(Reader, Writer)>,
    /// How the socket of shared memory ended.
    end: Option<ErrorKind>,
}

impl Wire {
    /// Bytes go through memory where there is some, and through `stream`, which does not block, where there is none.
    pub(super) fn new(stream: TcpStream, shared: Option<(Reader, Writer)>) -> Self {
        Self { stream, shared, end: None }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn shut_down(&self) {
        // It may be shut down already.
        match self.stream.shutdown(Shutdown::Both) {
            Ok(()) | Err(_) => {}
        }
    }

    /// The error behind a hang-up that `poll` reported.
    pub(super) fn take_error(&self) -> io::Error {
        let error = self.stream.take_error().ok().flatten();
        error.unwrap_or_else(|| self.end.unwrap_or(ErrorKind::ConnectionReset).into())
    }

    /// Reads as a stream does that does not block: 0 bytes are the end of it. What is of no use soon is kept out of the
    /// caches.
    ///
    /// # Errors
    /// Those of the socket; what the peer has counted in shared memory cannot be.
    pub(super) fn read(&mut self, into: &mut [u8], is_of_use_soon: bool) -> io::Result<usize> {
        let Some((reader, _)) = &mut self.shared else { return self.stream.read(into) };
        let mut count = 0;
        for piece in into.chunks_mut(PIECE) {
            let read = reader.read(piece, is_of_use_soon)?;
            count += read;
            if reader.tells(read < piece.len()) {
                ring(&self.stream);
            }
            if read < piece.len() {
                break;
            }
        }
        match self.end {
            _ if count > 0 => Ok(count),
            None => Err(ErrorKind::WouldBlock.into()),
            Some(ErrorKind::UnexpectedEof) => Ok(0),
            Some(error) => Err(error.into()),
        }
    }

    /// Writes as a stream does that does not block.
    ///
    /// # Errors
    /// Those of the socket; what the peer has counted in shared memory cannot be.
    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some((_, writer)) = &mut self.shared else { return self.stream.write_vectored(slices) };
        let mut count = 0;
        for piece in slices.iter().flat_map(|slice| slice.chunks(PIECE)) {
            let written = writer.write(piece)?;
            count += written;
            if written > 0 && writer.wakes() {
                ring(&self.stream);
            }
            if written < piece.len() {
                break;
            }
        }
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    /// Whether shared memory has something to be read, or much room to be written to, as far as either is of interest.
    ///
    /// # Errors
    /// What the peer has counted there cannot be.
    pub(super) fn is_ready(&mut self, reads: bool, writes: bool) -> io::Result<bool> {
        let Some((reader, writer)) = &mut self.shared else { return Ok(false) };
        Ok(reads && reader.filled()? > 0 || writes && writer.is_half_free()?)
    }

    /// Tells the peer that this side is about to sleep until its socket can be read; `false` where it need not.
    ///
    /// # Errors
    /// What the peer has counted in shared memory cannot be.
    pub(super) fn sleeps(&mut self, reads: bool, writes: bool) -> io::Result<bool> {
        let Some((reader, writer)) = &mut self.shared else { return Ok(true) };
        if reader.tells(true) {
            ring(&self.stream);
        }
        let (may_read, may_write) = (reads && !reader.sleeps()?, writes && !writer.sleeps()?);
        Ok(!may_read && !may_write)
    }

    /// Tells the peer that this side is awake.
    pub(super) fn rises(&self) {
        if let Some((reader, writer)) = &self.shared {
            reader.rises();
            writer.rises();
        }
    }

    /// Takes what has come through the socket beside shared memory.
    pub(super) fn hears(&mut self) {
        if self.shared.is_none() {
            return;
        }
        let mut rings = [0; 64];
        while self.end.is_none() {
            match self.stream.read(&mut rings) {
                Ok(0) => self.end = Some(ErrorKind::UnexpectedEof),
                Ok(count) if count < rings.len() => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() != ErrorKind::Interrupted => self.end = Some(error.kind()),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Whether the socket of shared memory has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// What to sleep for; `None` where nothing more can come through the socket.
    pub(super) fn interest(&self, reads: bool, writes: bool) -> Option<PollFlags> {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, reads || self.is_shared());
        interest.set(PollFlags::OUT, writes && !self.is_shared());
        self.end.is_none().then_some(interest)
    }
}

/// Wakes the peer.
fn ring(mut stream: &TcpStream) {
    // A full socket has woken it already; one that is broken is seen where it is read.
    match stream.write(&[1]) {
        Ok(_) | Err(_) => {}
    }
}

/// What a side that is mad tells the other.
#[cfg(test)]
impl Wire {
    pub(super) fn lie(&self, written: u64) {
        self.shared.as_ref().unwrap().1.lie(written);
    }
}
