//! Workers arrive, build their models and connect to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use medley_common::identity::{Digest, Generation, Rank, Update, WorkerId};
use medley_common::message::{Command, Form, Hello, PROTOCOL, Welcome};
use medley_common::spec::Summation;

use super::assignment::assign;
use super::report::{GroupRecord, MemberRecord};
use super::{Action, Phase, Run};

/// Too few workers are ready.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) since: Instant,
    /// How many it takes.
    pub(super) needed: u32,
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

    pub(super) fn greeted(&mut self, worker: WorkerId, hello: Hello, actions: &mut Vec<Action>) {
        if hello.protocol != PROTOCOL || hello.version != self.job.version {
            let Hello { version, protocol, .. } = hello;
            let own = &self.job.version;
            let reason = format!(
                "it is medley-worker {version} (protocol {protocol}), the coordinator is medley {own} (protocol \
                 {PROTOCOL}); install the same version on both"
            );
            return self.refuse(worker, reason, actions);
        }
        if let Some(reason) = self.kind_differs(&hello).or_else(|| self.gpu_taken(&hello)) {
            return self.refuse(worker, reason, actions);
        }
        if let Some(member) = self.roster.get_mut(worker).filter(|member| member.hello.is_none()) {
            member.hello = Some(hello);
        }
        self.admit(actions);
    }

    /// Why a worker cannot compute together with those of this run, if it cannot.
    fn kind_differs(&self, hello: &Hello) -> Option<String> {
        let precision = self.job.spec.compute.precision;
        match (self.job.on_gpus, hello.gpu.is_some()) {
            (true, false) => Some(format!(
                "it computes on the CPU, this run on GPUs in {precision}: start it with --device cuda, or the run with \
                 --device cpu"
            )),
            (false, true) => Some(format!(
                "it computes on {}, this run on the CPU in {precision}: start it with --device cpu, or the run with \
                 --device cuda",
                hello.device
            )),
            (true, true) | (false, false) => None,
        }
    }

    /// Who has the worker's GPU, if somebody has: NCCL would refuse two ranks on one, in words that name neither.
    fn gpu_taken(&self, hello: &Hello) -> Option<String> {
        let gpu = hello.gpu.as_ref()?;
        let other = self.roster.iter().find(|(_, member)| {
            let other = member.hello.as_ref().and_then(|hello| hello.gpu.as_ref());
            // One that leaves makes room.
            !member.leaving && other.is_some_and(|other| other.uuid == gpu.uuid && !(other.is_shared && gpu.is_shared))
        });
        let (other, device) = (self.roster.describe(other?.0), &hello.device);
        Some(format!(
            "{other} computes on its GPU already ({device}): start one worker for each GPU, with another LOCAL_RANK or \
             CUDA_VISIBLE_DEVICES"
        ))
    }

    /// Lets workers in as far as there are places; the others wait for one.
    pub(super) fn admit(&mut self, actions: &mut Vec<Action>) {
        let waiting = self.roster.all(|member| member.hello.is_some() && !member.welcomed);
        let taken = self.roster.all(|member| member.welcomed && !member.leaving).len();
        for worker in waiting.into_iter().take((self.job.workers as usize).saturating_sub(taken)) {
            if let Some(member) = self.roster.get_mut(worker) {
                member.welcomed = true;
                member.update = self.base.update;
            }
            let welcome = Welcome {
                worker,
                spec: self.job.spec.clone(),
                model: self.job.model.clone(),
                start: self.base.update,
                splits: self.job.splits(),
                artifacts: self.base.artifacts.clone(),
                heartbeat_ms: u64::try_from(self.job.patience.heartbeat_every.as_millis()).unwrap_or(u64::MAX),
                digest_every: self.job.training.as_ref().and_then(|job| job.cadence.digest.updates()).unwrap_or(0),
            };
            actions.push(Action::Order(worker, Command::Welcome(Box::new(welcome))));
        }
    }

    pub(super) fn prepared(
        &mut self,
        now: Instant,
        worker: WorkerId,
        (layout, endpoint): (Digest, String),
        actions: &mut Vec<Action>,
    ) {
        let differs = |(other, member): (WorkerId, &super::roster::Member)| {
            member.prepared.as_ref().filter(|(known, _)| *known != layout).map(|(known, _)| (other, *known))
        };
        let other = self.roster.iter().find_map(differs);
        if let Some((other, known)) = other {
            let other = self.roster.describe(other);
            let problem = format!("lays its parameters out as {layout}, {other} as {known}: they are different builds");
            return self.fail_worker(worker, &problem, actions);
        }
        match self.roster.get_mut(worker) {
            Some(member) if member.welcomed && member.prepared.is_none() => member.prepared = Some((layout, endpoint)),
            _ => return self.fail_worker(worker, "built a model without being asked to", actions),
        }
        self.newcomer(now, actions);
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
        self.dismiss_leavers(actions);
        self.replace_outdated(actions);
        let ready = self.roster.all(super::roster::Member::is_ready);
        let needed = match (self.stopping || self.saves_for_leavers(), self.formed) {
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
        let since = match &self.phase {
            Phase::Gathering(gathering) => gathering.since,
            _ => {
                let message = format!("waiting for workers: {} of {needed} are ready", ready.len());
                actions.push(Action::Notice(message));
                now
            }
        };
        self.phase = Phase::Gathering(Gathering { since, needed });
    }

    /// Where nobody is left who holds as much as the disk, those that came before it did are of no use.
    fn replace_outdated(&mut self, actions: &mut Vec<Action>) {
        let newest = self.base.update;
        let ready = self.roster.all(super::roster::Member::is_ready);
        let is_old = |worker: &WorkerId| self.roster.get(*worker).is_some_and(|member| member.update < newest);
        if !ready.iter().all(is_old) {
            return;
        }
        for worker in ready {
            let reason = format!("it fetched its state before that of update {newest} was saved; start it again");
            self.roster.remove(worker);
            actions.push(Action::Replace(worker, reason));
        }
        self.admit(actions);
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
        let lanes = assign(self.tree, &kept, &self.speeds(&group));
        self.grouped_at = update;
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
        self.paces.regroup(self.shares.keys());
        // Those that want to go and are still needed go at the next rest.
        self.changed = self.shares.keys().any(|worker| self.roster.get(*worker).is_some_and(|member| member.leaving));
        self.phase = Phase::Forming(Forming::default());
        if self.formed {
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

    pub(super) fn connected(&mut self, now: Instant, worker: WorkerId, actions: &mut Vec<Action>) {
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
            actions.push(Action::Notice(line));
        }
        actions.push(Action::Group(group));
        if !std::mem::replace(&mut self.formed, true) {
            self.agenda = self.first_agenda();
            self.progress.begin(now);
        }
        self.go_on(now, actions);
    }

    /// The group that is connected.
    fn group(&self) -> GroupRecord {
        let members = self.roster.ranked().into_iter().filter_map(|worker| {
            let hello = self.roster.get(worker)?.hello.as_ref()?;
            let Hello { host, pid, device, processor, threads, .. } = hello.clone();
            Some(MemberRecord {
                worker,
                host,
                pid,
                device,
                processor,
                threads,
                lanes: self.shares.get(&worker)?.clone(),
            })
        });
        GroupRecord { generation: self.generation, members: members.collect() }
    }

    pub(super) fn refuse(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        self.roster.remove(worker);
        actions.push(Action::Refuse(worker, reason));
    }
}
