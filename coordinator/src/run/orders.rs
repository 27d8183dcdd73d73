//! What an operator orders beside an end.

use std::time::Instant;

use medley_common::identity::WorkerId;

use super::{Action, Run};

impl Run {
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
        self.roster.remove(worker);
        actions.push(Action::Dismiss(worker, "an operator has sent it away".to_owned()));
    }
}
