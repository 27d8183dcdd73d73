//! One tracker in a thread of its own: takes what is reported from a queue, and tries again what may pass.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use super::tracking::Tell;
use super::{Begun, Ending, Point, Shown, Start, Tracker, Trouble};

/// Reports that may wait for a tracker.
const QUEUED_REPORTS: usize = 4096;
/// Points that are shown at once.
const MOST_POINTS: usize = 64;
/// The first wait after something has failed; each is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What is reported.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Report {
    Point(Point),
    Rewind(u64),
    End(Ending),
}

/// How a courier has ended: why it gave up, if it did, and how many points it did not bring.
#[derive(Debug)]
struct Done {
    trouble: Option<Trouble>,
    left: u64,
}

/// The end of the thread that a run holds.
#[derive(Debug)]
pub(super) struct Courier {
    name: &'static str,
    /// `None` once the thread is known to have given up: it has said why.
    queue: Option<SyncSender<Report>>,
    /// Dropped when the process ends.
    over: Option<Sender<()>>,
    done: Receiver<Done>,
    /// Points that found no room.
    missed: u64,
}

impl Courier {
    /// Starts a thread that reports to `tracker` what is logged from `start` on; what a person should know goes to `tell`.
    pub(super) fn start(name: &'static str, tracker: Box<dyn Tracker>, start: Start, tell: Tell) -> Self {
        let (queue, reports) = mpsc::sync_channel(QUEUED_REPORTS);
        let (over, ended) = mpsc::channel();
        let (tell_done, done) = mpsc::channel();
        let mut round =
            Round { name, tracker, reports, ended, tell, shown: Shown::default(), is_over: false, told: false };
        std::thread::spawn(move || {
            let (trouble, mut left) = match round.go(&start) {
                Ok(()) => (None, 0),
                Err((trouble, left)) => (Some(trouble), left),
            };
            left += round.reports.try_iter().filter(|report| matches!(report, Report::Point(_))).count() as u64;
            if let Some(trouble) = trouble.as_ref().filter(|_| !round.is_over) {
                (round.tell)(format!("warning: {name}: {trouble}; nothing more is reported to it"));
            }
            // Told before the queue closes; nobody may listen any more.
            tell_done.send(Done { trouble, left }).ok();
        });
        Self { name, queue: Some(queue), over: Some(over), done, missed: 0 }
    }

    /// Hands a report over; never waits.
    pub(super) fn take(&mut self, report: Report) {
        let Some(queue) = &self.queue else {
            self.missed += u64::from(matches!(report, Report::Point(_)));
            return;
        };
        match queue.try_send(report) {
            Ok(()) => {}
            Err(TrySendError::Full(Report::Point(_))) => self.missed += 1,
            // What a tracker does not know to be void, it would show beside what comes instead.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.queue = None,
        }
    }

    /// Nothing more comes: what is under way is tried once more, and no longer waited with.
    pub(super) fn conclude(&mut self) {
        self.queue = None;
        self.over = None;
    }

    /// Waits until `deadline` for the tracker to have all; what it does not have, in words.
    pub(super) fn left(self, deadline: Instant) -> Option<String> {
        let Self { name, done, missed, .. } = self;
        let left = deadline.saturating_duration_since(Instant::now());
        let (trouble, left) = match done.recv_timeout(left) {
            Ok(Done { trouble, left }) => (trouble.map(|trouble| trouble.reason), left + missed),
            Err(RecvTimeoutError::Timeout) => (Some("it takes too long".to_owned()), missed),
            Err(RecvTimeoutError::Disconnected) => {
                (Some("the thread that reports panicked; its message stands above".to_owned()), missed)
            }
        };
        match (trouble, left) {
            (None, 0) => None,
            (None, left) => Some(format!("warning: {name} was too slow for {left} reports, which it does not have")),
            (Some(reason), 0) => Some(format!("warning: {name} was not told all: {reason}")),
            (Some(reason), left) => Some(format!("warning: {name} does not have {left} reports or more: {reason}")),
        }
    }
}

/// What the thread goes by.
struct Round {
    name: &'static str,
    tracker: Box<dyn Tracker>,
    reports: Receiver<Report>,
    /// Closed when the process ends.
    ended: Receiver<()>,
    tell: Tell,
    shown: Shown,
    is_over: bool,
    /// Whether a person has been told of trouble that may pass: once is enough.
    told: bool,
}

impl Round {
    /// Reports until the queue closes.
    ///
    /// # Errors
    /// What cannot be brought, and how many points that is.
    fn go(&mut self, start: &Start) -> Result<(), (Trouble, u64)> {
        let Begun { place, shown } =
            self.persist(|tracker| tracker.begin(start)).map_err(|trouble| (trouble, start.history.len() as u64))?;
        (self.tell)(format!("{} shows the run: {place}", self.name));
        self.shown = shown;
        for points in start.history.chunks(MOST_POINTS) {
            let mut points = points.iter().filter_map(|point| self.news(point.clone())).collect();
            self.show(&mut points)?;
        }
        let mut points = Vec::new();
        while let Ok(report) = self.reports.recv() {
            let mut next = Some(report);
            while let Some(report) = next {
                match report {
                    Report::Point(point) => points.extend(self.news(point)),
                    other => {
                        self.show(&mut points)?;
                        self.turn(&other).map_err(|trouble| (trouble, 0))?;
                    }
                }
                next = self.reports.try_recv().ok().filter(|_| points.len() < MOST_POINTS);
            }
            self.show(&mut points)?;
        }
        Ok(())
    }

    /// What of a point the tracker does not show yet, under its names.
    fn news(&mut self, point: Point) -> Option<Point> {
        let Point { step, time, values } = point;
        let values = values.into_iter().map(|(name, value)| (self.tracker.key(&name), value)).collect();
        self.shown.news(Point { step, time, values })
    }

    fn show(&mut self, points: &mut Vec<Point>) -> Result<(), (Trouble, u64)> {
        if !points.is_empty() {
            self.persist(|tracker| tracker.show(points)).map_err(|trouble| (trouble, points.len() as u64))?;
            points.clear();
        }
        Ok(())
    }

    fn turn(&mut self, report: &Report) -> Result<(), Trouble> {
        match report {
            Report::Point(_) => Ok(()),
            Report::Rewind(kept) => {
                let mut shown = self.shown.clone();
                self.persist(|tracker| tracker.rewind(*kept, &mut shown))?;
                self.shown = shown;
                Ok(())
            }
            Report::End(ending) => self.persist(|tracker| tracker.end(*ending)),
        }
    }

    /// Tries until it succeeds, fails for good, or the process ends.
    fn persist<T>(&mut self, mut act: impl FnMut(&mut dyn Tracker) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let (mut wait, mut failed) = (FIRST_WAIT, false);
        loop {
            let trouble = match act(&mut *self.tracker) {
                Ok(done) => {
                    if failed {
                        (self.tell)(format!("{} can be reported to again", self.name));
                    }
                    return Ok(done);
                }
                Err(trouble) => trouble,
            };
            if !trouble.may_pass || self.is_over {
                return Err(trouble);
            }
            if !std::mem::replace(&mut self.told, true) {
                (self.tell)(format!("warning: {}: {trouble}; its reports wait, and the run goes on", self.name));
                failed = true;
            }
            self.is_over = matches!(self.ended.recv_timeout(wait), Err(RecvTimeoutError::Disconnected));
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

#[cfg(test)]
#[path = "courier_test.rs"]
mod tests;
