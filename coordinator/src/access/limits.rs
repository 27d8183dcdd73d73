//! How much of everything a caller may take. SECURITY.md has the same table.

use std::time::Duration;

use super::Calls;

/// How long a connection may stay open before a call on it was allowed.
pub const PROOF: Duration = Duration::from_secs(10);
/// Calls of a connection that are denied before it is closed.
pub const DENIALS: u32 = 16;
/// Calls of a connection.
pub const CALLS: Calls = Calls { per_second: 2_000, at_once: 4_000 };
/// Calls of a connection that may be under way.
pub const STREAMS: u32 = 256;
/// Bytes of a call's headers.
pub const HEADER_BYTES: u32 = 16 << 10;
/// Bytes of a message to any service but the workers'.
pub const QUESTION_BYTES: usize = 64 << 10;
/// Answers that may be on their way at once to all who look, read or not: watches of the status among them. More than one
/// connection can ask for.
pub const ANSWERS: usize = 512;
/// Those to who asks for the health.
pub const HEALTH_ANSWERS: usize = 64;
/// How long a worker may take to say who it is.
pub const GREETING: Duration = Duration::from_secs(10);
/// Events of a worker a second, beyond which it is slowed down.
pub const EVENTS_PER_SECOND: u32 = 5_000;
/// The same of one that waits for a place: it says who it is, and that it lives.
pub const WAITING_EVENTS_PER_SECOND: u32 = 20;
/// How long a caller may take to take in a piece of a file.
pub const SLOWEST_READ: Duration = Duration::from_secs(60);
/// Connections to the port for probes and metrics; the oldest makes room for the next.
pub const HTTP_CONNECTIONS: usize = 64;
/// Questions of such a connection: a probe asks every few seconds, Prometheus less often.
pub const HTTP_CALLS: Calls = Calls { per_second: 20, at_once: 100 };
/// Such connections on which a browser listens to how the run goes on; the others are for who asks once.
pub const LISTENERS: usize = 16;
/// How long such a connection may be idle.
pub const HTTP_IDLE: Duration = Duration::from_secs(30);

/// Files and rows that are on their way at once to the workers of a run of so many; who asks for more waits.
#[must_use]
pub fn fetches(workers: u32) -> usize {
    8 + 2 * workers as usize
}

/// Connections to the coordinator of a run of so many workers: each has two, and one that comes back has them twice.
#[must_use]
pub fn connections(workers: u32) -> usize {
    256 + 4 * workers as usize
}

/// Sessions of workers, those that wait for a place or are about to be refused included.
#[must_use]
pub fn sessions(workers: u32) -> usize {
    64 + 2 * workers as usize
}
