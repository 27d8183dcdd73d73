//! Workers arrive, build their models and connect to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use medley_common::identity::{Digest, Generation, Rank, Update, WorkerId};
use medley_common::message::{Command, Form, Hello, Lanes, PROTOCOL, Welcome};

use super::assignment::assign;
use super::report::{GroupRecord, MemberRecord};
use super::roster::Member;
use super::{Action, Phase, Run};

/// Too few workers are ready.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) since: Instant,
    /// How many it takes.
    pub(super) needed: u32,
    /// Until when those that hold the newest state may come back.
    pub(super) returns: Option<Instant>,
}

/// The group is being connected.
#[derive(Debug, Default)]
pub(super) struct Forming {
    formed: BTreeSet<WorkerId>,
}

impl Run {
    pub(super) fn joined(&mut self, now: Instant, worker: WorkerId) {
        self.roster.add(now, worker);
    }

    pub(super) fn greeted(&mut self, now: Instant, worker: WorkerId, hello: Hello, actions: &mut Vec<Action>) {
        if hello.protocol != PROTOCOL || hello.version != self.job.version {
            let Hello { version, protocol, .. } = hello;
            let own = &self.job.version;
            let reason = format!(
                "it is medley-worker {version} (protocol {protocol}), the coordinator is medley {own} (protocol \
                 {PROTOCOL}); install the same version on both"
            );
            return self.refuse(worker, reason, actions);
        }
        if let Some(held) = hello.held.as_ref().filter(|held| held.run != self.job.run) {
            let (update, own, other) = (held.update, self.job.run.short(), held.run.short());
            let reason = format!(
                "it holds update {update} of run {other}, and this coordinator makes run {own}; start the worker again \
                 to take part in this one, or the coordinator of the other one with its own --output_dir"
            );
            return self.refuse(worker, reason, actions);
        }
        let before = hello.held.as_ref().map(|held| held.worker);
        if let Some(member) = self.roster.get_mut(worker).filter(|member| member.hello.is_none()) {
            member.hello = Some(hello);
        }
        // Its session broke, though nobody has noticed yet.
        if let Some(before) = before.filter(|before| *before != worker && self.is_same_process(*before, worker)) {
            self.lose(now, before, "its connection broke, and it has come back", actions);
        }
        self.admit(now, actions);
    }

    fn is_same_process(&self, before: WorkerId, worker: WorkerId) -> bool {
        let process = |worker| {
            let hello = self.roster.get(worker)?.hello.as_ref()?;
            Some((hello.host.as_str(), hello.pid))
        };
        process(before).is_some_and(|before| process(worker) == Some(before))
    }

    /// Lets workers in as far as there are places; the others wait for one.
    pub(super) fn admit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.let_in(actions) {
            self.newcomer(now, actions);
        }
    }

    /// Lets workers in. Those that are expected back go first, and have their places kept; `true` where somebody who
    /// comes back is ready.
    fn let_in(&mut self, actions: &mut Vec<Action>) -> bool {
        let waits = |member: &Member| member.hello.is_some() && !member.welcomed;
        let held_by = |run: &Self, worker| run.roster.get(worker)?.hello.as_ref()?.held.clone();
        let mut came_back = false;
        for worker in self.roster.all(waits) {
            let expected = held_by(self, worker).filter(|held| self.free_places() > 0 && self.is_expected(held));
            came_back |= expected.is_some();
            expected.into_iter().for_each(|held| self.come_back(worker, *held, actions));
        }
        let kept = if self.awaits_return() { self.missing() } else { 0 };
        let free = self.free_places().saturating_sub(kept);
        for worker in self.roster.all(waits).into_iter().take(free) {
            match held_by(self, worker).filter(|held| self.is_of_use(held)) {
                Some(held) => {
                    self.come_back(worker, *held, actions);
                    came_back = true;
                }
                None => self.welcome(worker, actions),
            }
        }
        came_back
    }

    fn free_places(&self) -> usize {
        let taken = self.roster.all(|member| member.welcomed && !member.leaving).len();
        (self.job.workers as usize).saturating_sub(taken)
    }

    /// Has a worker build its model from the newest state on the disk.
    fn welcome(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        if let Some(member) = self.roster.get_mut(worker) {
            member.welcomed = true;
            (member.update, member.kept) = (self.base.update, Lanes::new());
            member.prepared = None;
        }
        let welcome = Welcome {
            worker,
            run: self.job.run,
            window: self.job.patience.window,
            spec: self.job.spec.clone(),
            model: self.job.model.clone(),
            start: self.base.update,
            splits: self.job.splits(),
            artifacts: self.base.artifacts.clone(),
            heartbeat_ms: self.heartbeat_ms(),
        };
        actions.push(Action::Order(worker, Command::Welcome(Box::new(welcome))));
    }

    pub(super) fn heartbeat_ms(&self) -> u64 {
        u64::try_from(self.job.patience.heartbeat_every.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn prepared(
        &mut self,
        now: Instant,
        worker: WorkerId,
        (layout, endpoint): (Digest, String),
        actions: &mut Vec<Action>,
    ) {
        if let Some(problem) = self.other_layout(layout) {
            return self.fail_worker(worker, &problem, actions);
        }
        match self.roster.get_mut(worker) {
            Some(member) if member.welcomed && member.prepared.is_none() => member.prepared = Some((layout, endpoint)),
            _ => return self.fail_worker(worker, "built a model without being asked to", actions),
        }
        self.newcomer(now, actions);
    }

    /// In what a layout differs from that of the others.
    pub(super) fn other_layout(&self, layout: Digest) -> Option<String> {
        let differs = |(other, member): (WorkerId, &Member)| {
            member.prepared.as_ref().filter(|(known, _)| *known != layout).map(|(known, _)| (other, *known))
        };
        let (other, known) = self.roster.iter().find_map(differs)?;
        let other = self.roster.describe(other);
        Some(format!("lays its parameters out as {layout}, {other} as {known}: they are different builds"))
    }

    /// Somebody is ready who is in no group.
    fn newcomer(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Gathering(_) => self.reform(now, actions),
            // It takes part from the next rest on.
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving(_) | Phase::Evaluating(_) => {
                self.changed = true;
                self.rest(now, actions);
            }
            Phase::Disbanding(_) | Phase::Finished(_) => {}
        }
    }

    /// Forms a group of all that are ready, if they are enough.
    pub(super) fn reform(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let began = !matches!(self.phase, Phase::Gathering(_));
        if began {
            let returns = self.returns_until(now);
            self.phase = Phase::Gathering(Gathering { since: now, needed: self.job.workers, returns });
        }
        if self.awaits_return() {
            if began {
                let done = self.progress.done;
                actions.push(Action::Notice(format!("waiting for those that hold update {done} to come back")));
            }
            return;
        }
        if !self.catch_up(now, actions) {
            return;
        }
        self.dismiss_leavers(actions);
        self.let_in(actions);
        self.refresh_outdated(actions);
        let ready = self.roster.all(Member::is_ready);
        let needed = match (self.stopping || self.saves_for_leavers(), self.formed || self.returned() > 0) {
            (true, _) => 1,
            (false, true) => self.job.min_workers.clamp(1, self.job.workers),
            (false, false) => self.job.workers,
        };
        if ready.len() >= needed as usize {
            return self.form(ready, actions);
        }
        if self.stopping {
            return self.finish(self.stopped(), actions);
        }
        if began {
            let message = format!("waiting for workers: {} of {needed} are ready", ready.len());
            actions.push(Action::Notice(message));
        }
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.needed = needed;
        }
    }

    /// Where nobody is left who holds as much as the disk, those that came before it did start from it anew.
    fn refresh_outdated(&mut self, actions: &mut Vec<Action>) {
        let newest = self.base.update;
        let ready = self.roster.all(Member::is_ready);
        let is_old = |worker: &WorkerId| self.roster.get(*worker).is_some_and(|member| member.update < newest);
        if ready.iter().all(is_old) {
            ready.into_iter().for_each(|worker| self.welcome(worker, actions));
        }
    }

    /// Ranks `group`, gives out the lanes and has the workers connect.
    fn form(&mut self, mut group: Vec<WorkerId>, actions: &mut Vec<Action>) {
        let held: BTreeMap<WorkerId, Update> =
            self.roster.iter().map(|(worker, member)| (worker, member.update)).collect();
        let update_of = |worker: &WorkerId| held.get(worker).copied().unwrap_or_default();
        let update = group.iter().map(update_of).max().unwrap_or(self.progress.done);
        if update > self.progress.done {
            let ahead = group.iter().copied().find(|worker| update_of(worker) == update).unwrap_or(group[0]);
            let problem = format!("holds update {update}, of which only {} are known", self.progress.done);
            return self.fail_worker(ahead, &problem, actions);
        }
        if update < self.progress.done {
            self.rewind(update, actions);
        }
        // Those that hold the state come first: the first rank always has a lane, which the source must have.
        let behind = |worker: &WorkerId| update_of(worker) < update;
        group.sort_by_key(|worker| (behind(worker), *worker));
        let source = group.iter().any(behind).then_some(Rank(0));
        let kept: Vec<_> = group
            .iter()
            .map(|worker| self.roster.get(*worker).filter(|_| !behind(worker)).map(|member| member.kept.clone()))
            .map(Option::unwrap_or_default)
            .collect();
        let lanes = assign(self.tree, &kept);
        self.generation = Generation(self.generation.0 + 1);
        let endpoint = |worker: &WorkerId| Some(self.roster.get(*worker)?.prepared.as_ref()?.1.clone());
        let peers: Vec<String> = group.iter().filter_map(endpoint).collect();
        for (rank, worker) in (0..).map(Rank).zip(&group) {
            let (generation, secret) = (self.generation, self.secret());
            let (peers, lanes) = (peers.clone(), lanes.clone());
            let form = Form { generation, rank, peers, secret, lanes, update, source };
            actions.push(Action::Order(*worker, Command::Form(form)));
            if let Some(member) = self.roster.get_mut(*worker) {
                (member.rank, member.update) = (Some(rank), update);
            }
        }
        self.shares = group.into_iter().zip(lanes).collect();
        self.groups.insert(self.generation, update);
        // What only the dead have applied is made again.
        self.untold.clear();
        self.roster.all(|member| member.returned).into_iter().for_each(|worker| self.roster.settle(worker));
        // Those that want to go and are still needed go at the next rest.
        self.changed = self.shares.keys().any(|worker| self.roster.get(*worker).is_some_and(|member| member.leaving));
        self.phase = Phase::Forming(Forming::default());
        if self.formed || self.job.past.update > Update(0) {
            let (generation, workers) = (self.generation, self.shares.len());
            let s = if workers == 1 { "" } else { "s" };
            actions.push(Action::Notice(format!("going on with {workers} worker{s} (generation {generation})")));
        }
    }

    /// A secret for each generation, so that a member of an old group cannot enter a new one by mistake.
    fn secret(&self) -> [u8; 32] {
        let mut secret = self.job.secret;
        for (byte, generation) in secret.iter_mut().zip(self.generation.0.to_le_bytes()) {
            *byte ^= generation;
        }
        secret
    }

    pub(super) fn connected(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        forming.formed.insert(worker);
        if forming.formed.len() < self.shares.len() {
            return;
        }
        // It is given work once the ledger knows it: so no update is made by a group that a coordinator which comes
        // back does not know.
        actions.push(Action::Group(self.group()));
    }

    pub(super) fn grouped(&mut self, now: Instant, generation: Generation, actions: &mut Vec<Action>) {
        if generation != self.generation || !matches!(self.phase, Phase::Forming(_)) {
            return;
        }
        if !std::mem::replace(&mut self.formed, true) {
            self.progress.begin(now);
        }
        self.go_on(now, actions);
    }

    /// The group that is connected.
    fn group(&self) -> GroupRecord {
        let members = self.roster.ranked().into_iter().filter_map(|worker| {
            let hello = self.roster.get(worker)?.hello.as_ref()?;
            let (host, pid, device) = (hello.host.clone(), hello.pid, hello.device.clone());
            Some(MemberRecord { worker, host, pid, device, lanes: self.shares.get(&worker)?.clone() })
        });
        GroupRecord { generation: self.generation, members: members.collect() }
    }

    pub(super) fn refuse(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        self.roster.remove(worker);
        actions.push(Action::Refuse(worker, reason));
    }
}
