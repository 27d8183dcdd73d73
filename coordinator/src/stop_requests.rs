//! What a person, a terminal or a scheduler sends to have a process stop.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// SIGTERMs and SIGHUPs this close to each other ask for the same: a scheduler may signal all processes of a job, and the
/// parents among them pass it on.
const ONE_REQUEST: Duration = Duration::from_secs(2);
/// SIGINTs this close to each other are one that was passed on: nobody types Ctrl-C twice in this time.
const ONE_KEY: Duration = Duration::from_millis(300);
/// Requests that may wait for whoever stops: one to stop, one to stop at once, and some to spare.
const QUEUED: usize = 4;

/// SIGINT, SIGTERM and SIGHUP as requests to stop, from its making to the end of the process.
#[derive(Debug)]
pub struct StopRequests {
    requests: mpsc::Receiver<()>,
    /// Whether one was passed on that nobody may have obeyed: a run that ends hears no more.
    passed: bool,
}

impl StopRequests {
    /// Listens from now on. A hang-up that is ignored (`nohup`) stays ignored. One that comes right after another of its kind
    /// is the same one; a person who types Ctrl-C twice means it. Must be called inside a runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUED);
        let hangup = (!ignores_hangup()).then(SignalKind::hangup);
        for kind in [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup) {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    // A full queue holds enough requests already.
                    sender.try_send(()).ok();
                    let same = if kind == SignalKind::interrupt() { ONE_KEY } else { ONE_REQUEST };
                    let until = tokio::time::Instant::now() + same;
                    while tokio::time::timeout_at(until, signals.recv()).await.is_ok() {}
                }
            });
        }
        Ok(Self { requests: receiver, passed: false })
    }

    /// Whether there was a request since it was asked last.
    pub fn is_asked(&mut self) -> bool {
        std::mem::take(&mut self.passed) || self.requests.try_recv().is_ok()
    }

    /// Passes requests on to one run, for as long as that is awaited.
    pub(crate) async fn pass_on(&mut self, to: mpsc::Sender<()>) -> Infallible {
        while let Some(()) = self.requests.recv().await {
            self.passed = true;
            to.try_send(()).ok();
        }
        std::future::pending().await
    }
}

/// Requests of one run.
pub(crate) fn channel() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    mpsc::channel(QUEUED)
}

/// Whether this process was started with SIGHUP ignored, by the kernel's mask of ignored signals.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
