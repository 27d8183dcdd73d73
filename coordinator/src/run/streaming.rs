//! Rows that come while the run goes on, chunk after chunk. Each is predicted as the test split, by a group that stays.

use std::time::Instant;

use medley_common::identity::Split;

use super::action::Task;
use super::{Action, Occasion, Phase, Run, SplitRows};

impl Run {
    /// Has the next chunk predicted: at once where a group waits for it, else when one stands.
    pub(super) fn offered(&mut self, now: Instant, rows: SplitRows, actions: &mut Vec<Action>) {
        self.job.test = Some(rows);
        // The same split, but other rows.
        self.evaluated = None;
        self.agenda.push_back(Task::Evaluate(Split::Test, Occasion::End));
        if matches!(self.phase, Phase::Idle) {
            self.go_on(now, actions);
        }
    }
}

#[cfg(test)]
#[path = "streaming_test.rs"]
mod tests;
