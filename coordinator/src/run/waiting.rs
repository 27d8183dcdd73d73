//! What a run waits for, in words.

use medley_common::identity::WorkerId;

use super::{Phase, Run};

/// Workers that are named at most.
const NAMED: usize = 4;

impl Run {
    /// What the run waits for; nothing while updates are made or rows predicted.
    pub(super) fn waiting(&self) -> Vec<String> {
        match &self.phase {
            Phase::Gathering(_) if self.awaits_return() => {
                vec![format!("those that hold update {} to come back", self.progress.done)]
            }
            Phase::Gathering(_) if self.selecting.awaits_choice() => {
                vec!["the best model to be read back from the disk".to_owned()]
            }
            Phase::Gathering(gathering) => {
                let ready = self.roster.ready().len();
                let mut reasons = vec![format!("workers: {ready} of {} are ready", gathering.needed)];
                let preparing = self.roster.all(|member| member.welcomed && member.prepared.is_none());
                reasons.extend(self.named(preparing, "to fetch the data and build its model"));
                reasons
            }
            Phase::Forming(_) => vec!["the workers to connect to each other".to_owned()],
            Phase::Disbanding(_) => self.named(self.roster.ranked(), "to leave its group"),
            Phase::Saving => vec![format!("update {} to be saved", self.progress.done)],
            Phase::Training(_) if !self.is_moving() && self.progress.recorded < self.progress.done => {
                vec![format!("update {} to be in the ledger", self.progress.recorded.next())]
            }
            Phase::Idle => vec!["rows to predict".to_owned()],
            Phase::Training(_) | Phase::Evaluating(_) | Phase::Finished(_) => Vec::new(),
        }
    }

    /// A line for each worker, up to a number.
    fn named(&self, workers: Vec<WorkerId>, what: &str) -> Vec<String> {
        let more = workers.len().saturating_sub(NAMED);
        let line = |worker: WorkerId| format!("{} {what}", self.roster.describe(worker));
        let lines = workers.into_iter().take(NAMED).map(line);
        lines.chain((more > 0).then(|| format!("{more} more {what}"))).collect()
    }
}
