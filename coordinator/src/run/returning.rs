//! Workers come back with what they hold: after the coordinator's own death, and after their sessions broke.
//!
//! A state is of use where it lies on the line of the ledger: every group after the one it was made in has started from
//! it or from a later one, and its updates are in the ledger or reported with it. Who holds another one is welcomed as a
//! newcomer. Where nobody else has the newest state, its holders are waited for, but not for long.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Instant;

use medley_common::identity::{Generation, Update, WorkerId};
use medley_common::message::{Command, Held};

use super::action::Task;
use super::report::{Outcome, TrainLog};
use super::roster::Member;
use super::{Action, Occasion, Past, Phase, Run, SavePurpose};

impl Run {
    /// Whether what a worker holds can be gone on with.
    pub(super) fn is_of_use(&self, held: &Held) -> bool {
        let fetched = held.generation == Generation(0) && held.update == self.base.update;
        let on_line = fetched || self.is_on_line(held.generation, held.update);
        let is_told = |update| held.reports.iter().any(|report| report.update == update);
        let is_known = |update: Update| is_told(update) || self.untold.contains_key(&update);
        let untold = (self.progress.done.0..held.update.0).map(|update| Update(update).next());
        self.job.training.is_some() && held.update <= self.job.total() && on_line && untold.into_iter().all(is_known)
    }

    /// Whether a state that a group has made is one that the run has passed, or stands at.
    pub(super) fn is_on_line(&self, generation: Generation, update: Update) -> bool {
        self.groups.range((Excluded(generation), Unbounded)).all(|(_, start)| *start >= update)
    }

    /// Whether it is a member of the newest group that comes back, or one that holds as much.
    pub(super) fn is_expected(&self, worker: WorkerId, held: &Held) -> bool {
        let was_in_newest = || self.names_of(worker).iter().any(|name| self.shares.contains_key(name));
        self.is_of_use(held) && (held.update >= self.progress.done || was_in_newest())
    }

    /// The names that somebody who is here has had before.
    pub(super) fn names_of(&self, worker: WorkerId) -> &[WorkerId] {
        let known = self.roster.get(worker).and_then(|member| member.hello.as_ref()?.known.as_ref());
        known.map_or(&[], |known| &known.names)
    }

    /// Takes in a worker with what it holds.
    pub(super) fn come_back(&mut self, worker: WorkerId, held: Held, actions: &mut Vec<Action>) {
        let is_expected = self.is_expected(worker, &held);
        let Held { layout, endpoint, update, kept, reports, copy, .. } = held;
        if let Some(problem) = self.other_layout(layout) {
            return self.unlike(worker, &problem, actions);
        }
        let (done, leaving) = (self.progress.done, self.is_to_leave(worker));
        for report in reports.into_iter().filter(|report| report.update > done) {
            self.untold.entry(report.update).or_default().insert(worker, report);
        }
        if let Some(member) = self.roster.get_mut(worker) {
            (member.welcomed, member.returned, member.leaving) = (true, is_expected, leaving);
            (member.update, member.kept) = (update, kept);
            member.prepared = Some((layout, endpoint));
        }
        let name = self.roster.describe(worker);
        actions.push(Action::Notice(format!("{name} came back, and holds update {update}")));
        actions.push(Action::Order(worker, Command::Reattach { worker, heartbeat_ms: self.heartbeat_ms() }));
        self.take_copy(worker, copy, actions);
    }

    /// Whether it was asked to leave, under whatever name.
    pub(super) fn is_to_leave(&self, worker: WorkerId) -> bool {
        self.names_of(worker).iter().any(|name| self.asked_to_leave.contains(name))
    }

    /// One that was asked to leave before its session broke: it stays as long as nobody else holds what it does.
    pub(super) fn comes_to_leave(&mut self, now: Instant, worker: WorkerId, actions: &mut Vec<Action>) {
        let new = self.roster.get(worker).filter(|member| !member.welcomed);
        let held = new.and_then(|member| member.hello.as_ref()?.held.clone());
        let stays = |held: &Held| match &self.phase {
            // What is held elsewhere shows when all have left the group, or stand in the next one.
            Phase::Disbanding(_) | Phase::Forming(_) => self.is_expected(worker, held),
            Phase::Gathering(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) => {
                self.is_needed(worker, held)
            }
            Phase::Idle | Phase::Finished(_) => self.is_needed(worker, held),
        };
        if let Some(held) = held.filter(|held| stays(held)) {
            self.come_back(worker, *held, actions);
        }
        if !matches!(self.phase, Phase::Finished(_)) {
            self.leaves(now, worker, actions);
        }
    }

    /// Whether nobody else holds as much as one that comes back.
    fn is_needed(&self, worker: WorkerId, held: &Held) -> bool {
        let holds_as_much = |member: &Member| member.prepared.is_some() && member.update >= held.update;
        let has_group = !self.roster.ranked().is_empty();
        !has_group && self.is_expected(worker, held) && self.roster.all(holds_as_much).is_empty()
    }

    /// Where newcomers have taken all places, and nobody holds what one that comes back does, the one of them that costs
    /// the least makes room. Returns whom for.
    pub(super) fn make_room(&mut self, actions: &mut Vec<Action>) -> Option<WorkerId> {
        let waiting = self.roster.iter().filter_map(|(worker, member)| {
            let held = member.hello.as_ref().filter(|_| !member.welcomed)?.held.as_ref()?;
            self.is_needed(worker, held).then_some((held.update, Reverse(worker)))
        });
        let (update, Reverse(holder)) = waiting.max()?;
        // One that is to leave takes no place.
        if self.free_places() > 0 || self.is_to_leave(holder) {
            return Some(holder);
        }
        let is_newcomer = |member: &Member| member.welcomed && !member.leaving && member.update < update;
        let newcomers = self.roster.iter().filter(|(_, member)| is_newcomer(member));
        let cost = |(worker, member): &(WorkerId, &Member)| {
            (member.copy.is_some(), member.prepared.is_some(), member.update, Reverse(*worker))
        };
        let (last, _) = newcomers.min_by_key(cost)?;
        let why = format!("makes room for one that came back and alone holds update {update}");
        actions.push(Action::Notice(format!("{} {why}", self.roster.describe(last))));
        self.let_go(last, format!("it {why}; start it again"), actions);
        Some(holder)
    }

    /// Applies what somebody who is ready has applied and the ledger does not have: the others take the state over.
    /// `false` where that ends the run.
    pub(super) fn catch_up(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        let held = self.roster.iter().filter(|(_, member)| member.is_ready()).map(|(_, member)| member.update).max();
        if held.is_some_and(|held| held >= self.progress.done) {
            self.make_up_the_log(actions);
        }
        while held.is_some_and(|held| held > self.progress.done) {
            let Some(reports) = self.untold.remove(&self.progress.done.next()) else { break };
            if !self.apply(now, &reports, actions) {
                return false;
            }
            self.agenda = self.agenda_after(self.progress.done);
        }
        true
    }

    /// Writes the line of the log that the coordinator died over.
    fn make_up_the_log(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.overdue) {
            let update = self.progress.done;
            let (epoch, grad_norm) = (self.epoch(), self.job.past.grad_norm);
            let (loss, learning_rate) = (self.progress.take_mean(), self.learning_rate(update));
            let skipped = self.progress.skipped();
            actions.push(Action::Log(TrainLog { update, epoch, loss, grad_norm, learning_rate, skipped }));
        }
    }

    /// How many members of the newest group may still come back: who is here, under whatever name and with whatever
    /// state, is waited for no longer.
    pub(super) fn missing(&self) -> usize {
        let back: BTreeSet<_> = self.roster.iter().flat_map(|(worker, _)| self.names_of(worker)).collect();
        let is_away = |worker: &&WorkerId| self.roster.get(**worker).is_none() && !back.contains(worker);
        self.shares.keys().filter(is_away).filter(|worker| !self.gone.contains(worker)).count()
    }

    /// How many have come back since the newest group stood.
    pub(super) fn returned(&self) -> usize {
        self.roster.all(|member| member.returned && member.is_ready()).len()
    }

    /// Whether the run waits for those that hold its newest state, rather than go back to the disk without them.
    pub(super) fn awaits_return(&self) -> bool {
        let waits = matches!(&self.phase, Phase::Gathering(gathering) if gathering.returns.is_some());
        let holds_more = self.progress.done > self.base.update || self.returned() > 0;
        // A newcomer makes room; who holds as much does not.
        let has_place = |member: &Member| member.welcomed && !member.leaving && member.update >= self.progress.done;
        let is_room = self.roster.all(has_place).len() < self.job.workers as usize;
        waits && holds_more && !self.stopping && !self.needs_nobody() && is_room && self.missing() > 0
    }

    /// Until when holders are waited for where too few are left to go on: not at all where somebody who is ready holds
    /// more than the disk does, or nobody can come back.
    pub(super) fn returns_until(&self, now: Instant) -> Option<Instant> {
        let base = self.base.update;
        let holds_more = |member: &Member| member.is_ready() && member.update > base;
        let is_kept = self.job.training.is_some() && !self.has_shards();
        let may_return = is_kept && !self.job.patience.reattach.is_zero() && self.missing() > 0;
        (may_return && self.roster.all(holds_more).is_empty()).then(|| now + self.job.patience.reattach)
    }

    /// One that held more than the disk is lost before it was in a group again: it may come back as well.
    pub(super) fn wait_for_returns(&mut self, now: Instant) {
        let until = self.returns_until(now);
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.returns = gathering.returns.or(until);
        }
    }

    /// Whether it may be this coordinator that hears nobody, rather than one worker that is silent: nobody else is heard
    /// who holds as much. Then all may come back with what they hold.
    pub(super) fn may_be_cut_off(&self, now: Instant, silent: WorkerId) -> bool {
        let patience = &self.job.patience;
        let held = self.roster.get(silent).map_or(Update(0), |member| member.update);
        let goes_on = |member: &Member| {
            let is_heard = now < member.heard + patience.heartbeat / 2;
            is_heard && member.prepared.is_some() && member.update >= held
        };
        !patience.reattach.is_zero() && !self.roster.iter().any(|(worker, member)| worker != silent && goes_on(member))
    }

    /// Those that were waited for did not come.
    pub(super) fn give_up_waiting(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let waited = self.awaits_return();
        let Phase::Gathering(gathering) = &mut self.phase else { return };
        gathering.returns = None;
        if waited {
            let (missing, seconds) = (self.missing(), self.job.patience.reattach.as_secs_f64());
            actions
                .push(Action::Warning(format!("{missing} of the last group did not come back within {seconds:.0} s")));
        }
        self.admit(now, actions);
        if matches!(self.phase, Phase::Gathering(_)) {
            self.reform(now, actions);
        }
    }

    /// What follows when the group stands for the first time: what is left to do after the last update of the past.
    pub(super) fn first_agenda(&self) -> VecDeque<Task> {
        if self.job.is_stream {
            return VecDeque::new();
        }
        if self.job.training.is_none() {
            return self.results().chain([Task::Finish(Outcome::Completed)]).collect();
        }
        let Past { update, evaluated, .. } = self.job.past;
        let is_saved = self.base.update == update;
        let mut agenda = self.agenda_after(update);
        if update >= self.end() && agenda.is_empty() {
            agenda = self.end_agenda(SavePurpose::Final);
        }
        agenda.retain(|task| match task {
            Task::Evaluate(_, Occasion::Training) => !evaluated,
            Task::Save(SavePurpose::Checkpoint) => !is_saved,
            _ => true,
        });
        for task in agenda.iter_mut().filter(|task| is_saved && **task == Task::Save(SavePurpose::CheckpointAndFinal)) {
            *task = Task::Save(SavePurpose::Final);
        }
        agenda
    }
}
