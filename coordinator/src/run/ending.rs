//! How a run ends before its work is done: stops, losses, failures.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use medley_common::identity::WorkerId;
use medley_common::message::{Command, Failure, FailureKind, Verdict};

use super::action::Task;
use super::report::Outcome;
use super::{Action, Occasion, Phase, Run, SavePurpose};

/// How long a lost connection between workers waits for the death that caused it to be seen.
const GRACE: Duration = Duration::from_secs(1);

/// A failure that may be the consequence of another.
#[derive(Debug)]
pub(super) struct Failing {
    failure: Failure,
    pub(super) until: Instant,
}

impl Run {
    pub(super) fn stop_requested(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let again = std::mem::replace(&mut self.stopping, true);
        match &self.phase {
            Phase::Failing(_) => {}
            _ if again => self.finish(self.stopped(), actions),
            Phase::Gathering | Phase::Forming(_) => {
                self.finish(self.stopped(), actions);
            }
            // All that was trained is saved by then: a result that is not waited for can be asked for again.
            Phase::Evaluating(evaluating) if evaluating.occasion == Occasion::End => {
                self.finish(self.stopped(), actions);
            }
            // Workers come to rest where they may not go on, or when their share is done.
            Phase::Training(_) if !self.is_moving() => self.go_on(now, actions),
            Phase::Training(_) | Phase::Saving(_) | Phase::Evaluating(_) | Phase::Finished(_) => {}
        }
    }

    /// What is left to do once a stop is requested: nothing that is trained may be lost, nor an evaluation that a
    /// resumed run, which starts after it, would never make up for.
    pub(super) fn stop_agenda(&self) -> VecDeque<Task> {
        let is_saved = self.progress.done <= self.progress.saved;
        let due = |task: &&Task| match task {
            Task::Evaluate(_, Occasion::Training) => true,
            // What training came to is said when its model is there.
            Task::Summarise => is_saved,
            Task::Evaluate(_, Occasion::End) | Task::Save(_) | Task::Finish(_) | Task::Stop => false,
        };
        let save = (!is_saved).then_some(Task::Save(SavePurpose::Checkpoint));
        self.agenda.iter().filter(due).cloned().chain(save).chain([Task::Stop]).collect()
    }

    /// How the run stands when it is stopped now.
    pub(super) fn stopped(&self) -> Outcome {
        let saved = Some(self.progress.saved).filter(|update| update.0 > 0);
        Outcome::Stopped { update: self.progress.done, saved }
    }

    pub(super) fn elapsed(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Phase::Failing(failing) = &self.phase {
            if now >= failing.until {
                let failure = failing.failure.clone();
                self.fail(failure, actions);
            }
            return;
        }
        let limit = self.job.patience.heartbeat;
        if let Some((worker, heard)) = self.roster.quietest().filter(|(_, heard)| now >= *heard + limit) {
            let why = format!("it was not heard of for {:.1} s", (now - heard).as_secs_f64());
            let in_group = self.roster.get(worker).is_some_and(|member| member.rank.is_some());
            if matches!(self.phase, Phase::Gathering) || !in_group {
                return self.refuse(worker, why, actions);
            }
            return self.lose(worker, &why, actions);
        }
        let join = self.job.patience.join;
        if matches!(self.phase, Phase::Gathering) && now >= self.started + join {
            let (ready, expected) = (self.roster.prepared(), self.job.workers);
            let message = format!(
                "{ready} of {expected} workers were ready within {} s; start the others with medley-worker \
                 --coordinator, or lower --workers",
                join.as_secs()
            );
            self.fail(Failure { kind: FailureKind::Config, message }, actions);
        }
    }

    pub(super) fn left(&mut self, worker: WorkerId, why: &str, actions: &mut Vec<Action>) {
        let Some(member) = self.roster.get(worker) else { return };
        if matches!(self.phase, Phase::Gathering) || member.rank.is_none() {
            // Its place is free: another may come, or the same one again.
            self.roster.remove(worker);
            return;
        }
        self.lose(worker, why, actions);
    }

    pub(super) fn worker_failed(
        &mut self,
        now: Instant,
        worker: WorkerId,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        let name = self.roster.describe(worker);
        let message = format!("{name} failed while {}: {}", self.doing(), failure.message);
        let failure = Failure { kind: failure.kind, message };
        match (&self.phase, failure.kind) {
            // A broken connection between workers is what survivors see of a death: wait for the death itself.
            (Phase::Failing(_), FailureKind::Lost) => {}
            (_, FailureKind::Lost) => {
                let message = format!("{}{}", failure.message, self.way_back());
                let failure = Failure { message, ..failure };
                self.phase = Phase::Failing(Failing { failure, until: now + GRACE });
            }
            (_, FailureKind::Internal) => self.broken(failure, actions),
            (_, FailureKind::Data | FailureKind::Config) => self.fail(failure, actions),
        }
    }

    /// Ends the run because of something outside the workers.
    pub(super) fn broken(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        let message = format!("{}{}", failure.message, self.way_back());
        self.fail(Failure { message, ..failure }, actions);
    }

    /// Ends the run because a worker of the group is gone.
    fn lose(&mut self, worker: WorkerId, why: &str, actions: &mut Vec<Action>) {
        let name = self.roster.describe(worker);
        let message = format!("{name} was lost while {}: {why}{}", self.doing(), self.way_back());
        self.roster.remove(worker);
        self.fail(Failure { kind: FailureKind::Lost, message }, actions);
    }

    /// Ends the run.
    pub(super) fn fail(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        self.finish(Outcome::Failed(failure), actions);
    }

    pub(super) fn finish(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        let (reason, verdict) = match &outcome {
            Outcome::Completed => ("the run is complete".to_owned(), Verdict::Over),
            Outcome::Stopped { .. } => ("the run was stopped".to_owned(), Verdict::Over),
            Outcome::Failed(failure) => (failure.message.clone(), Verdict::Failed),
        };
        let stop = |worker| Action::Order(worker, Command::Stop { reason: reason.clone(), verdict });
        actions.extend(self.roster.iter().map(|(worker, _)| stop(worker)));
        actions.push(Action::Finish(outcome.clone()));
        self.phase = Phase::Finished(outcome);
    }

    /// What to do after a failure.
    pub(super) fn way_back(&self) -> String {
        match (self.job.training.is_some(), self.progress.checkpoint.0) {
            (false, _) => String::new(),
            (true, 0) => "; there is no checkpoint to go on from, see --save_steps".to_owned(),
            (true, update) => format!("; the same command goes on from checkpoint-{update}"),
        }
    }

    /// What the run is doing, for a sentence.
    fn doing(&self) -> String {
        match &self.phase {
            Phase::Gathering => "preparing".to_owned(),
            Phase::Forming(_) => "the workers connected to each other".to_owned(),
            Phase::Training(_) => format!("training update {}", self.progress.done.next()),
            Phase::Saving(_) => format!("saving update {}", self.progress.done),
            Phase::Evaluating(evaluating) => format!("predicting the {} split", evaluating.split),
            Phase::Failing(_) | Phase::Finished(_) => "the run ended".to_owned(),
        }
    }
}
