//! All trackers of a run, for who has something to report.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::courier::{Courier, Report};
use super::{Ending, KINDS, Point, Start, Subject, Tracker, now_seconds};
use crate::archive::LogEntry;

/// How long trackers may take to bring what they have when the process ends.
const GRACE: Duration = Duration::from_secs(10);

/// Who is told what a person should know.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// The trackers of a run; none where none is asked for. Only [`Tracking::end`] waits for them.
#[derive(Default)]
pub struct Tracking {
    /// Those that have not begun.
    waiting: Vec<(&'static str, Box<dyn Tracker>)>,
    couriers: Vec<Courier>,
    tell: Option<Tell>,
}

impl fmt::Debug for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracking").field("waiting", &self.waiting).field("couriers", &self.couriers).finish()
    }
}

impl Tracking {
    /// Makes the trackers of these `names`; nothing is reported yet, and nothing looked for.
    ///
    /// # Errors
    /// The environment does not say what one needs.
    pub fn open(names: &[&'static str], subject: Subject) -> Result<Self, String> {
        let subject = Arc::new(subject);
        let asked = KINDS.iter().filter(|kind| names.contains(&kind.name));
        let waiting = asked.map(|kind| Ok((kind.name, (kind.open)(&subject)?))).collect::<Result<_, String>>()?;
        Ok(Self { waiting, ..Self::default() })
    }

    /// Begins to report, once, where the run begins or goes on; `start` is asked for only where there are trackers. What a
    /// person should know goes to `tell`.
    pub fn begin(&mut self, start: impl FnOnce() -> Start, tell: &Tell) {
        if self.waiting.is_empty() {
            return;
        }
        let start = start();
        let begun = self.waiting.drain(..);
        let begun = begun.map(|(name, tracker)| Courier::start(name, tracker, start.clone(), Arc::clone(tell)));
        self.couriers.extend(begun);
        self.tell = Some(Arc::clone(tell));
    }

    /// An entry of the log is in the ledger.
    pub fn log(&mut self, entry: &LogEntry) {
        if !self.couriers.is_empty() {
            self.report(&Report::Point(Point::of(entry, now_seconds())));
        }
    }

    /// What came after the update `kept` is void.
    pub fn rewind(&mut self, kept: u64) {
        self.report(&Report::Rewind(kept));
    }

    /// The process ends; waits for a while for the trackers to have all, and says what they do not have.
    pub fn end(mut self, ending: Ending) {
        self.report(&Report::End(ending));
        self.couriers.iter_mut().for_each(Courier::conclude);
        let deadline = Instant::now() + GRACE;
        let Some(tell) = self.tell else { return };
        self.couriers.into_iter().filter_map(|courier| courier.left(deadline)).for_each(|line| tell(line));
    }

    fn report(&mut self, report: &Report) {
        self.couriers.iter_mut().for_each(|courier| courier.take(report.clone()));
    }
}
