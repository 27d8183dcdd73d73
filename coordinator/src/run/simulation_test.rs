//! Whole runs with model workers under a seeded network: any order of events, any stop, any death.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use medley_common::evaluation::Prediction;
use medley_common::identity::{Digest, RowId};
use medley_common::message::{Command, Form};
use medley_common::plan::{evaluation_shards, mix};

use super::tests::{every, hello, job, report, rows};
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

/// A worker that follows the protocol.
struct Model {
    form: Option<Form>,
    update: u64,
    through: u64,
    inbox: VecDeque<Command>,
    outbox: VecDeque<Event>,
    /// Its last words are on their way; it says nothing more.
    dead: bool,
}

impl Model {
    fn new(pid: u32, start: Update) -> Self {
        let outbox = [hello(pid)].into();
        Self { form: None, update: start.0, through: start.0, inbox: VecDeque::new(), outbox, dead: false }
    }

    /// Obeys one command or makes one update; `false` when there is nothing to do.
    fn work(&mut self, job: &Job) -> bool {
        if let Some(command) = self.inbox.pop_front() {
            self.obey(job, command);
            return true;
        }
        let Some(form) = self.form.as_ref().filter(|_| self.update < self.through) else { return false };
        self.update += 1;
        let report = report(job, self.update, form.lanes[form.rank.0 as usize].clone());
        self.outbox.push_back(Event::Updated { generation: form.generation, report });
        true
    }

    fn obey(&mut self, job: &Job, command: Command) {
        match command {
            Command::Welcome(_) => self.outbox.push_back(Event::Prepared {
                layout: Digest([1; 32]),
                endpoint: "10.0.0.1:1".into(),
                notes: Vec::new(),
            }),
            Command::Form(form) => {
                self.outbox.push_back(Event::Formed { generation: form.generation });
                self.form = Some(form);
            }
            Command::Train { through, .. } => {
                assert!(through.0 > self.through, "a grant that grants nothing");
                self.through = through.0;
            }
            Command::Save { generation, update, .. } => {
                assert_eq!(update.0, self.update, "a save away from rest");
                self.outbox.push_back(Event::Saved { generation, update, parameters: Digest([update.0 as u8; 32]) });
            }
            Command::Evaluate { generation, split } => {
                let form = self.form.as_ref().expect("a group");
                let lengths = &job.rows(split).expect("a split").lengths;
                let shard = evaluation_shards(lengths, form.peers.len() as u32)[form.rank.0 as usize].clone();
                for row in shard {
                    let logits = vec![0.0, row as f32, 2.5];
                    let predictions = vec![Prediction { row: RowId(row), logits, loss: Some(f64::from(row) / 3.0) }];
                    self.outbox.push_back(Event::Predicted { generation, split, predictions });
                }
                self.outbox.push_back(Event::Evaluated { generation, split });
            }
            Command::Stop { .. } => self.dead = true,
        }
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

struct Faults {
    stop: bool,
    death: bool,
}

struct World {
    run: Run,
    job: Job,
    now: Instant,
    random: Random,
    workers: BTreeMap<WorkerId, Model>,
    pending: BTreeSet<u64>,
    commits: VecDeque<Update>,
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
        // Two more than are wanted: they are refused, or take the place of one that left.
        let pending = (1..=u64::from(job.workers) + 2).collect();
        let run = Run::new(now, job.clone());
        let (workers, commits) = (BTreeMap::new(), VecDeque::new());
        Self { run, job, now, random: Random(seed), workers, pending, commits, history }
    }

    fn play(mut self, faults: &Faults) -> History {
        for _ in 0..MOST_EVENTS {
            if self.run.deadline().is_none() {
                return self.history;
            }
            let input = self.next_input(faults);
            if let Some(input) = input {
                let actions = self.run.handle(self.now, input);
                actions.into_iter().for_each(|action| self.perform(action));
            }
        }
        panic!("still {:?} after {MOST_EVENTS} events", self.run.view().phase);
    }

    /// One thing happens somewhere: a worker works, a message arrives, a disk is done, a fault strikes.
    fn next_input(&mut self, faults: &Faults) -> Option<Input> {
        self.now += Duration::from_micros(self.random.below(200));
        if faults.stop && self.random.chance(80) {
            return Some(Input::StopRequested);
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        if faults.death && !ids.is_empty() && self.random.chance(150) {
            let worker = ids[self.random.below(ids.len() as u64) as usize];
            self.workers.remove(&worker);
            return Some(Input::Left(worker, "it was killed".into()));
        }
        match self.random.below(4) {
            0 => self.pending.pop_first().map(|number| {
                let worker = WorkerId(number);
                self.workers.insert(worker, Model::new(number as u32, self.job.start));
                Input::Joined(worker)
            }),
            1 => self.commits.pop_front().map(Input::Committed),
            _ if ids.is_empty() => None,
            _ => {
                let worker = ids[self.random.below(ids.len() as u64) as usize];
                let model = self.workers.get_mut(&worker)?;
                if self.random.chance(2) && !model.dead {
                    model.work(&self.job);
                }
                let event = model.outbox.pop_front();
                if event.is_none() && model.dead {
                    self.workers.remove(&worker);
                    return Some(Input::Left(worker, "it closed its session".into()));
                }
                event.map(|event| Input::From(worker, event))
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Order(worker, command) => {
                if let Some(model) = self.workers.get_mut(&worker) {
                    model.inbox.push_back(command);
                }
            }
            Action::Refuse(worker, _) => {
                if let Some(model) = self.workers.get_mut(&worker) {
                    model.dead = true;
                }
            }
            Action::Receive(..) | Action::Summarise(_) => {}
            // Who computed it is all that may differ.
            Action::Record(record) => self.history.records.push(report::UpdateRecord { workers: Vec::new(), ..record }),
            Action::Group(_) => {}
            Action::Log(log) => self.history.logs.push(log),
            Action::Commit(state) => {
                self.history.commits.push((state.update, state.purpose));
                self.commits.push_back(state.update);
            }
            Action::Publish(mut report, _) => {
                report.seconds = 0.0;
                self.history.evaluations.push((report.split, report.update, report));
            }
            Action::Finish(outcome) => self.history.outcome = outcome,
        }
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
    assert!(history.commits.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

fn with_seed(seed: u64, check: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
        eprintln!("simulation failed with seed {seed}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn any_interleaving_at_any_number_of_workers_makes_the_same_run() {
    let clean = Faults { stop: false, death: false };
    let expected = World::new(0, full_job(1)).play(&clean);
    assert_eq!(expected.records.len(), 8);
    assert_eq!(expected.outcome, Outcome::Completed);
    assert_eq!(expected.evaluations.len(), 4, "after 3 and 6, at the end, and the prediction");
    for seed in SEEDS.step_by(10) {
        for workers in [1, 2, 3, 5, 8] {
            with_seed(seed, || assert_eq!(World::new(seed, full_job(workers)).play(&clean), expected));
        }
    }
}

#[test]
fn a_stop_at_any_moment_loses_nothing() {
    let faults = Faults { stop: true, death: false };
    let mut stopped_after_updates = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 4) as u32);
            let history = World::new(seed, job.clone()).play(&faults);
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
fn a_death_at_any_moment_ends_the_run_with_a_name() {
    let faults = Faults { stop: false, death: true };
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 4) as u32);
            let history = World::new(
                seed,
                Job { patience: Patience { join: Duration::from_millis(100), ..job.patience }, ..job.clone() },
            );
            let history = history.play_until_deadline(&faults);
            assert_sound(&history, &job);
            if let Outcome::Failed(failure) = &history.outcome {
                assert!(failure.message.contains("worker"), "{}", failure.message);
            }
        });
    }
}

impl World {
    /// As [`World::play`], with the deadline told to the run when nothing else is left to happen.
    fn play_until_deadline(mut self, faults: &Faults) -> History {
        for _ in 0..MOST_EVENTS {
            let Some(deadline) = self.run.deadline() else { return self.history };
            let input = if self.now >= deadline { Some(Input::Elapsed) } else { self.next_input(faults) };
            if let Some(input) = input {
                let actions = self.run.handle(self.now, input);
                actions.into_iter().for_each(|action| self.perform(action));
            }
        }
        panic!("still {:?} after {MOST_EVENTS} events", self.run.view().phase);
    }
}
