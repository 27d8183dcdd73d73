//! What a sum cost: how long the collective was at it, and what it sent for it.

use std::time::{Duration, Instant};

/// What a collective did from one fence to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// How long something was to be exchanged with a peer, whether or not this rank computed meanwhile. Waiting for a
    /// peer that is not as far counts: only it and the network together decide when a sum is there.
    pub busy: Duration,
    /// Bytes sent to peers, headers included.
    pub sent_bytes: u64,
}

/// Measures traffic. It reads the clock where a stretch of exchange begins and where it ends, and nowhere else.
#[derive(Debug, Default)]
pub(super) struct Meter {
    traffic: Traffic,
    /// When the present stretch began.
    since: Option<Instant>,
}

impl Meter {
    /// Something is to be exchanged.
    pub(super) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Nothing is to be exchanged any more, for the time being.
    pub(super) fn rest(&mut self) {
        if let Some(since) = self.since.take() {
            self.traffic.busy += since.elapsed();
        }
    }

    /// So many bytes were sent.
    pub(super) fn send(&mut self, bytes: u64) {
        self.traffic.sent_bytes += bytes;
    }

    /// What was measured since this was last asked; the present stretch ends.
    pub(super) fn take(&mut self) -> Traffic {
        self.rest();
        std::mem::take(&mut self.traffic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stretches_of_exchange_count() {
        let mut meter = Meter::default();
        assert_eq!(meter.take(), Traffic::default());
        meter.begin();
        std::thread::sleep(Duration::from_millis(5));
        meter.rest();
        meter.send(7);
        std::thread::sleep(Duration::from_millis(50));
        let Traffic { busy, sent_bytes } = meter.take();
        assert!(busy >= Duration::from_millis(5), "{busy:?}");
        assert_eq!(sent_bytes, 7);
        assert_eq!(meter.take(), Traffic::default(), "it is told once");
    }

    #[test]
    fn a_stretch_that_goes_on_is_not_begun_anew() {
        let mut meter = Meter::default();
        meter.begin();
        std::thread::sleep(Duration::from_millis(5));
        meter.begin();
        assert!(meter.take().busy >= Duration::from_millis(5));
    }
}
