//! What happened to a run beside its updates, as its ledger tells it.

use medley_common::identity::Update;

use crate::run::report::GroupRecord;

/// Something that happened, beside updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Updates done.
    pub update: Update,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A group of workers was connected.
    Group(Change),
    /// The next update was made again, after workers were lost: in this attempt.
    Retry(u32),
    /// Training went back to an update.
    Rewind {
        /// To which.
        to: Update,
        /// Why.
        reason: String,
    },
    /// A checkpoint was saved.
    Checkpoint,
}

/// What a new group is beside the one before it; nobody is lost or new in the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its workers.
    pub workers: usize,
    /// Those of the group before that are not in it.
    pub lost: usize,
    /// Those that are in it, and were not in the group before.
    pub joined: usize,
}

impl Change {
    /// From the group `before`, if there was one, to `group`.
    #[must_use]
    pub fn between(before: Option<&GroupRecord>, group: &GroupRecord) -> Self {
        let is_in = |group: &GroupRecord, worker| group.members.iter().any(|member| member.worker == worker);
        let without = |one: &GroupRecord, other: &GroupRecord| {
            one.members.iter().filter(|member| !is_in(other, member.worker)).count()
        };
        Self {
            workers: group.members.len(),
            lost: before.map_or(0, |before| without(before, group)),
            joined: before.map_or(0, |before| without(group, before)),
        }
    }
}
