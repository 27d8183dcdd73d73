//! The world of the simulation: workers, a network and a disk under a seed, and a coordinator that may die.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use medley_common::save::SaveId;

use super::simulated_fate::{Faults, History, Random};
use super::simulated_worker::{Network, Worker};
use super::*;
use crate::archive::fixture::identity;
use crate::archive::{History as Ledger, RunIdentity};

#[path = "simulated_disk_test.rs"]
mod simulated_disk;

/// Events after which a run must have ended.
const MOST_EVENTS: usize = 20_000;

pub(super) struct World {
    run: Run,
    job: Job,
    now: Instant,
    random: Random,
    workers: BTreeMap<WorkerId, Worker>,
    network: Network,
    /// Workers to come.
    pending: BTreeSet<u64>,
    /// Those whose sessions broke, on their way back.
    away: VecDeque<(u32, Worker)>,
    /// Sessions that broke unnoticed, and what they are still to be heard of: perhaps their first word, then their end.
    late: VecDeque<(WorkerId, Option<Event>)>,
    /// Those that hang, or that nothing is heard of.
    silent: BTreeSet<WorkerId>,
    pids: BTreeMap<WorkerId, u32>,
    next_name: u64,
    next_worker: u64,
    /// What the disk has still to do, in order; all of it is lost with the coordinator.
    disk: VecDeque<Action>,
    /// What is on the disk: the ledger, and the newest checkpoint.
    pub(super) ledger: Ledger,
    base: Update,
    /// The checkpoint that the model is, where that is not the last model.
    pub(super) best: Option<Update>,
    /// The save that is received: in how many pieces, and which have arrived.
    staged: Option<(SaveId, u32, BTreeSet<u32>)>,
    /// Updates that were recorded while a save was under way.
    pub(super) overlapped: u64,
    /// Workers that were silent and replaced.
    pub(super) replaced: u32,
    /// Times that lanes were to be shared anew by speed.
    pub(super) rebalances: u32,
    pub(super) history: History,
}

impl World {
    pub(super) fn new(seed: u64, job: Job) -> Self {
        let now = Instant::now();
        let history = History {
            records: Vec::new(),
            logs: Vec::new(),
            evaluations: Vec::new(),
            commits: Vec::new(),
            given_up: BTreeSet::new(),
            outcome: Outcome::Completed,
        };
        // Two more than are wanted: they wait, and take the places of those that are lost.
        let next_worker = u64::from(job.workers) + 3;
        Self {
            run: Run::new(now, job.clone()),
            now,
            random: Random::new(seed),
            workers: BTreeMap::new(),
            network: Network::default(),
            pending: (1..next_worker).collect(),
            away: VecDeque::new(),
            late: VecDeque::new(),
            silent: BTreeSet::new(),
            pids: BTreeMap::new(),
            next_name: 0,
            next_worker,
            disk: VecDeque::new(),
            ledger: Ledger::new(RunIdentity {
                criterion: job.training.as_ref().and_then(|training| training.criterion.clone()),
                start: Update(0),
                ..identity()
            }),
            base: Update(0),
            best: None,
            staged: None,
            overlapped: 0,
            replaced: 0,
            rebalances: 0,
            history,
            job,
        }
    }

    pub(super) fn play(self, faults: Faults) -> (History, Network) {
        let (world, network) = self.play_out(faults);
        (world.history, network)
    }

    pub(super) fn play_out(mut self, mut faults: Faults) -> (Self, Network) {
        for _ in 0..MOST_EVENTS {
            if matches!(self.run.phase, Phase::Finished(_)) && self.disk.is_empty() {
                let network = std::mem::take(&mut self.network);
                return (self, network);
            }
            let inputs = self.next_inputs(&mut faults);
            for input in inputs {
                let actions = self.run.handle(self.now, input);
                actions.into_iter().for_each(|action| self.perform(action));
            }
        }
        panic!("still {:?} after {MOST_EVENTS} events", self.run.view().phase);
    }

    /// One thing happens somewhere: a worker works, a message arrives, a disk is done, a fault strikes.
    fn next_inputs(&mut self, faults: &mut Faults) -> Vec<Input> {
        self.now += Duration::from_micros(self.random.below(200));
        if faults.stop && self.random.chance(80) {
            let at_once = self.run.stopping && self.random.chance(2);
            return vec![if at_once { Input::StopAtOnce } else { Input::StopRequested }];
        }
        if self.run.deadline().is_some_and(|deadline| deadline <= self.now) {
            return vec![Input::Elapsed];
        }
        if faults.ends > 0 && self.random.chance(100) {
            faults.ends -= 1;
            self.end_coordinator(faults.die_with_it);
            return Vec::new();
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        let anybody = |random: &mut Random| ids.get(random.below(ids.len().max(1) as u64) as usize).copied();
        if faults.deaths > 0 && self.random.chance(40) {
            faults.deaths -= 1;
            return anybody(&mut self.random).map(|worker| self.kill(worker)).into_iter().collect();
        }
        if faults.leaves > 0 && self.random.chance(60) {
            faults.leaves -= 1;
            let worker = anybody(&mut self.random).and_then(|worker| self.workers.get_mut(&worker));
            worker.into_iter().for_each(Worker::ask_to_leave);
        }
        if faults.orders > 0 && self.random.chance(100) {
            faults.orders -= 1;
            let is_seen = |name: &WorkerId| self.run.roster.get(*name).is_some_and(|it| it.hello.is_some());
            let drained = anybody(&mut self.random).filter(is_seen).filter(|_| self.random.chance(2));
            return vec![drained.map_or(Input::CheckpointRequested, Input::DrainRequested)];
        }
        if faults.cuts > 0 && self.random.chance(50) {
            faults.cuts -= 1;
            return anybody(&mut self.random).and_then(|worker| self.cut(worker)).into_iter().collect();
        }
        if !self.late.is_empty() && self.random.chance(20) {
            return self.hear_late().into_iter().collect();
        }
        if let Some(heard) = self.fall_silent(faults) {
            return heard;
        }
        match self.random.below(4) {
            0 => {
                let waiting = self.away.len() as u64 + u64::from(!self.pending.is_empty());
                let place = self.random.below(waiting.max(1)) as usize;
                match self.away.swap_remove_back(place) {
                    Some((pid, worker)) => vec![self.join(pid, worker)],
                    None => {
                        let Some(pid) = self.pending.pop_first() else { return Vec::new() };
                        vec![self.join(pid as u32, Worker::new(pid as u32))]
                    }
                }
            }
            1 => {
                let write = self.disk.pop_front();
                write.map(|write| self.write(write)).unwrap_or_default()
            }
            _ => anybody(&mut self.random).and_then(|worker| self.let_work(worker)).into_iter().collect(),
        }
    }

    /// Somebody begins to hang, or all do at once; or time passes over those that do, in which all others are heard. They
    /// wake up when they may.
    fn fall_silent(&mut self, faults: &mut Faults) -> Option<Vec<Input>> {
        let names: Vec<WorkerId> = self.workers.keys().copied().collect();
        if faults.outages > 0 && self.random.chance(100) {
            faults.outages -= 1;
            self.silent = names.into_iter().collect();
        } else if faults.hangs > 0 && self.random.chance(60) {
            faults.hangs -= 1;
            self.silent.extend(names.get(self.random.below(names.len().max(1) as u64) as usize));
            return None;
        } else if self.silent.is_empty() || !self.random.chance(30) {
            return None;
        }
        let is_silent = |name: &WorkerId| self.silent.contains(name);
        let heard = self.workers.keys().filter(|name| !is_silent(name));
        let heard = heard.map(|name| Input::From(*name, Event::Heartbeat)).collect();
        self.now += self.job.patience.heartbeat;
        Some(heard)
    }

    /// The worker's last events may be lost with it.
    fn kill(&mut self, worker: WorkerId) -> Input {
        if let Some(mut model) = self.workers.remove(&worker) {
            model.leave(&mut self.network);
            self.replace();
        }
        Input::Left(worker, "it was killed".into())
    }

    /// A process opens a session, under a name of its own.
    fn join(&mut self, pid: u32, worker: Worker) -> Input {
        self.next_name += 1;
        let name = WorkerId(self.next_name);
        self.workers.insert(name, worker);
        self.pids.insert(name, pid);
        Input::Joined(name)
    }

    /// Another one will come.
    fn replace(&mut self) {
        self.pending.insert(self.next_worker);
        self.next_worker += 1;
    }

    /// A session breaks; its worker will come back, perhaps before that is noticed.
    fn cut(&mut self, name: WorkerId) -> Option<Input> {
        let first = self.workers.get_mut(&name)?.outbox.pop_front().filter(|event| matches!(event, Event::Hello(_)));
        self.send_away(name);
        self.late.push_back((name, first));
        if self.random.chance(2) { self.hear_late() } else { None }
    }

    fn hear_late(&mut self) -> Option<Input> {
        let (name, first) = self.late.pop_front()?;
        let Some(event) = first else { return Some(Input::Left(name, "its connection broke".into())) };
        self.late.push_back((name, None));
        Some(Input::From(name, event))
    }

    fn send_away(&mut self, name: WorkerId) {
        let pid = self.pids.get(&name).copied().unwrap_or_default();
        match self.workers.remove(&name) {
            Some(mut worker) if !worker.dead => {
                worker.lose_session(pid, &mut self.network);
                self.away.push_back((pid, worker));
            }
            Some(_) => self.replace(),
            None => {}
        }
    }

    /// The coordinator dies with all that it has not written, and comes back with what its ledger tells.
    fn end_coordinator(&mut self, die_with_it: u64) {
        // Who comes back to a complete run finds one that trains nothing.
        if self.run.view().outcome.is_some() || self.best.is_some() {
            return;
        }
        self.disk.clear();
        self.late.clear();
        self.staged = None;
        for name in self.workers.keys().copied().collect::<Vec<_>>() {
            if die_with_it > 0 && self.random.chance(die_with_it) {
                drop(self.kill(name));
            } else {
                self.send_away(name);
            }
        }
        let base = Base { update: self.base, artifacts: Vec::new() };
        self.job.secret.0[31] += 1;
        let job = Job { past: self.ledger.past(), base, ..self.job.clone() };
        self.run = Run::new(self.now, job);
    }

    fn let_work(&mut self, worker: WorkerId) -> Option<Input> {
        let model = self.workers.get_mut(&worker)?;
        if self.silent.contains(&worker) {
            if self.random.chance(10) {
                self.silent.remove(&worker);
            }
            return None;
        }
        if self.random.chance(2) && !model.dead {
            model.work(&self.job, &mut self.network);
        }
        if self.random.chance(6) && !model.dead {
            model.send_piece();
        }
        let event = model.outbox.pop_front();
        if let (Some(Event::Saved { save, piece, .. }), Some((staged, count, arrived))) = (&event, &mut self.staged)
            && save == staged
        {
            assert_eq!(piece.count, *count);
            arrived.insert(piece.index);
        }
        if event.is_none() && model.dead {
            model.leave(&mut self.network);
            self.workers.remove(&worker);
            self.replace();
            return Some(Input::Left(worker, "it closed its session".into()));
        }
        event.map(|event| Input::From(worker, event))
    }

    fn perform(&mut self, action: Action) {
        self.replaced += u32::from(matches!(action, Action::Replace(..)));
        match action {
            Action::Order(worker, command) => {
                if let Some(model) = self.workers.get_mut(&worker) {
                    model.inbox.push_back(command);
                }
            }
            Action::Refuse(worker, _) | Action::Replace(worker, _) | Action::Dismiss(worker, _) => {
                if let Some(model) = self.workers.get_mut(&worker) {
                    model.dead = true;
                }
            }
            Action::Close(worker) => self.send_away(worker),
            Action::Part(worker) => {
                self.send_away(worker);
                // Whoever looks after workers may start another in its place.
                if self.random.chance(4) {
                    self.replace();
                }
            }
            Action::Notice(line) | Action::Warning(line) => self.noticed(&line),
            Action::Receive(save, pieces) => self.staged = Some((save, pieces, BTreeSet::new())),
            Action::Discard(save) => {
                assert_eq!(self.staged.take().map(|(staged, ..)| staged), Some(save));
            }
            Action::Finish(outcome) => {
                assert!(self.staged.is_none() || !matches!(outcome, Outcome::Completed), "the end waits for the save");
                self.history.outcome = outcome;
            }
            write => self.disk.push_back(write),
        }
    }

    /// A save is given up exactly when nobody is left who keeps the state.
    fn noticed(&mut self, line: &str) {
        self.rebalances += u32::from(line.contains("shared anew by speed"));
        let Some(update) = line.strip_prefix("the save of update ").and_then(|line| line.split(' ').next()) else {
            return;
        };
        let update = Update(update.parse().unwrap());
        self.history.given_up.insert(update);
        let is_member = |name: &WorkerId| self.run.roster.get(*name).is_some_and(|member| member.welcomed);
        let keeper = self.workers.iter().find(|(name, worker)| is_member(name) && worker.keeps(update));
        assert!(keeper.is_none(), "worker {:?} keeps update {update}, which is given up", keeper.map(|(name, _)| name));
    }
}
