//! Something that happened to a run beside its updates, as a live page shows it: without reasons, which may name machines.

use serde::Serialize;

use crate::archive::{Change, Event, What};

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "Told")]
pub struct Moment {
    /// Updates done.
    pub update: u64,
    /// When, in seconds since 1970; `None` where it was in an earlier process.
    pub at: Option<u64>,
    /// What it was.
    pub kind: Kind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A group was connected: its workers, those that are lost and those that are new beside the one before.
    Group {
        /// Its workers.
        workers: usize,
        /// Those of the group before that are not in it.
        lost: usize,
        /// Those that were not in the group before.
        joined: usize,
    },
    /// The next update was made again.
    Retry {
        /// In which attempt.
        attempt: u32,
    },
    /// Training went back.
    Rewind {
        /// To this update.
        to: u64,
    },
    /// A checkpoint was saved: that of the moment's update.
    Checkpoint,
}

/// A moment as a page is told it.
#[derive(Serialize)]
struct Told {
    update: u64,
    at: Option<u64>,
    mood: &'static str,
    words: String,
    #[serde(flatten)]
    kind: Kind,
}

impl From<Moment> for Told {
    fn from(moment: Moment) -> Self {
        let Moment { update, at, kind } = moment;
        Self { update, at, mood: moment.mood(), words: moment.words(), kind }
    }
}

impl Moment {
    /// What an event was, and when.
    #[must_use]
    pub fn of(event: &Event, at: Option<u64>) -> Self {
        let kind = match event.what {
            What::Group(Change { workers, lost, joined }) => Kind::Group { workers, lost, joined },
            What::Retry(attempt) => Kind::Retry { attempt },
            What::Rewind { to, .. } => Kind::Rewind { to: to.0 },
            What::Checkpoint => Kind::Checkpoint,
        };
        Self { update: event.update.0, at, kind }
    }

    /// Of what kind it is, in a word: `saved`, `lost` or `joined`.
    #[must_use]
    pub fn mood(&self) -> &'static str {
        match self.kind {
            Kind::Checkpoint => "saved",
            Kind::Group { lost: 0, .. } => "joined",
            Kind::Group { .. } | Kind::Retry { .. } | Kind::Rewind { .. } => "lost",
        }
    }

    /// What happened, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let workers = |count: usize| if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") };
        match self.kind {
            Kind::Group { workers: all, lost: 0, joined: 0 } => format!("{} connected", workers(all)),
            Kind::Group { workers: all, lost: 0, joined } => format!("{} joined: {all} train", workers(joined)),
            Kind::Group { workers: all, lost, joined: 0 } => format!("{} lost: {all} train on", workers(lost)),
            Kind::Group { workers: all, lost, joined } => {
                format!("{} lost, {joined} joined: {all} train", workers(lost))
            }
            Kind::Retry { attempt } => format!("update {} made in attempt {attempt}", self.update + 1),
            Kind::Rewind { to } => format!("back to update {to}"),
            Kind::Checkpoint => "checkpoint saved".to_owned(),
        }
    }
}
