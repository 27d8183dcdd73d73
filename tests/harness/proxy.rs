//! A network between a worker and its coordinator that a test can slow down, stop and cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Bytes that are passed on at a time.
const CHUNK: usize = 16 << 10;

/// Listens on an address of its own and passes on what comes to another, and back.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
}

/// What happens to all connections.
#[derive(Debug)]
struct Wire {
    upstream: String,
    delay_ms: AtomicU64,
    /// Bytes that may still pass before everything is cut.
    budget: Mutex<Option<usize>>,
    spent: Condvar,
    held: Mutex<bool>,
    released: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy before `upstream`, `host:port`.
    #[must_use]
    pub fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind the proxy");
        let wire = Arc::new(Wire {
            upstream: upstream.to_owned(),
            delay_ms: AtomicU64::new(0),
            budget: Mutex::new(None),
            spent: Condvar::new(),
            held: Mutex::new(false),
            released: Condvar::new(),
            open: Mutex::new(Vec::new()),
        });
        let address = listener.local_addr().expect("the proxy's address");
        let accepting = Arc::clone(&wire);
        std::thread::spawn(move || {
            listener.incoming().map_while(Result::ok).for_each(|stream| accepting.join(&stream));
        });
        Self { address, wire }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on everything takes `delay` longer, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.wire.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Lets nothing through, as a broken cable does: all connections stay open.
    pub fn hold(&self) {
        *self.wire.held.lock().expect("the lock") = true;
    }

    /// Lets everything through again, what was held back first.
    pub fn release(&self) {
        *self.wire.held.lock().expect("the lock") = false;
        self.wire.released.notify_all();
    }

    /// Closes all connections once so many more bytes have passed; new ones are let through again.
    pub fn cut_after(&self, bytes: usize) {
        *self.wire.budget.lock().expect("the lock") = Some(bytes);
    }

    /// Blocks until what [`Self::cut_after`] asked for has happened.
    pub fn wait_for_cut(&self) {
        let budget = self.wire.budget.lock().expect("the lock");
        drop(self.wire.spent.wait_while(budget, |budget| budget.is_some()).expect("the lock"));
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.wire.cut();
    }
}

impl Wire {
    /// Connects a caller with the other side.
    fn join(self: &Arc<Self>, caller: &TcpStream) {
        let Ok(callee) = TcpStream::connect(&self.upstream) else { return };
        for (from, to) in [(caller, &callee), (&callee, caller)] {
            let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
            let (from, to) = (copy(from), copy(to));
            to.set_nodelay(true).ok();
            self.open.lock().expect("the lock").push(copy(&to));
            let (chunks, queue) = channel();
            std::thread::spawn(move || receive(from, &chunks));
            let wire = Arc::clone(self);
            std::thread::spawn(move || wire.send(to, &queue));
        }
    }

    /// Passes on what was received, when it is time.
    fn send(&self, mut to: TcpStream, queue: &Receiver<(Instant, Vec<u8>)>) {
        for (arrived, chunk) in queue {
            let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
            // The network's own time, which is what the test is about.
            std::thread::sleep(delay.saturating_sub(arrived.elapsed()));
            let held = self.held.lock().expect("the lock");
            drop(self.released.wait_while(held, |held| *held).expect("the lock"));
            if to.write_all(&chunk).is_err() {
                return;
            }
            self.spend(chunk.len());
        }
        // The other side has ended in order; this one may be gone already.
        to.shutdown(Shutdown::Write).ok();
    }

    /// Counts what has passed.
    fn spend(&self, bytes: usize) {
        let mut budget = self.budget.lock().expect("the lock");
        let Some(left) = budget.as_mut() else { return };
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            *budget = None;
            self.cut();
            self.spent.notify_all();
        }
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("the lock").drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Takes in what comes, with the moment it came.
fn receive(mut from: TcpStream, chunks: &Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if chunks.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}
