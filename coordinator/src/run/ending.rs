//! How a run ends before its work is done: stops, losses, failures.

use std::collections::VecDeque;
use std::time::Instant;

use medley_common::identity::WorkerId;
use medley_common::message::{Command, Failure, FailureKind, Verdict};

use super::action::Task;
use super::report::Outcome;
use super::{Action, Occasion, Phase, Run, SavePurpose};

impl Run {
    pub(super) fn stop_requested(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.stopping = true;
        match &self.phase {
            // Too few to go on, but perhaps enough to save what they hold.
            Phase::Gathering(_) if self.progress.done > self.progress.saved => self.reform(now, actions),
            // Before anything is trained, and after its state is saved, there is nothing to wait for.
            Phase::Gathering(_) => self.finish(self.stopped(), actions),
            Phase::Forming(_) if !self.formed && self.progress.done <= self.progress.saved => {
                self.finish(self.stopped(), actions);
            }
            // All that was trained is saved by then: a result that is not waited for can be asked for again.
            Phase::Evaluating(evaluating) if evaluating.occasion == Occasion::End => {
                self.finish(self.stopped(), actions);
            }
            Phase::Idle => self.finish(self.stopped(), actions),
            // Workers come to rest where they may not go on, or when their share is done.
            Phase::Training(_) if !self.is_moving() => self.go_on(now, actions),
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) => {}
            Phase::Disbanding(_) | Phase::Finished(_) => {}
        }
    }

    /// What is left to do once a stop is requested: nothing that is trained may be lost, nor an evaluation that a
    /// resumed run, which starts after it, would never make up for.
    pub(super) fn stop_agenda(&self) -> VecDeque<Task> {
        let is_saved = self.progress.done <= self.progress.saved || self.is_being_saved();
        let due = |task: &&Task| match task {
            Task::Evaluate(_, Occasion::Training) => true,
            // What training came to is said when its model is there.
            Task::Summarise => is_saved,
            Task::Evaluate(_, Occasion::End) | Task::Save(_) | Task::LoadBest | Task::Finish(_) | Task::Stop => false,
        };
        let save = (!is_saved).then_some(Task::Save(SavePurpose::Checkpoint));
        self.agenda.iter().filter(due).cloned().chain(save).chain([Task::Stop]).collect()
    }

    /// How the run stands when it is stopped now.
    pub(super) fn stopped(&self) -> Outcome {
        // Once the best model is loaded, all that was trained is on the disk.
        let saved = if self.selecting.has_loaded() { self.reached() } else { self.progress.saved };
        Outcome::Stopped { update: self.reached(), saved: Some(saved).filter(|update| update.0 > 0) }
    }

    pub(super) fn elapsed(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let limit = self.job.patience.heartbeat;
        if let Some((worker, heard)) = self.roster.quietest().filter(|(_, heard)| now >= *heard + limit) {
            let silence = format!("it was not heard of for {:.1} s", (now - heard).as_secs_f64());
            if self.may_be_cut_off(now, worker) {
                actions.push(Action::Part(worker));
            } else {
                self.renounce(worker);
                actions.push(Action::Replace(worker, format!("{silence} and has been replaced; start it again")));
            }
            return self.lose(now, worker, &silence, actions);
        }
        if let Some((worker, _)) = self.surplus().filter(|(_, since)| now >= *since + limit) {
            let workers = self.job.workers;
            let reason = format!("the group is full: {workers} of {workers} workers have joined");
            // One that had a place here may be started again, as any other that has lost it.
            return match self.names_of(worker).is_empty() {
                true => self.refuse(worker, reason, actions),
                false => self.let_go(worker, reason, actions),
            };
        }
        let join = self.job.patience.join;
        match &self.phase {
            Phase::Gathering(_) if self.awaits_disk() => {}
            Phase::Gathering(gathering) if gathering.returns.is_some_and(|until| now >= until) => {
                self.give_up_waiting(now, actions);
            }
            Phase::Gathering(gathering) if now >= gathering.since + join => {
                let needed = gathering.needed;
                self.refresh_shards(actions);
                let ready = self.roster.ready();
                // Those that do not come with the best model are waited for no longer than that.
                match self.is_renewing() && ready.len() >= self.job.min_workers.max(1) as usize {
                    true => self.form(ready, actions),
                    false => self.too_few(needed, actions),
                }
            }
            Phase::Disbanding(disbanding) if now >= disbanding.since + join => {
                if let Some(worker) = self.roster.ranked().first().copied() {
                    let why = format!("it did not leave its group within {} s", join.as_secs());
                    actions.push(Action::Replace(worker, why.clone()));
                    self.renounce(worker);
                    self.lose(now, worker, &why, actions);
                }
            }
            _ => {}
        }
    }

    /// Who waits for a place the longest, and since when; while places are kept for those that may come back, nobody is
    /// one too many.
    pub(super) fn surplus(&self) -> Option<(WorkerId, Instant)> {
        self.roster.waiting().filter(|_| !self.awaits_return())
    }

    /// Every wait begins anew: what came in the meantime is heard only now.
    pub(super) fn overslept(&mut self, now: Instant) {
        self.roster.wait_anew(now);
        match &mut self.phase {
            Phase::Gathering(gathering) => {
                gathering.since = now;
                gathering.returns = gathering.returns.map(|_| now + self.job.patience.reattach);
            }
            Phase::Disbanding(disbanding) => disbanding.since = now,
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) => {}
            Phase::Idle | Phase::Finished(_) => {}
        }
    }

    fn too_few(&mut self, needed: u32, actions: &mut Vec<Action>) {
        let (ready, join) = (self.roster.ready().len(), self.job.patience.join.as_secs());
        let start = "start others with medley-worker --coordinator";
        let failure = if self.formed {
            let back = self.way_back();
            let message = format!(
                "{ready} of {needed} workers were ready within {join} s after the others were lost; {start}, or lower \
                 --min_workers{back}"
            );
            Failure { kind: FailureKind::Lost, message }
        } else {
            let message =
                format!("{ready} of {needed} workers were ready within {join} s; {start}, or lower --workers");
            Failure { kind: FailureKind::Config, message }
        };
        self.fail(failure, actions);
    }

    pub(super) fn left(&mut self, now: Instant, worker: WorkerId, why: &str, actions: &mut Vec<Action>) {
        match self.roster.get(worker).map(|member| member.hello.is_some()) {
            None => {}
            // It never said who it was: nobody waits for it.
            Some(false) => {
                self.roster.remove(worker);
            }
            Some(true) => self.lose(now, worker, why, actions),
        }
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
        let failed = Failure { kind: failure.kind, message };
        let is_ranked = self.roster.is_ranked(worker);
        match failure.kind {
            FailureKind::Diverged if is_ranked => self.broken(failed, actions),
            // Another one would fail in the same way, unless this one came late to a run that works.
            FailureKind::Data | FailureKind::Config if !self.formed || is_ranked => self.fail(failed, actions),
            FailureKind::Data | FailureKind::Config | FailureKind::Internal | FailureKind::Lost => {
                self.lose(now, worker, &failure.message, actions);
            }
            FailureKind::Diverged => self.lose(now, worker, &failure.message, actions),
        }
    }

    /// Ends the run because of something outside the workers.
    pub(super) fn broken(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        let message = format!("{}{}", failure.message, self.way_back());
        self.fail(Failure { message, ..failure }, actions);
    }

    /// Ends the run.
    pub(super) fn fail(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        self.finish(Outcome::Failed(failure), actions);
    }

    pub(super) fn finish(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        let (reason, verdict) = match &outcome {
            Outcome::Completed => ("the run is complete".to_owned(), Verdict::Over),
            Outcome::Stopped { .. } => ("the run was stopped".to_owned(), Verdict::Released),
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
    pub(super) fn doing(&self) -> String {
        match &self.phase {
            Phase::Gathering(_) if !self.formed => "preparing".to_owned(),
            Phase::Gathering(_) | Phase::Disbanding(_) => format!("regrouping after update {}", self.progress.done),
            Phase::Forming(_) => "the workers connected to each other".to_owned(),
            Phase::Training(_) => format!("training update {}", self.progress.done.next()),
            Phase::Saving => format!("the state after update {} was saved", self.progress.done),
            Phase::Evaluating(_) if self.job.is_stream => "predicting".to_owned(),
            Phase::Evaluating(evaluating) => format!("predicting the {} split", evaluating.split),
            Phase::Idle => "rows to predict were waited for".to_owned(),
            Phase::Finished(_) => "the run ended".to_owned(),
        }
    }
}
