//! When the status is told anew. With many workers it is a long one, and something happens all the time: it is published so
//! often that it takes a small part of the driver's time, which for a few workers is as good as always.

use std::time::{Duration, Instant};

use medley_common::identity::WorkerId;
use medley_common::message::Command;
use medley_proto::v1;

use super::{Driver, Ties};
use crate::live::{Live, Moment};
use crate::recorder::Entry;
use crate::run::Action;
use crate::status_view;

/// How many times as long as it took to publish it nothing new is published.
const PAUSE: u32 = 10;
/// The longest time that nothing new is published for: the driver may have been held up meanwhile, by its system or by
/// somebody who reads, and that says nothing of what it costs.
const LONGEST: Duration = Duration::from_millis(50);

/// Things that happened of which the status tells: it is told often, and whoever wants all of them looks at the page.
const MOMENTS: usize = 8;

/// What is known of the status that was published last.
#[derive(Debug, Default)]
pub(super) struct Publication {
    /// Whether something has happened since.
    pub(super) stale: bool,
    /// From when on it may be published again; `None` before the first time.
    rested: Option<Instant>,
}

impl Publication {
    /// When the status is to be published again, if something has happened since.
    pub(super) fn due(&self) -> Option<Instant> {
        self.rested.filter(|_| self.stale)
    }

    /// Whether that is so by `now`.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.rested.is_none() || self.due().is_some_and(|at| at <= now)
    }
}

impl Driver {
    /// Adds what the run is about to have done to what is told of it: whoever reads a line of the run's and asks finds what it
    /// says. What the driver says by itself, as that it is asked to stop, may come before the status.
    pub(super) fn tell_ahead(&self, actions: &[Action], ties: &mut Ties) {
        let now = Instant::now();
        actions.iter().for_each(|action| self.tell_of(now, action, ties));
        if actions.iter().any(|action| self.is_read(now, action)) {
            self.publish(ties);
        }
    }

    /// Whether a line comes of it.
    fn is_read(&self, now: Instant, action: &Action) -> bool {
        match action {
            Action::Refuse(..) | Action::Order(_, Command::Welcome(_)) => true,
            Action::Notice(_) | Action::Warning(_) | Action::Log(_) | Action::Publish(..) => true,
            Action::Record(record) => self.display.is_milestone(record, self.run.total(), now),
            _ => false,
        }
    }

    /// Adds what is done to what is told of the run so far.
    fn tell_of(&self, now: Instant, action: &Action, ties: &mut Ties) {
        ties.counts.did(action);
        if matches!(action, Action::Summarise(..) | Action::Publish(..)) {
            self.record(Entry::Memory(ties.memory), ties);
        }
        let mut rows_per_second = None;
        if let Action::Record(record) = action {
            ties.meter.update(now, record);
            rows_per_second = ties.meter.rates().map(|rates| rates.rows);
        }
        self.chronicle.send_if_modified(|chronicle| chronicle.did(action));
        self.live.send_if_modified(|live| live.did(action, rows_per_second));
    }

    /// Tells whoever asks how the run stands.
    pub(super) fn publish(&self, ties: &mut Ties) {
        let start = Instant::now();
        let status = status_view::of(&self.run.view(), &ties.meter, self.started, start);
        let (paused, counts) = (ties.paused.clone(), Some(v1::Counts::from(&ties.counts)));
        let moments = moments(&self.live.borrow());
        self.status.send_replace(v1::Status { paused, stopping: ties.stopping, counts, moments, ..status });
        ties.publication = Publication { stale: false, rested: Some(Instant::now() + pause(start.elapsed())) };
    }
}

impl Ties {
    /// A worker says how much memory it has taken.
    pub(super) fn took(&mut self, worker: WorkerId, peak: v1::MemoryPeak) {
        // Others may say anything.
        if self.welcomed.contains(&worker) {
            self.memory.heard(peak);
        }
    }
}

/// The last things that happened.
fn moments(live: &Live) -> Vec<v1::Moment> {
    let moments = &live.picture().moments;
    let told = |moment: &Moment| v1::Moment {
        update: moment.update,
        at_seconds: moment.at,
        words: moment.words(),
        mood: moment.mood().to_owned(),
    };
    moments.iter().skip(moments.len().saturating_sub(MOMENTS)).map(told).collect()
}

/// For how long nothing new is published after what took so long.
fn pause(taken: Duration) -> Duration {
    taken.saturating_mul(PAUSE).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_first_and_then_where_something_has_happened_and_it_has_rested() {
        let now = Instant::now();
        assert!(Publication::default().is_due(now));
        let rested = Some(now + Duration::from_millis(5));
        assert!(!Publication { stale: false, rested }.is_due(now + Duration::from_secs(1)));
        let stale = Publication { stale: true, rested };
        assert!(!stale.is_due(now) && stale.is_due(now + Duration::from_millis(5)));
        assert_eq!(pause(Duration::from_micros(7)), Duration::from_micros(70));
        assert_eq!(pause(Duration::MAX), LONGEST);
        assert_eq!((stale.due(), Publication { stale: false, rested }.due()), (rested, None));
    }
}
