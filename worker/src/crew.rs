//! The workers of one machine under one command, `medley-worker --workers`: a process each, with a GPU or a share of the
//! cores of its own.
//!
//! Whoever is lost is started again as long as others of this machine live. Where all have ended, so does this: what
//! becomes of the machine's part in the run is for whoever has started it (a person, Kubernetes, Slurm).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::display::say;

/// The most workers of a machine.
const MOST: u32 = 1024;
/// The pause before a lost worker is started again: time for the others to end as well, where all do.
const PAUSE: Duration = Duration::from_secs(2);

/// How many workers a machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// One for each GPU; one with all cores where there is none.
    Auto,
    /// So many, at least 1.
    Exactly(u32),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(count)) if (1..=MOST).contains(&count) => Ok(Self::Exactly(count)),
            _ => Err(format!("expected auto, or a number from 1 to {MOST}")),
        }
    }
}

/// What has become of each place, and what follows from it.
#[derive(Debug)]
struct Roll {
    /// How the last worker of each place has ended; `None` while one runs.
    places: BTreeMap<u32, Option<u8>>,
    /// Places to fill again, and when.
    due: Vec<(Instant, u32)>,
    restarts: u32,
    stopping: bool,
}

impl Roll {
    fn new(count: u32, restarts: u32) -> Self {
        let places = (0..count).map(|place| (place, None)).collect();
        Self { places, due: Vec::new(), restarts, stopping: false }
    }

    /// A worker has ended; whether another comes in its place.
    fn ended(&mut self, place: u32, code: u8, now: Instant) -> bool {
        self.places.insert(place, Some(code));
        if code == 0 {
            // The run is complete.
            self.stop();
        }
        // 64, 65 and 78 would end the same way again.
        let again = !self.stopping && matches!(code, 70 | 75) && self.restarts > 0;
        if again {
            self.restarts -= 1;
            self.due.push((now + PAUSE, place));
        }
        again && !self.is_over()
    }

    /// Nobody is started any more.
    fn stop(&mut self) {
        self.stopping = true;
        self.due.clear();
    }

    /// Whether nobody runs.
    fn is_over(&self) -> bool {
        self.places.values().all(Option::is_some)
    }

    /// The next place to fill, and when.
    fn next_due(&self) -> Option<(Instant, u32)> {
        self.due.iter().min().copied()
    }

    /// A place has a worker again.
    fn filled(&mut self, place: u32) {
        self.due.retain(|(_, due)| *due != place);
        self.places.insert(place, None);
    }

    /// The exit code of all together: complete for one is complete, and who may be started again asks for it.
    fn code(&self) -> u8 {
        let codes: Vec<u8> = self.places.values().copied().flatten().collect();
        match codes.contains(&0) {
            true => 0,
            false if codes.contains(&75) => 75,
            false => codes.first().copied().unwrap_or(70),
        }
    }
}

/// The exit code that a process stands for: one that a signal ended is lost.
fn code_of(status: io::Result<ExitStatus>) -> u8 {
    status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok()).unwrap_or(70)
}

/// How many workers this machine gets: those that are asked for, or one for each GPU that this program can use.
///
/// # Errors
/// This program cannot be started again.
pub async fn count(size: Size, may_use_gpus: bool) -> io::Result<u32> {
    match size {
        Size::Exactly(count) => Ok(count),
        Size::Auto if !may_use_gpus => Ok(1),
        Size::Auto => {
            // A process of its own: this one is to hold no GPU.
            let asked = Command::new(std::env::current_exe()?).arg("--list-devices").stdin(Stdio::null()).output();
            let listed =
                String::from_utf8_lossy(&asked.await?.stdout).lines().filter(|it| it.starts_with("cuda:")).count();
            // Where there is none that can be used, the one worker says why.
            Ok(u32::try_from(listed).unwrap_or(MOST).clamp(1, MOST))
        }
    }
}

/// Runs `count` workers until all have ended, lost ones started again at most `restarts` times in all; returns the exit
/// code. SIGTERM and SIGINT are passed on, and end the repetition. Must be awaited on the main thread, with which the
/// workers end.
///
/// # Errors
/// No process can be started at first; those that run are killed. Later it is said, and its place is empty.
pub async fn run(count: u32, restarts: u32) -> io::Result<u8> {
    let mut stops = stop_requests()?;
    // Resolved once: a file that is replaced while the workers run is no reason to end them.
    let program = std::env::current_exe()?;
    let (mut roll, mut exits, mut running) = (Roll::new(count, restarts), JoinSet::new(), BTreeMap::new());
    for place in 0..count {
        running.insert(place, start(&program, (place, count), &mut exits)?);
    }
    while !roll.is_over() {
        let due = roll.next_due();
        tokio::select! {
            Some(Ok((place, status))) = exits.join_next() => {
                running.remove(&place);
                let code = code_of(status);
                if roll.ended(place, code, Instant::now()) {
                    say(&format!("worker {place} of this machine ended with {code}; it is started again"));
                }
            }
            Some(()) = stops.recv() => {
                roll.stop();
                running.values().for_each(|pid| terminate(*pid));
            }
            Some(place) = at(due) => {
                roll.filled(place);
                match start(&program, (place, count), &mut exits) {
                    Ok(pid) => drop(running.insert(place, pid)),
                    Err(error) => {
                        say(&format!("worker {place} of this machine cannot be started: {}: {error}", program.display()));
                        roll.ended(place, 70, Instant::now());
                    }
                }
            }
        }
    }
    Ok(roll.code())
}

/// The place that is due, once it is; `None` where none is.
async fn at(due: Option<(Instant, u32)>) -> Option<u32> {
    let (due, place) = due?;
    tokio::time::sleep_until(due).await;
    Some(place)
}

/// Starts the worker of a place, by this process's own arguments; returns its process id.
fn start(
    program: &Path,
    (place, count): (u32, u32),
    exits: &mut JoinSet<(u32, io::Result<ExitStatus>)>,
) -> io::Result<u32> {
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--parent", &std::process::id().to_string()])
        .env("LOCAL_RANK", place.to_string())
        .env("LOCAL_WORLD_SIZE", count.to_string())
        .stdin(Stdio::null())
        // A group of their own: a signal for this one's reaches them once, by way of this.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().unwrap_or_default();
    exits.spawn(async move { (place, child.wait().await) });
    Ok(pid)
}

fn terminate(pid: u32) {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // One that has just ended needs no signal.
    known.and_then(|pid| kill_process(pid, Signal::TERM).ok());
}

fn stop_requests() -> io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(4);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // A full queue holds enough requests already.
                sender.try_send(()).ok();
            }
        });
    }
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_auto_or_a_number() {
        assert_eq!(("auto".parse(), "8".parse()), (Ok(Size::Auto), Ok(Size::Exactly(8))));
        for text in ["", "0", "-1", "1025", "all"] {
            assert!(text.parse::<Size>().unwrap_err().contains("1024"), "{text}");
        }
    }

    #[test]
    fn who_is_lost_comes_back_while_others_live_and_not_too_often() {
        let now = Instant::now();
        let mut roll = Roll::new(3, 3);
        assert!(roll.ended(1, 70, now) && roll.ended(2, 75, now));
        assert_eq!(roll.next_due(), Some((now + PAUSE, 1)));
        roll.filled(1);
        roll.filled(2);
        assert!(!roll.ended(0, 78, now), "it would be refused again");
        assert!(roll.ended(1, 70, now));
        roll.filled(1);
        assert!(!roll.ended(1, 70, now), "that was often enough");
        assert!(!roll.is_over());
        assert!(!roll.ended(2, 0, now) && roll.is_over() && roll.next_due().is_none());
        assert_eq!(roll.code(), 0, "the run is complete");
    }

    #[test]
    fn where_all_end_nobody_is_started() {
        let now = Instant::now();
        let mut roll = Roll::new(2, 9);
        assert!(roll.ended(0, 75, now), "the other lives");
        assert!(!roll.ended(1, 75, now) && roll.is_over());
        assert_eq!(roll.code(), 75);
        let mut roll = Roll::new(2, 9);
        roll.ended(0, 75, now);
        roll.stop();
        assert_eq!(roll.next_due(), None, "asked to end, nobody is started");
        assert!(!roll.ended(1, 70, now));
        assert_eq!(roll.code(), 75);
        let mut roll = Roll::new(3, 9);
        assert!(roll.ended(2, 70, now));
        assert!(!roll.ended(0, 0, now) && !roll.ended(1, 70, now), "the run is complete");
        assert_eq!(roll.next_due(), None);
        let mut roll = Roll::new(2, 9);
        roll.ended(1, 64, now);
        roll.ended(0, 78, now);
        assert_eq!(roll.code(), 78);
    }
}
