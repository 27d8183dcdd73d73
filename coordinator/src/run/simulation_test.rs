//! Whole runs with model workers under a seeded network: any order of events, any stop, any death.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use medley_common::plan::mix;

use super::fixture::{every, job, rows};
use super::simulated_worker::{Network, Worker};
use super::*;

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

#[derive(Default)]
struct Faults {
    stop: bool,
    /// Deaths to come.
    deaths: u32,
    /// Workers that will be asked to leave.
    leaves: u32,
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
    next_worker: u64,
    /// What the disk will have done, in order.
    disk: VecDeque<Input>,
    /// Times that lanes were to be shared anew by speed.
    rebalances: u32,
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
            next_worker,
            disk: VecDeque::new(),
            rebalances: 0,
            history,
        }
    }

    fn play(self, faults: Faults) -> (History, Network) {
        let (history, network, _) = self.play_rebalanced(faults);
        (history, network)
    }

    /// Also tells how often lanes were to be shared anew.
    fn play_rebalanced(mut self, mut faults: Faults) -> (History, Network, u32) {
        for _ in 0..MOST_EVENTS {
            if matches!(self.run.phase, Phase::Finished(_)) {
                return (self.history, self.network, self.rebalances);
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
        match self.random.below(4) {
            0 => {
                let Some(number) = self.pending.pop_first() else { return Vec::new() };
                self.workers.insert(WorkerId(number), Worker::new(number as u32));
                vec![Input::Joined(WorkerId(number))]
            }
            1 => self.disk.pop_front().into_iter().collect(),
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

    /// Another one will come.
    fn replace(&mut self) {
        self.pending.insert(self.next_worker);
        self.next_worker += 1;
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
            Action::Notice(line) => self.rebalances += u32::from(line.contains("shared anew by speed")),
            Action::Receive(..) | Action::Summarise(_) | Action::Group(_) => {}
            Action::Record(record) => {
                self.disk.push_back(Input::Recorded(record.update));
                self.history.records.push(record);
            }
            Action::Log(log) => self.history.logs.push(log),
            Action::Rewind(to, _) => {
                self.history.records.retain(|record| record.update <= to);
                self.history.logs.retain(|log| log.update <= to);
                self.history.evaluations.retain(|(_, update, _)| *update <= to);
            }
            Action::Commit(state) => {
                self.history.commits.push((state.update, state.purpose));
                self.disk.extend(committed(state));
            }
            Action::Publish(mut report, _) => {
                report.seconds = 0.0;
                self.history.evaluations.push((report.split, report.update, report));
            }
            Action::Finish(outcome) => self.history.outcome = outcome,
        }
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
        self.commits.sort_by_key(|(update, purpose)| (*update, purpose.is_final()));
        self.commits.dedup();
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
    cadence.digest = every(3);
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
            let faults = Faults { deaths: 1 + (seed % 7) as u32, leaves: (seed % 3) as u32, stop: false };
            let (history, network) = World::new(seed, job.clone()).play(faults);
            redone += u64::from(history.records.iter().any(|record| record.attempt > 1));
            rewound += u64::from(network.computed > 72);
            assert_eq!(history.result(), expected);
        });
    }
    assert!(redone > SEEDS.end / 4 && rewound > SEEDS.end / 20, "{redone} with a second attempt, {rewound} rewound");
}

/// Lanes wander between workers whose speeds change all the time, while some of them die.
#[test]
fn shares_by_speed_change_nothing_in_the_result() {
    let job = |workers| {
        let mut job = Job { rebalance: Some(1), ..full_job(workers) };
        (job.spec.schedule.total_updates, job.spec.rows_per_update) = (18, 8);
        let training = job.training.as_mut().expect("training");
        training.cadence.total_updates = 18;
        // A row a lane, so that all have something to compute.
        training.lengths = vec![5; 24];
        job
    };
    let expected = World::new(0, job(1)).play(Faults::default()).0.result();
    assert_eq!(expected.records.len(), 18);
    let mut moved = 0;
    for seed in SEEDS.step_by(3) {
        with_seed(seed, || {
            let deaths = (seed % 3) as u32;
            let faults = Faults { deaths, leaves: (seed % 2) as u32, stop: false };
            let (history, network, rebalances) = World::new(seed, job(2 + (seed % 4) as u32)).play_rebalanced(faults);
            moved += u64::from(rebalances);
            assert!(deaths > 0 || seed % 2 > 0 || network.computed == 18 * 8, "no lane is computed twice");
            assert_eq!(history.result(), expected);
        });
    }
    assert!(moved > SEEDS.end / 3, "{moved} times");
}
