//! The group changes: somebody was lost, has come or wants to go. All leave the group and stand by; then a new one is
//! formed of those that are there, and what was interrupted goes on.

use std::time::Instant;

use medley_common::identity::{Update, WorkerId};
use medley_common::message::{Command, Failure, FailureKind, Lanes, UpdateReport};

use super::action::Task;
use super::roster::Member;
use super::{Action, Phase, Run, SavePurpose};

/// How often a group may break without anybody being lost and without anything being done.
const FUTILE: u32 = 3;

/// Workers leave their group.
#[derive(Debug)]
pub(super) struct Disbanding {
    pub(super) since: Instant,
}

impl Run {
    /// Goes over to a new group if one is due and everybody is at rest.
    pub(super) fn rest(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A group that is still being formed, or predicts, comes to rest by itself.
        if self.changed && matches!(self.phase, Phase::Training(_) | Phase::Saving | Phase::Idle) && !self.is_moving() {
            self.go_on(now, actions);
        }
    }

    /// Dissolves the group wherever it is, and remembers what it was about.
    pub(super) fn interrupt(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match std::mem::replace(&mut self.phase, Phase::Forming(super::Forming::default())) {
            Phase::Training(training) => {
                self.progress.attempt += 1;
                self.untold = training.reports;
            }
            Phase::Evaluating(evaluating) => {
                self.agenda.push_front(Task::Evaluate(evaluating.split, evaluating.occasion));
                self.interrupted = Some(evaluating);
            }
            // What waits for the save still stands in the agenda.
            Phase::Saving | Phase::Idle => {}
            Phase::Forming(_) | Phase::Gathering(_) | Phase::Disbanding(_) | Phase::Finished(_) => {}
        }
        self.disband(now, actions);
    }

    /// Dissolves the group, as it stands.
    pub(super) fn disband(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let generation = self.generation;
        let order = |worker| Action::Order(worker, Command::Disband { generation });
        actions.extend(self.roster.ranked().into_iter().map(order));
        self.phase = Phase::Disbanding(Disbanding { since: now });
        self.disbanded(now, actions);
    }

    /// A worker's connections to its peers broke. Who was lost is seen elsewhere; the others leave at once.
    pub(super) fn disconnected(&mut self, now: Instant, worker: WorkerId, problem: &str, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Disbanding(_)) {
            return;
        }
        self.futile += 1;
        if self.futile > FUTILE {
            let name = self.roster.describe(worker);
            let see = match self.job.on_gpus {
                true => "see what NCCL says with NCCL_DEBUG=INFO, and NCCL_SOCKET_IFNAME",
                false => "see --collective_host and what stands between them",
            };
            let back = self.way_back();
            let message =
                format!("the workers cannot stay connected to each other; {name} says: {problem}; {see}{back}");
            return self.fail(Failure { kind: FailureKind::Lost, message }, actions);
        }
        self.interrupt(now, actions);
    }

    pub(super) fn stands_by(
        &mut self,
        now: Instant,
        worker: WorkerId,
        (update, kept): (Update, Lanes),
        actions: &mut Vec<Action>,
    ) {
        if let Some(member) = self.roster.get_mut(worker) {
            (member.rank, member.update, member.kept) = (None, update, kept);
        }
        self.disbanded(now, actions);
    }

    /// Reports on their way when the group was dissolved.
    pub(super) fn late_report(&mut self, worker: WorkerId, report: UpdateReport) {
        self.untold.entry(report.update).or_default().insert(worker, report);
    }

    /// Goes on once nobody is in the old group any more.
    pub(super) fn disbanded(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.roster.ranked().is_empty() {
            self.reform(now, actions);
        }
    }

    /// Everybody who held the newest state is gone: the run goes back to the newest one that is left.
    pub(super) fn rewind(&mut self, update: Update, actions: &mut Vec<Action>) {
        let lost = self.progress.done;
        let reason = format!("nobody holds update {lost} any more");
        actions.push(Action::Warning(format!("{reason}: the run goes on from update {update}")));
        actions.push(Action::Rewind(update, reason));
        self.unsave_after(update, actions);
        self.progress.rewind(update, self.job.training.as_ref());
        self.agenda.clear();
        self.interrupted = None;
        self.overdue = false;
        self.evaluated = self.evaluated.take().filter(|report| report.update <= update);
        self.evaluations.retain(|evaluation| evaluation.update <= update);
        self.selecting.rewind(update);
        if update >= self.end() && self.job.training.is_some() {
            self.agenda = self.results().chain([Task::Finish(super::Outcome::Completed)]).collect();
        }
    }

    /// Lets those go that want to, unless the newest state would go with them: then it is handed over, or saved, first.
    pub(super) fn dismiss_leavers(&mut self, actions: &mut Vec<Action>) {
        let leavers = self.roster.all(|member| member.leaving && member.rank.is_none());
        if leavers.is_empty() {
            return;
        }
        let done = self.progress.done;
        // Who holds no more than the disk takes nothing along.
        let base = self.base.update;
        let holds_nothing = |worker: &WorkerId| self.roster.get(*worker).is_some_and(|member| member.update <= base);
        let (idle, leavers): (Vec<_>, Vec<_>) = leavers.into_iter().partition(|it| done > base && holds_nothing(it));
        idle.into_iter().for_each(|worker| self.dismiss(worker, actions));
        if leavers.is_empty() {
            return;
        }
        let is_leaving = |worker: &WorkerId| self.roster.get(*worker).is_some_and(|member| member.leaving);
        let mut staying = self.roster.ready();
        staying.retain(|worker| !is_leaving(worker));
        // By whoever waits for the GPU of one of them as well.
        let holds = |member: &Member| member.is_ready() && !member.leaving && member.update == done;
        let is_held = !self.roster.all(holds).is_empty();
        if !is_held {
            // Another group with them, in which they hand it over.
            if !staying.is_empty() && self.roster.ready().len() >= self.needed() as usize {
                return;
            }
            if self.is_unsaved() {
                let goes_on = self.needs_workers();
                let suffices = |task: &Task| matches!(task, Task::Save(it) if it.is_checkpoint() || !goes_on);
                let is_next = self.is_being_saved() || self.agenda.front().is_some_and(suffices);
                if self.job.training.is_some() && !is_next {
                    self.save_first();
                }
                return;
            }
        }
        if self.leavers_hold_the_save() {
            return;
        }
        leavers.into_iter().for_each(|worker| self.dismiss(worker, actions));
    }

    fn dismiss(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        actions.push(Action::Notice(format!("{} left, as it was asked to end", self.roster.describe(worker))));
        self.let_go(worker, "it was asked to end, and the run needs it no more".to_owned(), actions);
    }

    /// Has a worker end, for whose return nobody waits.
    pub(super) fn let_go(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        self.forget(worker);
        actions.push(Action::Dismiss(worker, reason));
    }

    /// Takes a worker out that will not come back.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.renounce(worker);
        self.roster.remove(worker);
    }

    /// Waits for a worker no more, under whatever name.
    pub(super) fn renounce(&mut self, worker: WorkerId) {
        let names = self.names_of(worker).to_vec();
        let of_group = names.into_iter().chain([worker]).filter(|name| self.shares.contains_key(name));
        self.gone.extend(of_group);
    }

    /// Whether who comes later would not find the newest state: the final model alone is none to go on from, and there is
    /// no need of it where nothing is left that takes workers.
    fn is_unsaved(&self) -> bool {
        let newest = if self.needs_workers() { self.progress.checkpoint } else { self.progress.saved };
        // Whose model is the result is on the disk already.
        self.progress.done > newest && !self.selecting.awaits_choice() && !self.selecting.has_loaded()
    }

    /// Whether something is left to do that takes workers, a save apart.
    fn needs_workers(&self) -> bool {
        self.agenda.iter().any(|task| matches!(task, Task::Evaluate(..)))
    }

    /// Has the state saved before all else that is due, so that those who alone hold it may go.
    fn save_first(&mut self) {
        self.agenda.retain(|task| *task != Task::Save(SavePurpose::Checkpoint));
        for task in self.agenda.iter_mut().filter(|task| **task == Task::Save(SavePurpose::CheckpointAndFinal)) {
            *task = Task::Save(SavePurpose::Final);
        }
        self.agenda.push_front(Task::Save(SavePurpose::Checkpoint));
    }

    /// Whether the next thing to do is to save what only workers hold that want to go.
    pub(super) fn saves_for_leavers(&self) -> bool {
        let holders = self.roster.all(|member| member.prepared.is_some() && member.update == self.progress.done);
        let leaving = |worker: &WorkerId| self.roster.get(*worker).is_some_and(|member| member.leaving);
        matches!(self.agenda.front(), Some(Task::Save(_)))
            && self.is_unsaved()
            && !holders.is_empty()
            && holders.iter().all(leaving)
    }

    pub(super) fn leaves(&mut self, now: Instant, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some(member) = self.roster.get_mut(worker) else { return };
        if !member.welcomed {
            // It has no part in anything yet.
            return self.let_go(worker, "it was asked to end".to_owned(), actions);
        }
        member.leaving = true;
        self.asked_to_leave.insert(worker);
        match &self.phase {
            Phase::Gathering(_) => {
                // What it alone has reported is recorded before it goes.
                if !self.catch_up(now, actions) {
                    return;
                }
                self.dismiss_leavers(actions);
                // Those that alone hold the newest state are enough to save it.
                self.reform(now, actions);
            }
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) | Phase::Idle => {
                self.changed = true;
                self.rest(now, actions);
            }
            Phase::Disbanding(_) | Phase::Finished(_) => {}
        }
        self.admit(now, actions);
    }

    /// A worker is gone.
    pub(super) fn lose(&mut self, now: Instant, worker: WorkerId, why: &str, actions: &mut Vec<Action>) {
        let (name, doing) = (self.roster.describe(worker), self.doing());
        let was_ranked = self.roster.is_ranked(worker);
        let held_more = self.roster.remove(worker).is_some_and(|it| it.is_ready() && it.update > self.base.update);
        let left = self.roster.all(|member| member.welcomed).len();
        actions.push(Action::Warning(format!("{name} was lost while {doing}: {why}; {left} left")));
        self.futile = 0;
        match &self.phase {
            Phase::Disbanding(_) => self.disbanded(now, actions),
            // All of the state has arrived: it is made durable whoever is left.
            Phase::Saving if was_ranked && self.is_committing() => self.changed = true,
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) | Phase::Idle
                if was_ranked =>
            {
                self.interrupt(now, actions);
            }
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) | Phase::Idle => {}
            Phase::Gathering(_) if held_more => self.wait_for_returns(now),
            Phase::Gathering(_) | Phase::Finished(_) => {}
        }
        self.admit(now, actions);
    }
}
