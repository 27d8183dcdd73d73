//! What a coordinator counts from when its process starts, for whoever watches many runs.

use std::collections::BTreeMap;

use medley_common::identity::Update;
use medley_proto::v1;

use crate::run::{Action, Input};

/// Counters; none ever falls.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    updates: u64,
    rows: u64,
    tokens: u64,
    groups: u64,
    checkpoints: u64,
    /// Updates in the newest checkpoint.
    newest: Update,
    faults: BTreeMap<v1::Fault, u64>,
}

impl Counts {
    /// Counts what happened; a worker that left is one that was `lost` where it took part.
    pub fn heard(&mut self, input: &Input, lost: bool) {
        match input {
            Input::Left(..) if lost => self.fault(v1::Fault::WorkerLost),
            // The best model, which is loaded in the end, was counted when it was saved.
            Input::Based(base) if base.update > self.newest => {
                self.checkpoints += 1;
                self.newest = base.update;
            }
            _ => {}
        }
    }

    /// Counts what is done about it.
    pub fn did(&mut self, action: &Action) {
        match action {
            Action::Record(record) => {
                self.updates += 1;
                self.rows += record.lanes.iter().map(|lane| lane.len() as u64).sum::<u64>();
                self.tokens += record.tokens;
            }
            Action::Group(_) => self.groups += 1,
            Action::Replace(..) | Action::Part(_) => self.fault(v1::Fault::WorkerSilent),
            // Its session broke, and it came back before that was noticed.
            Action::Close(_) => self.fault(v1::Fault::WorkerLost),
            Action::Refuse(..) => self.fault(v1::Fault::WorkerRefused),
            Action::Rewind(to, _) => {
                self.newest = self.newest.min(*to);
                self.fault(v1::Fault::Rewind);
            }
            _ => {}
        }
    }

    /// Counts that something went wrong.
    pub fn fault(&mut self, fault: v1::Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

impl From<&Counts> for v1::Counts {
    fn from(counts: &Counts) -> Self {
        let Counts { updates, rows, tokens, groups, checkpoints, .. } = *counts;
        let fault = |(fault, count): (&v1::Fault, &u64)| v1::FaultCount { fault: (*fault).into(), count: *count };
        Self { updates, rows, tokens, groups, checkpoints, faults: counts.faults.iter().map(fault).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_common::identity::{Update, WorkerId};

    #[test]
    fn only_who_took_part_is_lost() {
        let mut counts = Counts::default();
        let left = Input::Left(WorkerId(1), "its connection broke".to_owned());
        counts.heard(&left, false);
        counts.heard(&left, true);
        counts.did(&Action::Rewind(Update(3), String::new()));
        let told = v1::Counts::from(&counts).faults;
        let expected = [(v1::Fault::WorkerLost, 1), (v1::Fault::Rewind, 1)];
        assert_eq!(told.iter().map(|it| (it.fault(), it.count)).collect::<Vec<_>>(), expected);
    }
}
