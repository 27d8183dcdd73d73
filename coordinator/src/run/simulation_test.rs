//! Whole runs with model workers under a seeded network: any order of events, any stop, any death.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use medley_common::plan::mix;

use super::fixture::{every, job, rows};
use super::simulated_worker::{Network, Worker};
use super::*;
use crate::archive::fixture::identity;
use crate::archive::{
    CheckpointRecord, Evaluated, FinalRecord, History as Ledger, LogEntry, Logged, Record, RewindRecord, RunIdentity,
};

/// Seeds tried; a failing one is named, and can be tried alone by naming it in `SEEDS`.
const SEEDS: std::ops::Range<u64> = 0..3_000;
/// Events after which a run must have ended.
const MOST_EVENTS: usize = 20_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What a simulated run came to.
#[derive(Debug, PartialEq)]
struct History {
    records: Vec<report::UpdateRecord>,
    logs: Vec<report::TrainLog>,
    evaluations: Vec<(Split, Update, report::EvaluationReport)>,
    commits: Vec<(Update, SavePurpose)>,
    outcome: Outcome,
}

#[derive(Default, Clone, Copy)]
struct Faults {
    stop: bool,
    /// Deaths to come.
    deaths: u32,
    /// Workers that will be asked to leave.
    leaves: u32,
    /// Sessions that will break.
    cuts: u32,
    /// Deaths of the coordinator to come.
    ends: u32,
    /// One in how many workers dies with its coordinator; none where 0.
    die_with_it: u64,
}

struct World {
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
    pids: BTreeMap<WorkerId, u32>,
    next_name: u64,
    next_worker: u64,
    /// What the disk has still to do, in order; all of it is lost with the coordinator.
    disk: VecDeque<Action>,
    /// What is on the disk: the ledger, and the newest checkpoint.
    ledger: Ledger,
    base: Update,
    history: History,
}

impl World {
    fn new(seed: u64, job: Job) -> Self {
        let now = Instant::now();
        let history = History {
            records: Vec::new(),
            logs: Vec::new(),
            evaluations: Vec::new(),
            commits: Vec::new(),
            outcome: Outcome::Completed,
        };
        // Two more than are wanted: they wait, and take the places of those that are lost.
        let next_worker = u64::from(job.workers) + 3;
        Self {
            run: Run::new(now, job.clone()),
            job,
            now,
            random: Random(seed),
            workers: BTreeMap::new(),
            network: Network::default(),
            pending: (1..next_worker).collect(),
            away: VecDeque::new(),
            pids: BTreeMap::new(),
            next_name: 0,
            next_worker,
            disk: VecDeque::new(),
            ledger: Ledger::new(RunIdentity { start: Update(0), ..identity() }),
            base: Update(0),
            history,
        }
    }

    fn play(self, faults: Faults) -> (History, Network) {
        let (world, network) = self.play_out(faults);
        (world.history, network)
    }

    fn play_out(mut self, mut faults: Faults) -> (Self, Network) {
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
            return vec![Input::StopRequested];
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
            worker.into_iter().for_each(|model| model.outbox.push_back(Event::Leaving));
        }
        if faults.cuts > 0 && self.random.chance(50) {
            faults.cuts -= 1;
            return anybody(&mut self.random).map(|worker| self.cut(worker)).into_iter().collect();
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

    /// A session breaks; its worker will come back.
    fn cut(&mut self, name: WorkerId) -> Input {
        self.send_away(name);
        Input::Left(name, "its connection broke".into())
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
        if self.run.view().outcome.is_some() {
            return;
        }
        self.disk.clear();
        for name in self.workers.keys().copied().collect::<Vec<_>>() {
            if die_with_it > 0 && self.random.chance(die_with_it) {
                drop(self.kill(name));
            } else {
                self.send_away(name);
            }
        }
        let base = Base { update: self.base, artifacts: Vec::new() };
        self.job.secret[31] += 1;
        let job = Job { past: self.ledger.past(), base, ..self.job.clone() };
        self.run = Run::new(self.now, job);
    }

    fn let_work(&mut self, worker: WorkerId) -> Option<Input> {
        let model = self.workers.get_mut(&worker)?;
        if self.random.chance(2) && !model.dead {
            model.work(&self.job, &mut self.network);
        }
        let event = model.outbox.pop_front();
        if event.is_none() && model.dead {
            model.leave(&mut self.network);
            self.workers.remove(&worker);
            self.replace();
            return Some(Input::Left(worker, "it closed its session".into()));
        }
        event.map(|event| Input::From(worker, event))
    }

    fn perform(&mut self, action: Action) {
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
            Action::Receive(..) | Action::Summarise(_) | Action::Notice(_) => {}
            Action::Finish(outcome) => self.history.outcome = outcome,
            write => self.disk.push_back(write),
        }
    }

    /// The disk does the next thing that it was told to; the ledger itself says whether that is in turn.
    fn write(&mut self, write: Action) -> Vec<Input> {
        let no_files = std::collections::BTreeMap::new();
        let (record, answers) = match write {
            Action::Group(group) => (Record::Group(group.clone()), vec![Input::Grouped(group.generation)]),
            Action::Record(record) => {
                self.history.records.push(record.clone());
                (Record::Update(record.clone()), vec![Input::Recorded(record.update)])
            }
            Action::Log(log) => {
                self.history.logs.push(log);
                let entry = LogEntry::of_training(&log);
                (Record::Log(Logged { update: log.update, occasion: Occasion::Training, entry }), Vec::new())
            }
            Action::Rewind(to, reason) => {
                self.history.records.retain(|record| record.update <= to);
                self.history.logs.retain(|log| log.update <= to);
                self.history.evaluations.retain(|(_, update, _)| *update <= to);
                (Record::Rewind(RewindRecord { to, reason }), Vec::new())
            }
            Action::Publish(mut report, occasion) => {
                report.seconds = 0.0;
                let (update, split, entry) = (report.update, report.split, LogEntry::of_evaluation(&report, 8));
                self.history.evaluations.push((report.split, report.update, report));
                (Record::Evaluation(Evaluated { update, split, occasion, entry }), Vec::new())
            }
            Action::Commit(state) => {
                self.history.commits.push((state.update, state.purpose));
                let SavedState { update, parameters, .. } = state;
                let record = if state.purpose.is_checkpoint() {
                    self.base = update;
                    let name = format!("checkpoint-{update}");
                    Record::Checkpoint(CheckpointRecord { update, name, manifest: parameters, parameters })
                } else {
                    Record::Final(FinalRecord { update, parameters, files: no_files })
                };
                (record, committed(state))
            }
            other => panic!("the disk was told {other:?}"),
        };
        if let Err(problem) = self.ledger.take(record) {
            panic!("the ledger refuses a record that {problem}");
        }
        answers
    }
}

/// What a disk that has committed a state says.
fn committed(state: SavedState) -> Vec<Input> {
    let base = Base { update: state.update, artifacts: Vec::new() };
    let based = state.purpose.is_checkpoint().then_some(Input::Based(base));
    based.into_iter().chain([Input::Committed(state.update)]).collect()
}

impl History {
    /// What must be the same whatever happens on the way. The last worker that leaves saves what it holds, once more
    /// than is asked for.
    fn result(mut self) -> Self {
        self.commits.retain(|(update, purpose)| update.0.is_multiple_of(2) || purpose.is_final());
        for record in &mut self.records {
            record.workers.clear();
            record.attempt = 0;
        }
        // Whether a checkpoint and the final model are saved at once or one after the other is no matter.
        let parts = |(update, purpose): &(Update, SavePurpose)| {
            let checkpoint = purpose.is_checkpoint().then_some((*update, SavePurpose::Checkpoint));
            let model = purpose.is_final().then_some((*update, SavePurpose::Final));
            checkpoint.into_iter().chain(model).collect::<Vec<_>>()
        };
        self.commits = self.commits.iter().flat_map(parts).collect();
        self.commits.sort_by_key(|(update, purpose)| (*update, purpose.is_final()));
        self.commits.dedup();
        self.evaluations.sort_by_key(|(split, update, _)| (*update, *split));
        self.evaluations.dedup();
        self
    }
}

/// A job with everything on: evaluations, saves, predictions, odd intervals.
fn full_job(workers: u32) -> Job {
    let mut job = job(workers);
    job.spec.lanes = 8;
    job.spec.schedule.total_updates = 8;
    let cadence = &mut job.training.as_mut().expect("training").cadence;
    (cadence.total_updates, cadence.evaluation, cadence.saving) = (8, every(3), every(2));
    job.validation = Some(rows());
    job.test = Some(rows());
    job.patience.join = Duration::from_secs(3_600);
    job.patience.heartbeat = Duration::from_secs(3_600);
    job
}

/// INV-1 on the surviving history: updates without a gap, each epoch's rows once.
fn assert_sound(history: &History, job: &Job) {
    let updates: Vec<u64> = history.records.iter().map(|record| record.update.0).collect();
    assert_eq!(updates, (1..=updates.len() as u64).collect::<Vec<_>>());
    let lengths = &job.training.as_ref().expect("training").lengths;
    for epoch in history.records.chunks_exact(3) {
        let mut seen: Vec<u32> =
            epoch.iter().flat_map(|record| record.lanes.iter().flatten()).map(|row| row.0).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
    }
}

fn with_seed(seed: u64, check: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
        eprintln!("simulation failed with seed {seed}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn any_interleaving_at_any_number_of_workers_makes_the_same_run() {
    let (expected, network) = World::new(0, full_job(1)).play(Faults::default());
    assert_eq!(expected.records.len(), 8);
    assert_eq!(expected.outcome, Outcome::Completed);
    assert_eq!(expected.evaluations.len(), 4, "after 3 and 6, at the end, and the prediction");
    assert_eq!(network.computed, 64);
    let expected = expected.result();
    for seed in SEEDS.step_by(10) {
        for workers in [1, 2, 3, 5, 8] {
            with_seed(seed, || {
                let (history, network) = World::new(seed, full_job(workers)).play(Faults::default());
                assert_eq!(history.result(), expected);
                assert_eq!(network.computed, 64, "no lane is computed twice");
            });
        }
    }
}

#[test]
fn a_stop_at_any_moment_loses_nothing() {
    let mut stopped_after_updates = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 4) as u32);
            let faults = Faults { stop: true, deaths: (seed % 3) as u32, ..Faults::default() };
            let (history, _) = World::new(seed, job.clone()).play(faults);
            assert_sound(&history, &job);
            match &history.outcome {
                Outcome::Completed => assert_eq!(history.records.len(), 8),
                // What it stopped at was saved; the updates after it, if any, were overtaken by a second request.
                Outcome::Stopped { update, saved } => {
                    let commit = |wanted: &Update| history.commits.iter().any(|(update, _)| update == wanted);
                    assert!(saved.as_ref().is_none_or(commit), "{saved:?} in {:?}", history.commits);
                    stopped_after_updates += u64::from(*saved == Some(*update));
                }
                Outcome::Failed(failure) => panic!("{failure}"),
            }
        });
    }
    assert!(stopped_after_updates > SEEDS.end / 20, "{stopped_after_updates} stops that had something to save");
}

#[test]
fn deaths_and_departures_change_nothing_in_the_result() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let (mut redone, mut rewound) = (0, 0);
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 5) as u32);
            let faults = Faults { deaths: 1 + (seed % 7) as u32, leaves: (seed % 3) as u32, ..Faults::default() };
            let (history, network) = World::new(seed, job.clone()).play(faults);
            redone += u64::from(history.records.iter().any(|record| record.attempt > 1));
            rewound += u64::from(network.computed > 72);
            assert_eq!(history.result(), expected);
        });
    }
    assert!(redone > SEEDS.end / 4 && rewound > SEEDS.end / 20, "{redone} with a second attempt, {rewound} rewound");
}

/// The coordinator dies at any moment, and comes back; workers die with it, between and after, or come back in any order.
#[test]
fn deaths_of_the_coordinator_change_nothing_in_the_result() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let (mut back, mut kept) = (0, 0);
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 5) as u32);
            job.patience.reattach = Duration::from_millis(20);
            let faults = Faults {
                ends: 1 + (seed % 4) as u32,
                deaths: (seed % 3) as u32,
                cuts: (seed % 5) as u32,
                die_with_it: [0, 2, 4][(seed % 3) as usize],
                ..Faults::default()
            };
            let (world, _) = World::new(seed, job.clone()).play_out(faults);
            back += u64::from(world.ledger.rewound().0 > 0);
            kept += u64::from(world.ledger.rewound().0 == 0);
            assert_sound(&world.history, &job);
            assert_eq!(world.history.result(), expected);
        });
    }
    assert!(back > SEEDS.end / 20 && kept > SEEDS.end / 2, "{back} went back, {kept} did not");
}

/// As long as all workers come back, nothing is ever made again: no update, no evaluation, no checkpoint.
#[test]
fn nothing_is_lost_with_the_coordinator_while_its_workers_live() {
    let (expected, clean) = World::new(0, full_job(1)).play(Faults::default());
    let expected = expected.result();
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 5) as u32);
            job.patience.reattach = Duration::from_secs(3_600);
            let faults = Faults { ends: 1 + (seed % 6) as u32, cuts: (seed % 3) as u32, ..Faults::default() };
            let (world, network) = World::new(seed, job).play_out(faults);
            assert_eq!(world.ledger.rewound(), (0, 0), "went back");
            assert!(network.computed < 2 * clean.computed, "{} lanes computed", network.computed);
            let made = world.history.evaluations.iter().map(|(_, update, _)| update.0);
            assert_eq!(made.filter(|update| *update < 8).collect::<Vec<_>>(), [3, 6], "an evaluation is made twice");
            assert_eq!(world.history.result(), expected);
        });
    }
}
