//! How long to wait for what comes by itself, and how often to look.

use std::time::{Duration, Instant};

/// How long to look without a pause: what NCCL enqueues by itself is mostly there by then, and a thread that sleeps for less
/// than this comes back after more of it.
const BRISK: Duration = Duration::from_micros(100);
/// How long to sleep between two looks from then on.
const PAUSE: Duration = Duration::from_micros(20);

/// A wait that has begun.
#[derive(Debug)]
pub(super) struct Patience {
    start: Instant,
    limit: Duration,
}

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Look,
    Sleep,
    GiveUp,
}

impl Patience {
    /// Waits for `limit` at most, from now on.
    pub(super) fn new(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Lets some time pass, if there is any left; `false` where the limit is over. Blocks for some microseconds.
    pub(super) fn lasts(&self) -> bool {
        let next = self.next(self.start.elapsed());
        match next {
            Next::Look => std::hint::spin_loop(),
            Next::Sleep => std::thread::sleep(PAUSE),
            Next::GiveUp => {}
        }
        next != Next::GiveUp
    }

    /// Its limit, in whole seconds.
    pub(super) fn seconds(&self) -> u64 {
        self.limit.as_secs()
    }

    fn next(&self, elapsed: Duration) -> Next {
        match elapsed {
            elapsed if elapsed > self.limit => Next::GiveUp,
            elapsed if elapsed < BRISK => Next::Look,
            _ => Next::Sleep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that is through in some microseconds costs no sleep, one that takes long no processor.
    #[test]
    fn looks_are_brisk_at_first_and_end_at_the_limit() {
        let patience = Patience::new(Duration::from_secs(600));
        let next = |micros| patience.next(Duration::from_micros(micros));
        assert_eq!(
            [next(0), next(99), next(100), next(600_000_000)],
            [Next::Look, Next::Look, Next::Sleep, Next::Sleep]
        );
        assert_eq!((next(600_000_001), patience.seconds()), (Next::GiveUp, 600));
        assert!(patience.lasts() && !Patience::new(Duration::ZERO).lasts());
    }
}
