//! Looks after a thread that is stuck where it can look after nothing itself.
//!
//! The engine's thread looks at the switch and at its peers wherever it waits for a sum. But a call of the GPU's driver
//! may wait for all that runs there, and NCCL's kernels wait for peers: where one of those has died, such a call never
//! comes back unless another thread aborts the communicator.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::abort::AbortSwitch;

/// How often the watchdog looks.
const PERIOD: Duration = Duration::from_millis(100);

/// Watches over one group of one worker; dropping it ends that.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Watched {
    /// When what is being done must be done.
    deadline: Option<Instant>,
    is_over: bool,
}

impl Watchdog {
    /// Calls `bite` once, from a thread of its own, if a deadline passes, or if the group still stands `grace` after it
    /// was aborted.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn new(switch: AbortSwitch, grace: Duration, bite: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = shared.clone();
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            if watched.watch(&switch, grace) {
                bite();
            }
        })?;
        Ok(Self { shared })
    }

    /// What begins now must be done within `patience`; `None` where nothing is being done.
    pub(super) fn expect(&self, patience: Option<Duration>) {
        let deadline = patience.map(|patience| Instant::now() + patience);
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner).deadline = deadline;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Looks until the group is over, or the time has come: whether it has.
    fn watch(&self, switch: &AbortSwitch, grace: Duration) -> bool {
        let mut aborted_at = None;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        while !watched.is_over {
            let now = Instant::now();
            if aborted_at.is_none() && switch.is_aborted() {
                aborted_at = Some(now);
            }
            let should_be_gone = aborted_at.is_some_and(|aborted_at| now >= aborted_at + grace);
            if should_be_gone || watched.deadline.is_some_and(|deadline| now >= deadline) {
                return true;
            }
            watched = match self.changed.wait_timeout(watched, PERIOD) {
                Ok((watched, _)) => watched,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn watchdog(grace: Duration) -> (Watchdog, AbortSwitch, Receiver<()>) {
        let (switch, (bites, bitten)) = (AbortSwitch::new().unwrap(), channel());
        (Watchdog::new(switch.clone(), grace, move || bites.send(()).unwrap()).unwrap(), switch, bitten)
    }

    #[test]
    fn a_deadline_that_passes_is_noticed() {
        let (watchdog, _switch, bitten) = watchdog(LONG);
        watchdog.expect(Some(Duration::ZERO));
        bitten.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn a_group_that_outlives_its_abortion_is_noticed() {
        let (_watchdog, switch, bitten) = watchdog(Duration::ZERO);
        switch.abort();
        bitten.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn a_group_that_ends_in_time_is_left_in_peace() {
        let (watchdog, switch, bitten) = watchdog(LONG);
        watchdog.expect(Some(LONG));
        watchdog.expect(None);
        switch.abort();
        drop(watchdog);
        // The thread has ended, and with it what would have told of a bite.
        assert_eq!(bitten.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }
}
