//! What is known of a connection: whether it has shown a token, how often it calls.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::{limits, neighbour};

/// How much a connection has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Nothing yet.
    Stranger,
    /// A call that everybody may make.
    Guest,
    /// A viewer's or a worker's token, which keeps nobody else out.
    Known,
    /// An operator's token, or a worker's session that is open.
    Member,
}

/// How often a connection may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// In the long run.
    pub per_second: u32,
    /// After a pause.
    pub at_once: u32,
}

/// What is known of one connection; every call on it finds the same.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Known>);

#[derive(Debug)]
struct Known {
    peer: Option<SocketAddr>,
    own: Option<SocketAddr>,
    trust: AtomicU8,
    /// Workers' sessions that are open on it.
    sessions: AtomicU32,
    denials: AtomicU32,
    calls: Mutex<Bucket>,
    user: OnceLock<Option<u32>>,
}

/// A worker's session on a connection.
#[derive(Debug)]
pub struct Attending(Standing);

impl Drop for Attending {
    fn drop(&mut self) {
        self.0.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Standing {
    /// A connection that is new, and may make so many calls.
    #[must_use]
    pub fn new(peer: Option<SocketAddr>, own: Option<SocketAddr>, calls: Calls) -> Self {
        let calls = Bucket::new(calls.per_second, calls.at_once, Instant::now());
        Self(Arc::new(Known {
            peer,
            own,
            trust: AtomicU8::new(Trust::Stranger as u8),
            sessions: AtomicU32::new(0),
            denials: AtomicU32::new(0),
            calls: Mutex::new(calls),
            user: OnceLock::new(),
        }))
    }

    /// Who calls, for a person; empty where that is not known.
    #[must_use]
    pub fn peer(&self) -> String {
        self.0.peer.map(|peer| peer.to_string()).unwrap_or_default()
    }

    /// How much it has shown, for now.
    #[must_use]
    pub fn trust(&self) -> Trust {
        if self.0.sessions.load(Ordering::Relaxed) > 0 {
            return Trust::Member;
        }
        match self.0.trust.load(Ordering::Relaxed) {
            0 => Trust::Stranger,
            1 => Trust::Guest,
            2 => Trust::Known,
            _ => Trust::Member,
        }
    }

    /// Notes that a worker's session is open on it, for as long as the answer lives.
    #[must_use]
    pub fn attend(&self) -> Attending {
        self.0.sessions.fetch_add(1, Ordering::Relaxed);
        Attending(self.clone())
    }

    /// Notes that it has shown as much; it never becomes less.
    pub fn raise(&self, trust: Trust) {
        self.0.trust.fetch_max(trust as u8, Ordering::Relaxed);
    }

    /// Counts a call.
    ///
    /// # Errors
    /// It calls too often; after this time it may again.
    pub fn call(&self) -> Result<(), Duration> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    /// Counts a call that was denied.
    pub fn deny(&self) {
        self.0.denials.fetch_add(1, Ordering::Relaxed);
    }

    /// Has the connection closed: nothing good comes of it any more.
    pub fn condemn(&self) {
        self.0.denials.store(limits::DENIALS, Ordering::Relaxed);
    }

    /// Whether so many calls were denied that it guesses.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        self.0.denials.load(Ordering::Relaxed) >= limits::DENIALS
    }

    /// Whether the caller is a process of this process's user, or root's, on this machine.
    #[must_use]
    pub fn is_own_user(&self) -> bool {
        let user = self.0.user.get_or_init(|| neighbour::user(self.0.peer?, self.0.own?));
        user.is_some_and(|user| user == 0 || user == rustix::process::getuid().as_raw())
    }
}
