//! The clock by which a worker says when something began: its own, which no other process's can be compared with.

use std::sync::LazyLock;
use std::time::Instant;

/// One for the life of the process: a worker that begins anew in another run must not seem to go back in time.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since this was first asked in this process.
#[must_use]
pub fn microseconds() -> u64 {
    u64::try_from(BEGINNING.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_goes_forward() {
        let first = microseconds();
        assert!(first <= microseconds());
    }
}
