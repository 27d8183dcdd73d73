//! The local worker processes of `medley train`: started together, started again where they end, never outliving their
//! launcher.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use medley_proto::access::TOKEN_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The name of the worker's binary.
const BINARY: &str = "medley-worker";
/// How long a worker may take to list its devices: the first use of a driver is slow.
const LISTING: Duration = Duration::from_secs(30);

/// The pause before the second restart in a row of a worker that had done nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What every local worker is started with.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The binary.
    pub binary: PathBuf,
    /// The coordinator's address.
    pub coordinator: SocketAddr,
    /// `--device`.
    pub device: String,
    /// `--threads`.
    pub threads: u32,
    /// `--credentials`, where the coordinator has certificates.
    pub credentials: Option<PathBuf>,
    /// The token that lets workers in; travels in their environment, which no other user can read.
    pub token: String,
    /// Where the lines go that a worker, by its process id, writes to standard error; `None` leaves them this process's.
    pub words: Option<mpsc::Sender<(u32, String)>>,
}

/// A worker process that has ended.
#[derive(Debug)]
pub struct WorkerExit {
    /// Its process id.
    pub pid: u32,
    /// How it ended, or why that is not known.
    pub status: std::io::Result<ExitStatus>,
}

/// What becomes of the place of a worker process that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// It left in order: nobody takes its place.
    Left,
    /// Another is started in its place, after this time.
    Restarts(Duration),
    /// It has been started too often.
    GivenUp,
}

/// Worker processes, in numbered places; dropping this kills them.
#[derive(Debug, Default)]
pub struct LocalWorkers {
    command: Option<WorkerCommand>,
    exits: JoinSet<WorkerExit>,
    /// The place of each running process.
    places: BTreeMap<u32, usize>,
    /// Places to fill again, and when.
    due: Vec<(Instant, usize)>,
    restarts: Restarts,
}

/// How often workers may still be started again, and how soon.
#[derive(Debug, Clone, Default)]
struct Restarts {
    left: u32,
    /// How often in a row a worker has ended in each place without having done anything.
    futile: BTreeMap<usize, u32>,
}

impl Restarts {
    /// How long to wait before the next restart in a place; `None` where there are no more. It comes at once where the
    /// worker before had done something, and the first time that it had not; then each waits twice as long.
    fn next(&mut self, place: usize, was_useful: bool) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let futile = self.futile.entry(place).or_default();
        *futile = if was_useful { 0 } else { futile.saturating_add(1) };
        let pause = futile.checked_sub(2).map(|doublings| FIRST_PAUSE * 2u32.pow(doublings.min(16)));
        Some(pause.unwrap_or_default().min(LONGEST_PAUSE))
    }
}

/// Why local workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The binary is neither beside this one nor on the path.
    #[error("{BINARY} is neither beside {beside} nor on PATH; build it: cargo build --release")]
    NoBinary {
        /// Where this binary lies.
        beside: String,
    },
    /// The worker's binary does not tell what devices it can use.
    #[error("{binary} --list-devices: {problem}")]
    Devices {
        /// The binary.
        binary: String,
        /// What it said.
        problem: String,
    },
    /// The system could not start a process.
    #[error("start {binary}: {source}")]
    Spawn {
        /// The binary.
        binary: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Finds the worker's binary: beside this one, else on `PATH`.
///
/// # Errors
/// It is in neither place.
pub fn find_binary() -> Result<PathBuf, LaunchError> {
    let this = std::env::current_exe().unwrap_or_default();
    let beside = this.parent().map(|folder| folder.join(BINARY));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&on_path).map(|folder| folder.join(BINARY)).collect();
    beside
        .into_iter()
        .chain(on_path)
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| LaunchError::NoBinary { beside: this.display().to_string() })
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Asks a worker's binary how many GPUs it can use.
///
/// # Errors
/// It cannot start, e.g. because a library is missing that it was built for, or it cannot use the driver.
pub async fn count_gpus(binary: &Path) -> Result<u32, LaunchError> {
    let name = binary.display().to_string();
    let asked = Command::new(binary).arg("--list-devices").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(LISTING, asked).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(LaunchError::Spawn { binary: name, source }),
        Err(_) => {
            let problem = format!("no answer in {} s", LISTING.as_secs());
            return Err(LaunchError::Devices { binary: name, problem });
        }
    };
    if output.status.success() {
        let lines = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("cuda:")).count();
        return Ok(u32::try_from(lines).unwrap_or(u32::MAX));
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let problem = match output.status.code() {
        // What the system's loader answers.
        Some(127) => format!("{said}; install what is missing (deploy/cuda/README.md says how)"),
        _ => said,
    };
    Err(LaunchError::Devices { binary: name, problem })
}

impl LocalWorkers {
    /// Starts `count` workers, each of which may be started again `max_restarts` times in all. Must be called on a
    /// thread that lives as long as they do, as must all that starts them again: the kernel ends a worker with the
    /// thread that started it.
    ///
    /// # Errors
    /// A process cannot be started; those started before are killed.
    pub fn start(command: WorkerCommand, count: u32, max_restarts: u32) -> Result<Self, LaunchError> {
        let mut workers = Self {
            command: Some(command),
            restarts: Restarts { left: max_restarts, futile: BTreeMap::new() },
            ..Self::default()
        };
        (0..count as usize).try_for_each(|place| workers.spawn(place))?;
        Ok(workers)
    }

    fn spawn(&mut self, place: usize) -> Result<(), LaunchError> {
        let Some(command) = &self.command else { return Ok(()) };
        let mut child = Command::new(&command.binary)
            .arg("--coordinator")
            .arg(command.coordinator.to_string())
            .args(["--device", &command.device])
            .args(["--threads", &command.threads.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .args(command.credentials.iter().flat_map(|folder| ["--credentials".as_ref(), folder.as_os_str()]))
            .env(TOKEN_VARIABLE, &command.token)
            // Which of the machine's GPUs it takes.
            .env("LOCAL_RANK", place.to_string())
            .stdin(Stdio::null())
            .stderr(if command.words.is_some() { Stdio::piped() } else { Stdio::inherit() })
            // A group of their own: Ctrl-C goes to the coordinator alone, which stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| LaunchError::Spawn { binary: command.binary.display().to_string(), source })?;
        let pid = child.id().unwrap_or_default();
        if let (Some(words), Some(stderr)) = (command.words.clone(), child.stderr.take()) {
            tokio::spawn(listen(pid, stderr, words));
        }
        self.places.insert(pid, place);
        self.exits.spawn(async move { WorkerExit { pid, status: child.wait().await } });
        Ok(())
    }

    /// Whether no worker runs or will run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.due.is_empty()
    }

    /// Whether a process is one of these workers.
    #[must_use]
    pub fn has(&self, pid: u32) -> bool {
        self.places.contains_key(&pid)
    }

    /// The process in a place, while one runs there.
    #[must_use]
    pub fn pid(&self, place: usize) -> Option<u32> {
        self.places.iter().find(|(_, known)| **known == place).map(|(pid, _)| *pid)
    }

    /// The places in which a process runs.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        self.places.values().copied().collect()
    }

    /// Sends a signal to one of these workers; to no other process.
    pub fn signal(&self, pid: u32, signal: Signal) {
        let known = i32::try_from(pid).ok().filter(|_| self.has(pid)).and_then(Pid::from_raw);
        // A process that has just ended needs no signal.
        known.and_then(|pid| kill_process(pid, signal).ok());
    }

    /// Decides what follows the exit of a worker that has done some of the work, or has not.
    pub fn succeed(&mut self, exit: &WorkerExit, was_useful: bool, now: Instant) -> Succession {
        let Some(place) = self.places.remove(&exit.pid) else { return Succession::Left };
        if matches!(&exit.status, Ok(status) if status.success()) {
            return Succession::Left;
        }
        match self.restarts.next(place, was_useful) {
            Some(pause) => {
                self.due.push((now + pause, place));
                Succession::Restarts(pause)
            }
            None => Succession::GivenUp,
        }
    }

    /// When [`Self::restart`] is due.
    #[must_use]
    pub fn restart_at(&self) -> Option<Instant> {
        self.due.iter().map(|(due, _)| *due).min()
    }

    /// Starts the workers that are due.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn restart(&mut self, now: Instant) -> Result<(), LaunchError> {
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(due, _)| *due <= now);
        self.due = later;
        let due: Vec<(Instant, usize)> = due;
        due.into_iter().try_for_each(|(_, place)| self.spawn(place))
    }

    /// Waits for the next worker to end; never returns when none is left.
    pub async fn next_exit(&mut self) -> WorkerExit {
        loop {
            match self.exits.join_next().await {
                Some(Ok(exit)) => return exit,
                // Only a task that was aborted or panicked has no exit, and its worker is killed with it.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all workers have ended; kills those that have not within `grace`.
    pub async fn stop(mut self, grace: Duration) {
        let all = async { while self.exits.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            self.exits.shutdown().await;
        }
    }
}

/// Hands on what a worker writes, line by line, until nobody has its standard error open any more.
async fn listen(pid: u32, stderr: ChildStderr, words: mpsc::Sender<(u32, String)>) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        if words.send((pid, String::from_utf8_lossy(&line).into_owned())).await.is_err() {
            return;
        }
    }
}

/// How a process ended, in words: `exit code 70`, `killed by signal 9`.
#[must_use]
pub fn describe(status: &std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Err(error) => format!("ended in a way that is not known: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(9)) => "was killed by signal 9 (by hand, or for want of memory)".to_owned(),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => status.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that cannot start must not be started without end, and faults must not slow down one that works.
    #[test]
    fn restarts_wait_longer_where_nothing_is_done_and_end() {
        let mut restarts = Restarts { left: 9, futile: BTreeMap::new() };
        let mut next = |place, was_useful| restarts.next(place, was_useful).map(|pause| pause.as_millis());
        assert_eq!([(); 4].map(|()| next(0, false)), [Some(0), Some(100), Some(200), Some(400)]);
        assert_eq!(next(1, false), Some(0), "places are apart");
        assert_eq!([(); 2].map(|()| next(0, true)), [Some(0), Some(0)]);
        assert_eq!([(); 2].map(|()| next(0, false)), [Some(0), Some(100)]);
        assert_eq!(next(0, true), None);
        let mut restarts = Restarts { left: 99, futile: BTreeMap::from([(0, 98)]) };
        assert_eq!(restarts.next(0, false), Some(LONGEST_PAUSE));
    }
}
