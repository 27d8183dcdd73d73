//! Who may take part: workers say who they are, are let in as far as there are places, and build their models.

use std::time::Instant;

use medley_common::identity::{Digest, Generation, Known, WorkerId};
use medley_common::message::{Command, Event, Hello, Lanes, PROTOCOL, Welcome};

use super::roster::Member;
use super::{Action, Phase, Run, name_of};

impl Run {
    /// What a worker says that it has no business to say: it is not in the group, was not asked to build a model, or
    /// has not said who it is. Such a one is sent away, and harms nobody else.
    pub(super) fn is_presumptuous(&self, worker: WorkerId, event: &Event) -> Option<String> {
        let member = self.roster.get(worker)?;
        let may = match event {
            Event::Hello(_) => member.hello.is_none(),
            Event::Heartbeat | Event::Leaving => true,
            // One that only waits for a place has nothing to fail at.
            Event::Failed(_) => member.welcomed,
            Event::Prepared { .. } => member.welcomed && member.prepared.is_none(),
            // From the copy that it keeps, whatever group it is in; or kept, until it was told to begin anew.
            Event::Saved { save, piece, .. } => {
                let is_late = self.has_shards();
                member.welcomed && (is_late || !self.is_uncalled_for(worker, *save, *piece))
            }
            // What is left comes from members of the group alone.
            Event::Token { .. } | Event::Formed { .. } | Event::StandingBy { .. } => member.rank.is_some(),
            Event::Updated { .. } | Event::Predicted { .. } | Event::Evaluated { .. } => member.rank.is_some(),
            Event::Disconnected { .. } => member.rank.is_some(),
        };
        (!may).then(|| format!("it reported {} out of turn", name_of(event)))
    }

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
        let other_run = hello.known.as_ref().map(|known| known.run).filter(|run| *run != self.job.run);
        // What was not trained is on the disk as well.
        let made = hello.held.as_ref().filter(|held| held.generation > Generation(0));
        if let Some((held, run)) = made.zip(other_run) {
            let (update, own, other) = (held.update, self.job.run.short(), run.short());
            let reason = format!(
                "it holds update {update} of another run, {other}; this coordinator makes run {own}: start the worker \
                 again to take part in it, or the other coordinator, on its own --output_dir"
            );
            return self.refuse(worker, reason, actions);
        }
        // Who has nothing of another run yet is a newcomer to this one.
        let hello = if other_run.is_some() { Hello { known: None, held: None, ..hello } } else { hello };
        let hello = self.with_names(worker, hello);
        let before = self.same_process(&hello);
        if before.is_some_and(|(_, session)| session > hello.session) {
            // Late words of a session that its process has left behind.
            self.roster.remove(worker);
            return actions.push(Action::Close(worker));
        }
        let before = before.map(|(before, _)| before);
        if let Some(reason) = self.kind_differs(&hello).or_else(|| self.gpu_taken(&hello, before)) {
            return self.refuse(worker, reason, actions);
        }
        let awaited = self.awaits_return();
        self.roster.get_mut(worker).into_iter().for_each(|member| member.hello = Some(hello.clone()));
        // That session broke, though nobody has noticed yet. Only now, when it is known what comes back: a run that is to stop would end without it.
        if let Some(before) = before {
            actions.push(Action::Close(before));
            self.lose(now, before, "its connection broke, and it has come back", actions);
        }
        if self.is_to_leave(worker) {
            return self.comes_to_leave(now, worker, actions);
        }
        self.admit(now, actions);
        // The last that was waited for may be one that finds no place.
        if awaited && matches!(self.phase, Phase::Gathering(_)) && !self.awaits_return() {
            self.reform(now, actions);
        }
    }

    /// A hello with all names that its process has had here: those that it knows, and those that were lost with a session.
    fn with_names(&mut self, worker: WorkerId, hello: Hello) -> Hello {
        let is_looked_for = |name: &WorkerId| {
            self.shares.contains_key(name) || self.asked_to_leave.contains(name) || self.roster.get(*name).is_some()
        };
        self.processes.retain(|name, _| is_looked_for(name));
        let own = self.processes.iter().filter(|(_, process)| **process == hello.process).map(|(name, _)| *name);
        let mut known = hello.known.unwrap_or(Known { run: self.job.run, names: Vec::new() });
        let unheard: Vec<WorkerId> = own.filter(|name| !known.names.contains(name)).collect();
        known.names.extend(unheard);
        self.processes.insert(worker, hello.process);
        Hello { known: Some(known).filter(|known| !known.names.is_empty()), ..hello }
    }

    /// The member that is the same process in another session, and which of its sessions that is.
    fn same_process(&self, hello: &Hello) -> Option<(WorkerId, u64)> {
        let mut heard = self.roster.iter().filter_map(|(worker, member)| Some((worker, member.hello.as_ref()?)));
        heard.find(|(_, other)| other.process == hello.process).map(|(worker, other)| (worker, other.session))
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
    fn gpu_taken(&self, hello: &Hello, itself: Option<WorkerId>) -> Option<String> {
        let gpu = hello.gpu.as_ref()?;
        let mut others = self.roster.iter().filter(|(worker, _)| Some(*worker) != itself);
        // One that leaves makes room, and needs none.
        let is_to_leave =
            hello.known.iter().flat_map(|known| &known.names).any(|name| self.asked_to_leave.contains(name));
        let other = others.find(|(_, member)| !member.leaving && !is_to_leave && member.is_on(gpu));
        let (other, device) = (self.roster.describe(other?.0), &hello.device);
        Some(format!(
            "{other} computes on its GPU already ({device}): start one worker for each GPU, with another LOCAL_RANK or \
             CUDA_VISIBLE_DEVICES"
        ))
    }

    /// Lets workers in as far as there are places; the others wait for one.
    pub(super) fn admit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // What came before may have ended the run.
        if matches!(self.phase, Phase::Finished(_)) {
            return;
        }
        if self.let_in(actions) {
            self.newcomer(now, actions);
        }
    }

    /// Lets workers in. Those that are expected back go first, and have their places kept; `true` where somebody who
    /// comes back is ready.
    pub(super) fn let_in(&mut self, actions: &mut Vec<Action>) -> bool {
        let waits = |member: &Member| member.hello.is_some() && !member.welcomed;
        let held_by = |run: &Self, worker| run.roster.get(worker)?.hello.as_ref()?.held.clone();
        let mut came_back = false;
        let only_holder = self.make_room(actions);
        // What one of them reports may be what another's state lacks, so each may make room for the next.
        let expected = |run: &Self| {
            let mut waiting = run.roster.all(waits);
            waiting.retain(|worker| run.free_places() > 0 || only_holder == Some(*worker));
            waiting.sort_by_key(|worker| only_holder != Some(*worker));
            let held = |worker| Some((worker, held_by(run, worker).filter(|held| run.is_expected(worker, held))?));
            waiting.into_iter().find_map(held)
        };
        while let Some((worker, held)) = expected(self) {
            self.come_back(worker, *held, actions);
            came_back = true;
            if matches!(self.phase, Phase::Finished(_)) {
                return false;
            }
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
            if matches!(self.phase, Phase::Finished(_)) {
                return false;
            }
        }
        came_back
    }

    pub(super) fn free_places(&self) -> usize {
        let taken = self.roster.all(|member| member.welcomed && !member.leaving).len();
        (self.job.workers as usize).saturating_sub(taken)
    }

    /// Has a worker build its model from the newest state on the disk.
    pub(super) fn welcome(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        if let Some(member) = self.roster.get_mut(worker) {
            member.welcomed = true;
            (member.update, member.kept, member.copy) = (self.base.update, Lanes::new(), None);
            (member.prepared, member.in_shards) = (None, false);
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
            digest_every: self.job.training.as_ref().and_then(|job| job.cadence.digest.updates()).unwrap_or(0),
            shard_optimizer_state: self.has_shards(),
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
            return self.unlike(worker, &problem, actions);
        }
        if let Some(member) = self.roster.get_mut(worker) {
            member.prepared = Some((layout, endpoint));
        }
        self.newcomer(now, actions);
    }

    /// One that comes late to a run that works is refused; before that nobody knows whose build is the right one.
    pub(super) fn unlike(&mut self, worker: WorkerId, problem: &str, actions: &mut Vec<Action>) {
        if self.formed {
            self.refuse(worker, format!("it {problem}"), actions);
        } else {
            self.fail_worker(worker, problem, actions);
        }
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
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) | Phase::Idle => {
                self.changed = true;
                self.rest(now, actions);
            }
            Phase::Disbanding(_) | Phase::Finished(_) => {}
        }
    }

    /// Sends a worker away for what it has said; where it is in the group, the others go on without it.
    pub(super) fn send_away(&mut self, now: Instant, worker: WorkerId, problem: String, actions: &mut Vec<Action>) {
        if self.roster.is_ranked(worker) {
            actions.push(Action::Refuse(worker, problem.clone()));
            self.renounce(worker);
            self.lose(now, worker, &problem, actions);
        } else {
            self.refuse(worker, problem, actions);
        }
    }

    pub(super) fn refuse(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        self.forget(worker);
        actions.push(Action::Refuse(worker, reason));
    }
}
