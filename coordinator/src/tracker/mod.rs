//! Where a run's log goes beside its own files: to trackers, as `--report_to` names them.
//!
//! A tracker is a file behind one trait, and a line in the table. The recorder reports what is in the ledger and nothing else:
//! every line of the log, every evaluation, the summary, and the way back where training goes back. Each tracker works in a
//! thread of its own, so that one that is slow, dead or on a full disk costs its report, and never the run.

mod courier;
mod jsonl;
mod mlflow;
mod point;
mod shown;
mod subject;
mod tensorboard;
mod tracking;
mod trouble;

use std::fmt::Debug;
use std::sync::Arc;

pub use point::Point;
pub use shown::Shown;
pub use subject::Subject;
pub use tracking::{Tell, Tracking};
pub use trouble::Trouble;

use crate::archive::LogEntry;
use crate::run::report::Outcome;

/// All trackers. A new one is a file, and a line here.
const KINDS: &[Kind] = &[tensorboard::KIND, jsonl::KIND, mlflow::KIND];

/// How one is made for a run.
type Opening = fn(&Arc<Subject>) -> Result<Box<dyn Tracker>, String>;

/// A kind of tracker.
struct Kind {
    /// What it is called behind `--report_to`.
    name: &'static str,
    /// Makes one for a run. It looks at the environment, and at nothing else: no disk, no network.
    open: Opening,
}

/// One tracker of one run. All of its methods block, and may be called again where they have failed.
trait Tracker: Debug + Send {
    /// What it calls a value that Hugging Face logs under `name`.
    fn key(&self, name: &str) -> String;

    /// Takes up the run where `start` says, with nothing of what came later; what it shows is said.
    ///
    /// # Errors
    /// It cannot, for now or for good.
    fn begin(&mut self, start: &Start) -> Result<Begun, Trouble>;

    /// Shows points, in order, whose values have its own names.
    ///
    /// # Errors
    /// None of them may be shown; those that are may be shown again.
    fn show(&mut self, points: &[Point]) -> Result<(), Trouble>;

    /// Training has gone back to the update `kept`: takes back what was shown of later ones, and notes in `shown` what is
    /// left. One that cannot leaves it all, as the same updates come to the same values again.
    ///
    /// # Errors
    /// It cannot, for now or for good.
    fn rewind(&mut self, kept: u64, shown: &mut Shown) -> Result<(), Trouble>;

    /// The process ends, and with it, or for now, the run.
    ///
    /// # Errors
    /// It cannot be told, for now or for good.
    fn end(&mut self, ending: Ending) -> Result<(), Trouble>;
}

/// Where a run begins, or goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The update through which what was shown before stands; `None` where the run begins.
    pub kept: Option<u64>,
    /// What was logged through it.
    pub history: Vec<Point>,
}

impl Start {
    /// That of a run that goes on after the update `kept`, and has logged these entries before; they get the present time, as
    /// nobody knows theirs.
    #[must_use]
    pub fn after(kept: Option<u64>, entries: &[LogEntry]) -> Self {
        let time = now_seconds();
        Self { kept, history: entries.iter().map(|entry| Point::of(entry, time)).collect() }
    }
}

/// What a tracker finds where it begins.
#[derive(Debug)]
struct Begun {
    /// For people: where to look.
    place: String,
    /// What it shows already.
    shown: Shown,
}

/// How a process of a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The run is complete.
    Completed,
    /// It was stopped, and may go on.
    Stopped,
    /// It failed.
    Failed,
}

impl From<&Outcome> for Ending {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Stopped { .. } => Self::Stopped,
            Outcome::Failed(_) => Self::Failed,
        }
    }
}

/// The trackers that there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// Seconds since 1970.
fn now_seconds() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
