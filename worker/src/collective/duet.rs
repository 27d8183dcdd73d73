//! A group of two whose second rank is the test itself.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};

use medley_common::message::Form;

use super::handshake::{Greeting, HELLO_BYTES, Offer, REPLY_BYTES};
use super::local_group::{SECRET, forms, join, listener, split};
use super::shared_memory::{NONCE_BYTES, Offered};
use super::wire::Wire;
use super::{Listener, Tcp, TcpSettings};

/// A group of two whose rank 1 is the test itself, past the handshake.
pub(super) struct Duet {
    pub listeners: Vec<Listener>,
    pub form: Form,
    pub peer: Peer,
    pub tcp: Tcp,
}

/// The test's end of the wire.
pub(super) struct Peer {
    pub wire: Wire,
    stream: TcpStream,
}

impl Peer {
    /// Says nothing more.
    pub(super) fn end(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends all of it.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.wire.write_vectored(&[IoSlice::new(bytes)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A group over shared memory where `settings` allow it, else over TCP.
pub(super) fn duet(settings: TcpSettings) -> Duet {
    let memory = settings.shared_memory.then(|| Offered::new().unwrap());
    let offer = memory.as_ref().map(|memory| Offer::new(std::process::id(), memory.descriptor(), memory.nonce()));
    let nonce = memory.as_ref().map(|memory| *memory.nonce());
    duet_with(settings, |greeting| greeting.hello(&SECRET, offer.as_ref()), nonce.as_ref(), memory)
}

/// A group whose rank 1 offers memory that is not what it says, and is let in without.
pub(super) fn duet_with_false_offer(settings: TcpSettings, offer: &Offer) -> Duet {
    duet_with(settings, |greeting| greeting.hello(&SECRET, Some(offer)), None, None)
}

fn duet_with(
    settings: TcpSettings,
    hello: impl Fn(&Greeting) -> [u8; HELLO_BYTES],
    nonce: Option<&[u8; NONCE_BYTES]>,
    memory: Option<Offered>,
) -> Duet {
    let listeners = vec![listener(), listener()];
    let form = forms(&listeners, 3, &split(2, 2)).remove(0);
    let (peer, tcp) = std::thread::scope(|scope| {
        let tcp = scope.spawn(|| join(&listeners[0], &form, settings).unwrap());
        let greeting = Greeting::new(&form, 1, 0, settings.chunk_elements);
        let mut peer = TcpStream::connect(listeners[0].address()).unwrap();
        peer.write_all(&hello(&greeting)).unwrap();
        let mut reply = [0; REPLY_BYTES];
        peer.read_exact(&mut reply).unwrap();
        assert!(greeting.is_reply(&reply, &SECRET, nonce));
        peer.set_nonblocking(true).unwrap();
        (peer, tcp.join().unwrap())
    });
    let stream = peer.try_clone().unwrap();
    let peer = Peer { wire: Wire::new(peer, memory.map(Offered::accepted)), stream };
    Duet { listeners, form, peer, tcp }
}
