//! Where peers reach a worker's collective.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// A bound socket, kept through all groups of a session. Peers may connect before this worker joins their group; they
/// are looked at when it does.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`, which is one that peers can reach; port 0 takes any free port.
    ///
    /// # Errors
    /// The address is not this host's, or is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The bound address, as `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hangs up on all who wait: in the midst of a group nobody has to connect, and who calls only to see whether this
    /// host is there has seen it.
    pub(crate) fn clear(&self) {
        // What cannot be accepted is not in the way either.
        while let Ok(Some(_)) = self.accept() {}
    }

    /// A waiting connection, `None` if there is none.
    pub(super) fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        match self.socket.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                Ok(Some((stream, address)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
