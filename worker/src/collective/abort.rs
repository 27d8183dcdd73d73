//! Stopping a collective from another thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Aborts one group's collective, from any thread: what blocks in it returns [`super::CollectiveError::Aborted`], and
/// so does all that is called later. A group needs a new switch.
#[derive(Debug, Clone)]
pub struct AbortSwitch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    aborted: AtomicBool,
    /// A byte written here...
    bell: UnixStream,
    /// ...can be polled for here, next to the sockets of the peers.
    ear: UnixStream,
}

impl AbortSwitch {
    /// A switch that has not been pulled.
    ///
    /// # Errors
    /// The system has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Self { shared: Arc::new(Shared { aborted: AtomicBool::new(false), bell, ear }) })
    }

    /// Aborts the group; returns at once.
    pub fn abort(&self) {
        self.shared.aborted.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the group was aborted.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.shared.aborted.load(Ordering::Acquire)
    }

    /// Wakes whoever polls [`Self::ear`].
    pub(super) fn ring(&self) {
        // A full bell rings already.
        match (&self.shared.bell).write(&[1]) {
            Ok(_) | Err(_) => {}
        }
    }

    /// Readable once the bell rang.
    pub(super) fn ear(&self) -> BorrowedFd<'_> {
        self.shared.ear.as_fd()
    }

    /// Forgets the rings so far.
    pub(super) fn hush(&self) {
        let mut rings = [0; 64];
        while matches!((&self.shared.ear).read(&mut rings), Ok(count) if count == rings.len()) {}
    }
}
