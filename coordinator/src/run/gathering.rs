//! Workers arrive, build their models and connect to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use medley_common::identity::{Generation, Rank, Update, WorkerId};
use medley_common::message::{Command, Form, Hello, Token};
use medley_common::secret::Secret;
use medley_common::spec::Summation;
use sha2::{Digest, Sha256};

use super::assignment::assign;
use super::report::{GroupRecord, MemberRecord};
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
    /// Whether rank 0 has told the group's token, and it was passed on.
    is_told: bool,
}

impl Run {
    /// Forms a group of all that are ready, if they are enough.
    pub(super) fn reform(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let began = !matches!(self.phase, Phase::Gathering(_));
        if began {
            let returns = self.returns_until(now);
            self.phase = Phase::Gathering(Gathering { since: now, needed: self.job.workers, returns });
        }
        self.void_shards();
        if self.awaits_disk() {
            return;
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
        // Who comes back only now may hold more.
        let came_back = self.let_in(actions);
        if matches!(self.phase, Phase::Finished(_)) || (came_back && !self.catch_up(now, actions)) {
            return;
        }
        if self.needs_nobody() {
            return self.go_on(now, actions);
        }
        self.refresh_outdated(actions);
        self.refresh_shards(actions);
        let (ready, needed) = (self.roster.ready(), self.needed());
        if ready.len() >= needed as usize {
            return self.form(ready, actions);
        }
        if self.stopping {
            return self.finish(self.stopped(), actions);
        }
        if began && !self.is_renewing() {
            let message = format!("waiting for workers: {} of {needed} are ready", ready.len());
            actions.push(Action::Notice(message));
        }
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.needed = needed;
        }
    }

    /// How many it takes for a group.
    pub(super) fn needed(&self) -> u32 {
        match (self.stopping || self.saves_for_leavers(), self.formed || self.returned() > 0) {
            (true, _) => 1,
            // Those that come with the best model are enough, where only results are left.
            (false, true) if self.selecting.is_loading() => self.taking_part(),
            (false, true) if self.is_renewing() => self.taking_part().max(self.fewest()),
            (false, true) => self.fewest(),
            (false, false) => self.job.workers,
        }
    }

    /// How many go on where others are lost.
    fn fewest(&self) -> u32 {
        self.job.min_workers.clamp(1, self.job.workers)
    }

    /// Where nobody is left who holds as much as the disk, those that came before it did start from it anew; and all do
    /// where the best model is loaded.
    fn refresh_outdated(&mut self, actions: &mut Vec<Action>) {
        let newest = self.base.update;
        let mut ready = self.roster.ready();
        let held = |worker: &WorkerId| self.roster.get(*worker).map_or(newest, |member| member.update);
        if self.selecting.has_loaded() {
            // The best model is none to go on from, nor to take over from.
            ready.retain(|worker| held(worker) != newest);
        } else if !ready.iter().all(|worker| held(worker) < newest) {
            return;
        }
        ready.into_iter().for_each(|worker| self.welcome(worker, actions));
    }

    /// Ranks `group`, gives out the lanes and has the workers connect.
    pub(super) fn form(&mut self, mut group: Vec<WorkerId>, actions: &mut Vec<Action>) {
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
        let lanes = assign(self.tree, &kept, &self.speeds(&group));
        self.grouped_at = update;
        self.generation = Generation(self.generation.0 + 1);
        let endpoint = |worker: &WorkerId| Some(self.roster.get(*worker)?.prepared.as_ref()?.1.clone());
        let peers: Vec<String> = group.iter().filter_map(endpoint).collect();
        for (rank, worker) in (0..).map(Rank).zip(&group) {
            let (generation, secret) = (self.generation, self.secret());
            let (peers, lanes) = (peers.clone(), lanes.clone());
            let form = Form { generation, rank, peers, secret, lanes, update, line: self.standing, source };
            actions.push(Action::Order(*worker, Command::Form(form)));
            if let Some(member) = self.roster.get_mut(*worker) {
                (member.rank, member.update, member.in_shards) = (Some(rank), update, true);
            }
        }
        self.shares = group.into_iter().zip(lanes).collect();
        self.gone.clear();
        self.groups.insert(self.generation, update);
        // What only the dead have applied is made again.
        self.untold.clear();
        self.roster.all(|member| member.returned).into_iter().for_each(|worker| self.roster.settle(worker));
        self.paces.regroup(self.shares.keys());
        // Those that want to go and are still needed go at the next rest.
        self.changed = self.shares.keys().any(|worker| self.roster.get(*worker).is_some_and(|member| member.leaving));
        self.phase = Phase::Forming(Forming::default());
        if self.formed || self.job.past.update > Update(0) {
            let (generation, workers) = (self.generation, self.shares.len());
            let s = if workers == 1 { "" } else { "s" };
            actions.push(Action::Notice(format!("going on with {workers} worker{s} (generation {generation})")));
        }
    }

    /// A secret for each generation, from which no other follows: who was in an old group cannot enter a new one.
    fn secret(&self) -> Secret {
        let generation = self.generation.0.to_le_bytes();
        Secret(Sha256::new().chain_update(self.job.secret.0).chain_update(generation).finalize().into())
    }

    /// Whether a worker may tell the token of the group that is being connected: rank 0, once.
    pub(super) fn may_tell(&self, worker: WorkerId) -> bool {
        let rank = self.roster.get(worker).and_then(|member| member.rank);
        matches!(&self.phase, Phase::Forming(forming) if !forming.is_told) && rank == Some(Rank(0))
    }

    /// Tells the group's other ranks what rank 0 has told, whatever that is; nothing of it stays here.
    pub(super) fn pass_on(&mut self, token: Token, actions: &mut Vec<Action>) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        forming.is_told = true;
        let generation = self.generation;
        let order = |worker| Action::Order(worker, Command::Token { generation, token: token.clone() });
        actions.extend(self.roster.ranked().into_iter().skip(1).map(order));
    }

    pub(super) fn connected(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        forming.formed.insert(worker);
        if forming.formed.len() < self.shares.len() {
            return;
        }
        let group = self.group();
        let processors: BTreeSet<&str> = group.members.iter().map(|member| member.processor.as_str()).collect();
        if processors.len() > 1 && self.job.spec.compute.summation == Summation::ByLane {
            let kinds = processors.into_iter().collect::<Vec<_>>().join("; ");
            let line = format!(
                "warning: the workers have different processors ({kinds}): the last bits of the result may depend on who \
                 computes what"
            );
            actions.push(Action::Warning(line));
        }
        if let Some((one, other)) = group.different_programs() {
            let (one, other) = (self.roster.describe(one), self.roster.describe(other));
            let line = format!(
                "warning: {one} and {other} run different builds of medley-worker: the last bits of the result may depend \
                 on who computes what; install the same file on all hosts"
            );
            actions.push(Action::Warning(line));
        }
        // It is given work once the ledger knows it: so no update is made by a group that a coordinator which comes
        // back does not know.
        actions.push(Action::Group(group));
    }

    pub(super) fn grouped(&mut self, now: Instant, generation: Generation, actions: &mut Vec<Action>) {
        self.standing = generation;
        if generation != self.generation || !matches!(self.phase, Phase::Forming(_)) {
            return;
        }
        self.selecting.grouped();
        if !std::mem::replace(&mut self.formed, true) {
            self.progress.begin(now);
            self.resume_save(actions);
            // Before anything is ordered: a copy that is not asked for may lack what the next save needs.
            self.free_copies(actions);
        }
        self.go_on(now, actions);
    }

    /// The group that is connected.
    fn group(&self) -> GroupRecord {
        let members = self.roster.ranked().into_iter().filter_map(|worker| {
            let hello = self.roster.get(worker)?.hello.as_ref()?;
            let Hello { host, pid, device, processor, threads, program, .. } = hello.clone();
            Some(MemberRecord {
                worker,
                host,
                pid,
                device,
                processor,
                threads,
                program,
                lanes: self.shares.get(&worker)?.clone(),
            })
        });
        GroupRecord { generation: self.generation, members: members.collect() }
    }
}
