//! Waiting for a disk that refuses: what fails because it is full or ill for a while is tried again, not given up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::error::ArchiveError;

/// The first wait; each is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long to try on when nobody is left who waits for the result.
const GRACE: Duration = Duration::from_secs(5);
/// How often a wait looks whether somebody is left.
const GLANCE: Duration = Duration::from_millis(50);

/// Who is told of a pause: `Some` reason when it begins, `None` when it is over.
type Tell = dyn Fn(Option<&str>) + Send + Sync;

/// Tries again what may pass, with waits between, for as long as somebody wants the result.
#[derive(Clone)]
pub struct Patience {
    first_wait: Duration,
    grace: Duration,
    tell: Arc<Tell>,
    /// How many wait at present: a pause begins with the first and ends with the last.
    waiting: Arc<AtomicUsize>,
    wanted: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").finish_non_exhaustive()
    }
}

impl Patience {
    /// Patience that tells `tell` of its pauses, as long as `wanted` says that somebody waits for the result.
    pub fn new(
        tell: impl Fn(Option<&str>) + Send + Sync + 'static,
        wanted: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            first_wait: FIRST_WAIT,
            grace: GRACE,
            tell: Arc::new(tell),
            waiting: Arc::default(),
            wanted: Arc::new(wanted),
        }
    }

    /// The same with waits that a test can bear.
    #[cfg(test)]
    pub(crate) fn brisk(self) -> Self {
        Self { first_wait: Duration::from_millis(1), grace: Duration::from_millis(100), ..self }
    }

    /// Makes `attempt` until it succeeds or fails for good; it must be one that can be made again. Blocks.
    ///
    /// # Errors
    /// The attempt's, where waiting does not help, or nobody waits any more.
    pub fn keep_trying<T>(&self, mut attempt: impl FnMut() -> Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        let (mut wait, mut told) = (self.first_wait, false);
        let mut unwanted = None;
        loop {
            let result = attempt();
            let again = matches!(&result, Err(error) if error.may_pass());
            if let (Err(error), true, false) = (&result, again, told) {
                if self.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
                    (self.tell)(Some(&error.to_string()));
                }
                told = true;
            }
            if !again || !self.wait(wait, &mut unwanted) {
                if told && self.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
                    (self.tell)(None);
                }
                return result;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Waits; false where it has been unwanted for so long that it is over.
    fn wait(&self, wait: Duration, unwanted: &mut Option<Instant>) -> bool {
        let begun = Instant::now();
        loop {
            if (self.wanted)() {
                *unwanted = None;
            } else if unwanted.get_or_insert_with(Instant::now).elapsed() >= self.grace {
                return false;
            }
            match wait.checked_sub(begun.elapsed()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(GLANCE)),
                _ => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;

    fn full() -> ArchiveError {
        ArchiveError::io("write", Path::new("ledger.jsonl"))(io::Error::from_raw_os_error(28))
    }

    /// A patience and what it was told.
    fn patience(wanted: bool) -> (Patience, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let tell = move |reason: Option<&str>| heard.lock().unwrap().push(reason.unwrap_or("over").to_owned());
        (Patience::new(tell, move || wanted).brisk(), told)
    }

    #[test]
    fn a_full_disk_is_told_once_and_waited_for() {
        let (patience, told) = patience(true);
        let mut attempts = 0;
        let result = patience.keep_trying(|| {
            attempts += 1;
            if attempts < 5 { Err(full()) } else { Ok(attempts) }
        });
        assert_eq!(result.unwrap(), 5);
        assert_eq!(*told.lock().unwrap(), ["write ledger.jsonl: No space left on device (os error 28)", "over"]);
    }

    /// Several senders and the recorder may wait at the same time.
    #[test]
    fn one_pause_is_told_whoever_waits() {
        let (patience, told) = patience(true);
        let (mut outer, mut inner) = (0, 0);
        let result = patience.keep_trying(|| {
            outer += 1;
            if outer == 2 {
                let again = || {
                    inner += 1;
                    if inner < 3 { Err(full()) } else { Ok(()) }
                };
                patience.keep_trying(again).unwrap();
            }
            if outer < 3 { Err(full()) } else { Ok(()) }
        });
        result.unwrap();
        assert_eq!(told.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_waiting_does_not_help_fails_at_once() {
        let (patience, told) = patience(true);
        let misplaced = || Err::<(), _>(ArchiveError::OutOfTurn { path: "l".into(), reason: "r".into() });
        assert!(patience.keep_trying(misplaced).is_err());
        assert!(told.lock().unwrap().is_empty());
    }

    #[test]
    fn when_nobody_waits_it_ends() {
        let (patience, told) = patience(false);
        let begun = Instant::now();
        assert!(patience.keep_trying(|| Err::<(), _>(full())).is_err());
        assert!(begun.elapsed() >= patience.grace);
        assert_eq!(told.lock().unwrap().len(), 2);
    }
}
