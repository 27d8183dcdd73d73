//! Connecting every rank of a group with every other: each calls all lower ranks and is called by all higher ones.
//!
//! Who calls a rank at its own address offers to share memory; whatever stands in the way of that, they go on without.
//!
//! Nothing here blocks but the look-up of a peer's name, where its address is not a number. The sizes of the sockets'
//! buffers are left to the kernel, which adapts them: fixed ones of 0.5 to 4 MB were no faster over loopback.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use medley_common::message::Form;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::CollectiveError;
use super::abort::AbortSwitch;
use super::group::Group;
use super::handshake::{Greeting, HELLO_BYTES, Offer, REPLY_BYTES};
use super::link::Link;
use super::listener::Listener;
use super::ring::{Reader, Writer};
use super::shared_memory::{self, NONCE_BYTES, Offered};
use super::tcp::TcpSettings;
use super::wire::Wire;

/// The most peers of one machine with which memory is shared: 32 workers take 520 MB in all.
const MOST_BESIDE: usize = 31;

/// Callers whose greeting is awaited at a time; beyond, the oldest is dropped, so that silent ones block nobody.
const MOST_GUESTS: usize = 64;

/// Pause before a peer is called again: it may not listen yet, or not be in this group yet.
const RETRY: Duration = Duration::from_millis(50);

/// Connects the group of `form`.
pub(super) fn connect_all(
    listener: &Listener,
    form: &Form,
    group: &Group,
    settings: TcpSettings,
    switch: &AbortSwitch,
) -> Result<Vec<Seat>, CollectiveError> {
    let (now, timeout) = (Instant::now(), settings.connect_timeout);
    let mut calls = Vec::new();
    // A ring each way with each of them: with many, the memory of the machine would go into rings.
    let beside = group.peers().filter(|peer| group.is_beside(*peer)).count();
    for peer in 0..group.rank {
        let shares = settings.shared_memory && beside <= MOST_BESIDE && group.is_beside(peer);
        let memory = shares.then(Offered::new).transpose();
        calls.push(Call { peer, attempts: 0, state: CallState::Waiting(now), memory, last: None });
    }
    let shares = settings.shared_memory;
    let seats = (0..group.world()).map(|_| None).collect();
    let mut mesh =
        Mesh { listener, form, group, shares, calls, guests: VecDeque::new(), seats, refused: None, accept_after: now };
    while !mesh.is_complete() {
        if switch.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        mesh.step();
        if mesh.is_complete() {
            break;
        }
        let Some(left) = timeout.checked_sub(now.elapsed()).filter(|left| !left.is_zero()) else {
            return Err(mesh.timed_out(timeout));
        };
        mesh.wait(left, switch)?;
    }
    Ok(mesh.seats.into_iter().flatten().collect())
}

/// The connection to a rank.
pub(super) struct Seat {
    peer: usize,
    stream: TcpStream,
    memory: Memory,
}

impl Seat {
    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    /// Whether memory is shared with the rank, or why it is not although it was to be.
    pub(super) fn shares(&self) -> Result<bool, &io::Error> {
        self.memory.as_ref().map(Option::is_some)
    }

    pub(super) fn link(self) -> Link {
        Link::new(Wire::new(self.stream, self.memory.unwrap_or(None)), self.peer)
    }
}

struct Mesh<'a> {
    listener: &'a Listener,
    form: &'a Form,
    group: &'a Group,
    /// Whether this rank shares memory.
    shares: bool,
    calls: Vec<Call>,
    guests: VecDeque<Guest>,
    /// The connection to each rank.
    seats: Vec<Option<Seat>>,
    /// Why a caller was turned away last.
    refused: Option<String>,
    /// Set after an error of `accept`, which would come again at once.
    accept_after: Instant,
}

/// The call of a lower rank.
struct Call {
    peer: usize,
    attempts: usize,
    state: CallState,
    /// What is offered, if anything.
    memory: io::Result<Option<Offered>>,
    /// What went wrong last.
    last: Option<io::Error>,
}

enum CallState {
    /// Until the next attempt.
    Waiting(Instant),
    Connecting(TcpStream),
    /// For the rest of the answer.
    Greeted(TcpStream, Filling<REPLY_BYTES>),
    Seated,
}

/// The memory that is shared with a rank, or why none is; nothing where that was not to be.
type Memory = io::Result<Option<(Reader, Writer)>>;

impl Call {
    fn offer(&self) -> Option<Offer> {
        let memory = self.memory.as_ref().ok()?.as_ref()?;
        Some(Offer::new(std::process::id(), memory.descriptor(), memory.nonce()))
    }

    /// What comes of the offer by the answer, which `has` this nonce or none, or is not to be trusted.
    fn conclude(&mut self, has: impl Fn(Option<&[u8; NONCE_BYTES]>) -> bool) -> io::Result<Memory> {
        let nonce = self.memory.as_ref().ok().and_then(|memory| Some(*memory.as_ref()?.nonce()));
        if nonce.is_some_and(|nonce| has(Some(&nonce))) {
            let offered = std::mem::replace(&mut self.memory, Ok(None));
            return Ok(offered.map(|offered| offered.map(Offered::accepted)));
        }
        if !has(None) {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "it does not know the secret"));
        }
        let offered = std::mem::replace(&mut self.memory, Ok(None));
        Ok(offered.and_then(|offered| match offered {
            None => Ok(None),
            Some(_) => Err(io::Error::new(ErrorKind::Unsupported, "it takes none")),
        }))
    }
}

/// A caller that has not said who it is.
struct Guest {
    stream: TcpStream,
    address: SocketAddr,
    hello: Filling<HELLO_BYTES>,
}

/// A message of fixed length that arrives in pieces.
struct Filling<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Filling<N> {
    fn new() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }

    /// Reads on; `None` while more is to come.
    fn read(&mut self, stream: &mut TcpStream) -> io::Result<Option<&[u8; N]>> {
        while self.filled < N {
            match stream.read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "turned away or gone")),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(&self.bytes))
    }
}

impl Mesh<'_> {
    fn is_complete(&self) -> bool {
        self.group.peers().all(|peer| self.seats[peer].is_some())
    }

    fn greeting(&self, from: usize, to: usize) -> Greeting {
        Greeting::new(self.form, from, to, self.group.chunk_elements)
    }

    /// Goes on with every call and every guest as far as possible without waiting.
    fn step(&mut self) {
        for mut call in std::mem::take(&mut self.calls) {
            if let Err(error) = self.advance(&mut call) {
                call.state = CallState::Waiting(Instant::now() + RETRY);
                call.last = Some(error);
            }
            self.calls.push(call);
        }
        loop {
            match self.listener.accept() {
                Ok(Some((stream, address))) => {
                    self.guests.push_back(Guest { stream, address, hello: Filling::new() });
                    if self.guests.len() > MOST_GUESTS {
                        self.guests.pop_front();
                    }
                }
                Ok(None) => break,
                // A caller that hung up at once, or no descriptors left: better after a pause.
                Err(error) => {
                    self.refused = Some(format!("accept: {error}"));
                    self.accept_after = Instant::now() + RETRY;
                    break;
                }
            }
        }
        for mut guest in std::mem::take(&mut self.guests) {
            match self.welcome(&mut guest) {
                Ok(None) => self.guests.push_back(guest),
                Ok(Some((peer, memory))) => self.seats[peer] = Some(Seat { peer, stream: guest.stream, memory }),
                Err(error) => self.refused = Some(format!("{} was turned away: {error}", guest.address)),
            }
        }
    }

    /// Takes a call one step further; an error ends the attempt.
    fn advance(&mut self, call: &mut Call) -> io::Result<()> {
        let greeting = self.greeting(self.group.rank, call.peer);
        call.state = match std::mem::replace(&mut call.state, CallState::Seated) {
            CallState::Waiting(until) if until <= Instant::now() => {
                call.attempts += 1;
                CallState::Connecting(dial(&self.group.addresses[call.peer], call.attempts)?)
            }
            CallState::Connecting(mut stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                if stream.peer_addr().is_ok() {
                    say(&mut stream, &greeting.hello(&self.form.secret, call.offer().as_ref()))?;
                    CallState::Greeted(stream, Filling::new())
                } else {
                    CallState::Connecting(stream)
                }
            }
            CallState::Greeted(mut stream, mut reply) => match reply.read(&mut stream)? {
                None => CallState::Greeted(stream, reply),
                Some(reply) => {
                    let memory = call.conclude(|nonce| greeting.is_reply(reply, &self.form.secret, nonce))?;
                    self.seats[call.peer] = Some(Seat { peer: call.peer, stream, memory });
                    CallState::Seated
                }
            },
            state @ (CallState::Waiting(_) | CallState::Seated) => state,
        };
        Ok(())
    }

    /// Hears a guest out; the rank it takes, once it has proved to be that, and the memory that is shared with it.
    fn welcome(&self, guest: &mut Guest) -> io::Result<Option<(usize, Memory)>> {
        let Some(hello) = guest.hello.read(&mut guest.stream)? else { return Ok(None) };
        let (peer, offer) = Greeting::caller(hello, self.form, self.group.chunk_elements)
            .map_err(|problem| io::Error::new(ErrorKind::PermissionDenied, problem))?;
        guest.stream.set_nodelay(true)?;
        let (nonce, memory) = match offer.filter(|_| self.shares).map(|offer| take(&offer)) {
            None => (None, Ok(None)),
            Some(Ok((nonce, ends))) => (Some(nonce), Ok(Some(ends))),
            Some(Err(error)) => (None, Err(error)),
        };
        say(&mut guest.stream, &self.greeting(peer, self.group.rank).reply(&self.form.secret, nonce.as_ref()))?;
        Ok(Some((peer, memory)))
    }

    /// Waits until something moves, but not for longer than `left` or the next attempt.
    fn wait(&self, left: Duration, switch: &AbortSwitch) -> Result<(), CollectiveError> {
        let mut left = left;
        let mut fds = vec![PollFd::from_borrowed_fd(switch.ear(), PollFlags::IN)];
        match self.accept_after.checked_duration_since(Instant::now()) {
            Some(pause) if !pause.is_zero() => left = left.min(pause),
            _ => fds.push(PollFd::from_borrowed_fd(self.listener.fd(), PollFlags::IN)),
        }
        for call in &self.calls {
            match &call.state {
                CallState::Waiting(until) => left = left.min(until.saturating_duration_since(Instant::now())),
                CallState::Connecting(stream) => fds.push(PollFd::new(stream, PollFlags::OUT)),
                CallState::Greeted(stream, _) => fds.push(PollFd::new(stream, PollFlags::IN)),
                CallState::Seated => {}
            }
        }
        fds.extend(self.guests.iter().map(|guest| PollFd::new(&guest.stream, PollFlags::IN)));
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => {
                let problem = format!("poll of {} sockets: {}", fds.len(), io::Error::from(error));
                Err(CollectiveError::Invalid { problem })
            }
        }
    }

    fn timed_out(self, timeout: Duration) -> CollectiveError {
        let missing = self.group.peers().find(|peer| self.seats[*peer].is_none()).unwrap_or(0);
        let call = self.calls.into_iter().find(|call| call.peer == missing);
        let (doing, last) = match call {
            Some(call) => ("connecting", call.last.map(|error| error.to_string())),
            None => ("waiting for it to connect", self.refused),
        };
        let last = last.map_or_else(String::new, |last| format!("; last: {last}"));
        let text = format!("not done after {} ms{last}", timeout.as_millis());
        self.group.connection(missing, doing, io::Error::new(ErrorKind::TimedOut, text))
    }
}

/// Opens the memory that is offered.
fn take(offer: &Offer) -> io::Result<([u8; NONCE_BYTES], (Reader, Writer))> {
    let (process, descriptor) = offer.place();
    let (nonce, ends) = shared_memory::open(process, descriptor)?;
    if !offer.is_of(&nonce) {
        let text = format!("/proc/{process}/fd/{descriptor} is not the memory that it offers");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    Ok((nonce, ends))
}

/// Begins to connect; the addresses of a name take turns.
fn dial(endpoint: &str, attempt: usize) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = endpoint.to_socket_addrs()?.collect();
    let address = attempt.checked_rem(addresses.len()).map(|turn| addresses[turn]);
    let address = address.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "its name has no address"))?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes a short message; the buffer of a new connection has room for it.
fn say(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    if stream.write(message)? == message.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}
