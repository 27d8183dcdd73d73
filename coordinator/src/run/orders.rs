//! What an operator orders beside an end.

use std::time::Instant;

use medley_common::identity::WorkerId;

use super::action::Task;
use super::{Action, Phase, Run, SavePurpose};

impl Run {
    /// Has the state saved at the next rest, which comes when the updates under way are done.
    pub(super) fn checkpoint_requested(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // What is being saved is the newest that there is.
        self.save_asked = self.job.training.is_some() && !self.is_being_saved();
        if matches!(self.phase, Phase::Training(_)) && !self.is_moving() && self.save_asked {
            self.go_on(now, actions);
        }
    }

    /// At rest: puts the save that was asked for on the agenda, unless there is one, or nothing to save.
    pub(super) fn save_if_asked(&mut self) {
        let asked = std::mem::take(&mut self.save_asked);
        let is_due = self.agenda.iter().any(|task| matches!(task, Task::Save(_) | Task::Stop | Task::Finish(_)));
        if asked && !is_due && !self.is_being_saved() && self.progress.done > self.progress.saved {
            // After an evaluation that is due here, as ever.
            self.agenda.push_back(Task::Save(SavePurpose::Checkpoint));
        }
    }

    /// Has a worker leave, as if its system had asked it to.
    pub(super) fn drain_requested(&mut self, now: Instant, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some((leaving, welcomed)) = self.roster.get(worker).map(|member| (member.leaving, member.welcomed)) else {
            return;
        };
        if leaving {
            return;
        }
        if welcomed {
            return self.leaves(now, worker, actions);
        }
        // It only waits for a place.
        self.let_go(worker, "an operator has sent it away".to_owned(), actions);
    }
}
