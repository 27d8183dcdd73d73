//! What the run is tested with: a small job, what its workers say, and a run driven by hand.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use medley_common::evaluation::Prediction;
use medley_common::identity::{Digest, ProcessMark, RowId, Split};
use medley_common::message::{ArtifactKind, Command, Hello, LaneReport, PROTOCOL, Timing, UpdateReport};
use medley_common::model::{Family, ModelConfig};
use medley_common::save::{Piece, SaveId};
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::secret::Secret;
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec, TuningSpec};

use super::*;
use crate::spec::{Cadence, Every};

/// 10 rows, 4 an update: 3 updates an epoch, 6 in all; 4 lanes; 5 rows to evaluate.
pub(super) fn job(workers: u32) -> Job {
    let spec = TrainSpec {
        seed: 7,
        data_seed: None,
        rows_per_update: 4,
        lanes: 4,
        schedule: LrSchedule { decay: Decay::linear(), peak: 1e-3, warmup_updates: 2, total_updates: 6 },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwHf,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
        },
        tuning: TuningSpec::default(),
        label_smoothing: 0.0,
        class_weights: Vec::new(),
        compute: ComputeSpec::default(),
    };
    let model = ModelConfig {
        family: Family::Bert,
        vocab_size: 10,
        hidden_size: 4,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 4,
        max_position_embeddings: 16,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 3,
    };
    let cadence = Cadence {
        updates_per_epoch: 3,
        total_updates: 6,
        logging: every(2),
        evaluation: Every::Never,
        first_evaluation: Update(0),
        evaluates_at_start: false,
        saving: Every::Never,
        digest: Every::Never,
        logs_first_update: false,
    };
    let lengths = (0..10).map(|row| 5 + row % 3).collect();
    Job {
        version: "0.1.0".into(),
        run: Digest([9; 32]),
        spec,
        model,
        training: Some(TrainingJob { labels: vec![Some(0); 10], lengths, cadence, criterion: None }),
        validation: None,
        test: None,
        is_stream: false,
        labels: ["entailment", "neutral", "contradiction"].map(str::to_owned).into(),
        past: Past::default(),
        base: Base { update: Update(0), artifacts: Vec::new() },
        workers,
        on_gpus: false,
        min_workers: 1,
        rebalance: None,
        shard_optimizer_state: false,
        patience: patience(),
        secret: Secret([3; 32]),
    }
}

fn patience() -> Patience {
    Patience {
        join: Duration::from_secs(60),
        heartbeat: Duration::from_secs(5),
        reattach: Duration::ZERO,
        heartbeat_every: Duration::from_secs(1),
        window: 2,
    }
}

pub(super) fn every(updates: u64) -> Every {
    Every::Updates(NonZeroU64::new(updates).unwrap())
}

pub(super) fn rows() -> SplitRows {
    SplitRows { lengths: vec![5; 5], labels: vec![Some(0), Some(1), None, Some(2), Some(0)], examples: Vec::new() }
}

pub(super) fn hello(pid: u32) -> Event {
    Event::from(Hello {
        protocol: PROTOCOL,
        version: "0.1.0".into(),
        host: "node7".into(),
        pid,
        process: ProcessMark(pid.into()),
        session: 1,
        device: "cpu".into(),
        gpu: None,
        processor: "EPYC, avx512f".into(),
        threads: 1,
        program: Digest([6; 32]),
        known: None,
        held: None,
    })
}

/// What a faithful worker reports of `update` from its `lanes`; a row's loss is a function of the row.
pub(super) fn report(job: &Job, update: u64, lanes: impl IntoIterator<Item = u32>) -> UpdateReport {
    let lengths = job.training.as_ref().unwrap().lengths.clone();
    let plan = Plan::new(&job.spec, lengths).update(Update(update));
    let lane = |lane: u32| LaneReport { lane, rows: plan.lanes[lane as usize].clone() };
    let loss = |rows: &Vec<RowId>| rows.iter().map(|row| 1.0 / (row.0 + 3) as f32).sum();
    let lanes: Vec<LaneReport> = lanes.into_iter().map(lane).collect();
    let tokens = lanes.iter().map(|lane| 5 * lane.rows.len() as u64).sum();
    UpdateReport {
        update: Update(update),
        learning_rate: job.spec.schedule.at(Update(update), job.spec.schedule.peak),
        grad_norm: 1.0 / update as f64,
        skipped: false,
        lanes,
        losses: plan.lanes.iter().map(loss).collect(),
        tokens,
        parameters: digests_after(job, update).then_some(Digest([update as u8; 32])),
        timing: Timing::default(),
    }
}

fn digests_after(job: &Job, update: u64) -> bool {
    job.training.as_ref().unwrap().cadence.digests_after(Update(update))
}

/// A run with its clock, driven by hand.
pub(super) struct Drive {
    pub(super) run: Run,
    pub(super) now: Instant,
    pub(super) job: Job,
}

impl Drive {
    pub(super) fn new(job: Job) -> Self {
        let now = Instant::now();
        Self { run: Run::new(now, job.clone()), now, job }
    }

    /// A run whose group stands.
    pub(super) fn formed(job: Job) -> (Self, Vec<Action>) {
        let mut drive = Self::new(job);
        let mut last = Vec::new();
        for worker in 1..=u64::from(drive.job.workers) {
            drive.input(Input::Joined(WorkerId(worker)));
            drive.from(worker, hello(worker as u32));
            drive.from(worker, prepared(1));
        }
        for worker in 1..=u64::from(drive.job.workers) {
            last = drive.from(worker, Event::Formed { generation: Generation(1) });
        }
        (drive, last)
    }

    /// What follows an input, on a disk that keeps up.
    pub(super) fn input(&mut self, input: Input) -> Vec<Action> {
        let mut actions = self.run.handle(self.now, input);
        let record = |action: &Action| match action {
            Action::Record(record) => Some(Input::Recorded(record.update)),
            Action::Group(group) => Some(Input::Grouped(group.generation)),
            Action::Publish(report, _) => Some(Input::Published(report.update)),
            _ => None,
        };
        let recorded: Vec<Input> = actions.iter().filter_map(record).collect();
        recorded.into_iter().for_each(|input| actions.extend(self.run.handle(self.now, input)));
        actions
    }

    /// What follows an event; that a group is recorded has a test of its own.
    pub(super) fn from(&mut self, worker: u64, event: Event) -> Vec<Action> {
        let mut actions = self.input(Input::From(WorkerId(worker), event));
        actions.retain(|action| !matches!(action, Action::Group(_)));
        actions
    }

    /// Both of two workers report `update`.
    pub(super) fn update(&mut self, update: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for (worker, lanes) in [(1, 0..2), (2, 2..4)] {
            let report = report(&self.job, update, lanes);
            actions.extend(self.from(worker, Event::Updated { generation: Generation(1), report }));
        }
        actions
    }

    pub(super) fn save(&mut self, update: u64) -> Vec<Action> {
        (1..=2).flat_map(|worker| self.from(worker, saved(worker, update, 1))).collect()
    }

    /// What a worker says when it has left its group after `update`.
    pub(super) fn stands_by(&mut self, worker: u64, update: u64, kept: Lanes) -> Vec<Action> {
        let generation = self.run.generation;
        self.from(worker, Event::StandingBy { generation, update: Update(update), kept })
    }

    /// A worker comes and builds its model.
    pub(super) fn arrive(&mut self, worker: u64) -> Vec<Action> {
        self.input(Input::Joined(WorkerId(worker)));
        let mut actions = self.from(worker, hello(worker as u32));
        actions.extend(self.from(worker, prepared(1)));
        actions
    }

    pub(super) fn predict(&mut self, worker: u64, rows: std::ops::Range<u32>) -> Vec<Action> {
        let predict = |row| Prediction { row: RowId(row), logits: vec![1.0, 0.0, 0.0], loss: Some(0.5) };
        let predictions = rows.map(predict).collect();
        let (generation, split) = (self.run.generation, Split::Validation);
        let mut actions = self.from(worker, Event::Predicted { generation, split, predictions });
        actions.extend(self.from(worker, Event::Evaluated { generation, split }));
        actions
    }
}

pub(super) fn prepared(layout: u8) -> Event {
    Event::Prepared { layout: Digest([layout; 32]), endpoint: "10.0.0.1:4000".into(), notes: Vec::new() }
}

pub(super) fn save_id(update: u64) -> SaveId {
    SaveId { update: Update(update), generation: Generation(1) }
}

/// What one of two workers says whose piece has arrived.
pub(super) fn saved(worker: u64, update: u64, parameters: u8) -> Event {
    let piece = Piece { index: worker as u32 - 1, count: 2 };
    Event::Saved { save: save_id(update), piece, parameters: Digest([parameters; 32]) }
}

/// The first order to a rank, one of so many, to save.
pub(super) fn save((worker, count): (u64, u32), update: u64) -> Action {
    let parts = vec![ArtifactKind::Weights, ArtifactKind::Optimizer];
    let piece = Piece { index: worker as u32 - 1, count };
    Action::Order(WorkerId(worker), Command::Save { save: save_id(update), parts, piece })
}

pub(super) fn receive(update: u64, count: u32) -> Action {
    Action::Receive(save_id(update), count)
}

pub(super) fn forget(worker: u64, update: u64) -> Action {
    Action::Order(WorkerId(worker), Command::Forget { update: Update(update) })
}

/// The message of the failure that ends `actions`.
pub(super) fn failure(actions: &[Action]) -> &str {
    match actions.last() {
        Some(Action::Finish(Outcome::Failed(failure))) => &failure.message,
        other => panic!("no failure but {other:?}"),
    }
}
