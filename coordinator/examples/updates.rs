//! Has the coordinator's run alone, without a network or a disk, take note of updates, and prints what each cost it:
//! `updates WORKERS UPDATES`.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use medley_common::identity::{Digest, Generation, ProcessMark, Update, WorkerId};
use medley_common::message::{Event, Hello, LaneReport, PROTOCOL, Timing, UpdateReport};
use medley_common::model::{Family, ModelConfig};
use medley_common::plan::Plan;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::secret::Secret;
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec, TuningSpec};
use medley_coordinator::run::{Action, Base, Input, Job, Past, Patience, Run, TrainingJob};
use medley_coordinator::spec::{Cadence, Every};

/// Rows of the data set: an epoch of 1,000 updates of a row for each worker.
const UPDATES_PER_EPOCH: u64 = 1000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [workers, updates] = &words[..] else { panic!("expected WORKERS UPDATES, found {words:?}") };
    let workers: u32 = workers.parse().expect("a number of workers");
    let updates: u64 = updates.parse().expect("a number of updates");
    let job = job(workers, updates + 1);
    let mut plan = Plan::new(&job.spec, job.training.as_ref().expect("a job that trains").lengths.clone());
    let mut run = Run::new(Instant::now(), job.clone());
    let all = || (1..=u64::from(workers)).map(WorkerId);
    for worker in all() {
        tell(&mut run, Input::Joined(worker));
        tell(&mut run, Input::From(worker, Event::from(hello(worker))));
        let (layout, endpoint) = (Digest([1; 32]), "127.0.0.1:1".to_owned());
        tell(&mut run, Input::From(worker, Event::Prepared { layout, endpoint, notes: Vec::new() }));
    }
    let generation = Generation(1);
    for worker in all() {
        tell(&mut run, Input::From(worker, Event::Formed { generation }));
    }
    let mut spent = Duration::ZERO;
    for update in (1..=updates).map(Update) {
        let planned = plan.update(update);
        for (worker, lane) in all().zip(0..) {
            let report = UpdateReport {
                update,
                learning_rate: job.spec.schedule.at(update, job.spec.schedule.peak),
                grad_norm: 1.0,
                skipped: false,
                lanes: vec![LaneReport { lane, rows: planned.lanes[lane as usize].clone() }],
                losses: vec![1.0; workers as usize],
                tokens: 32,
                parameters: None,
                timing: Timing::default(),
            };
            let start = Instant::now();
            tell(&mut run, Input::From(worker, Event::Updated { generation, report }));
            spent += start.elapsed();
        }
    }
    assert_eq!(run.view().update, Update(updates), "not all updates were made");
    println!("{{\"workers\": {workers}, \"us_per_update\": {:.1}}}", spent.as_secs_f64() * 1e6 / updates as f64);
}

/// Tells the run something; its disk keeps up.
fn tell(run: &mut Run, input: Input) {
    let now = Instant::now();
    for action in run.handle(now, input) {
        match action {
            Action::Record(record) => drop(run.handle(now, Input::Recorded(record.update))),
            Action::Group(group) => drop(run.handle(now, Input::Grouped(group.generation))),
            Action::Finish(outcome) => panic!("the run ended: {outcome:?}"),
            _ => {}
        }
    }
}

fn job(workers: u32, updates: u64) -> Job {
    let spec = TrainSpec {
        seed: 42,
        data_seed: None,
        rows_per_update: workers,
        lanes: workers,
        schedule: LrSchedule { decay: Decay::linear(), peak: 1e-5, warmup_updates: 0, total_updates: updates },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwTorch,
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
        max_position_embeddings: 128,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 3,
    };
    let cadence = Cadence {
        updates_per_epoch: UPDATES_PER_EPOCH,
        total_updates: updates,
        logging: Every::Updates(NonZeroU64::new(500).expect("a number")),
        evaluation: Every::Never,
        first_evaluation: Update(0),
        evaluates_at_start: false,
        saving: Every::Never,
        digest: Every::Never,
        logs_first_update: false,
    };
    let rows = UPDATES_PER_EPOCH as u32 * workers;
    let lengths: Vec<u32> = (0..rows).map(|row| 10 + row * 7919 % 100).collect();
    Job {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        run: Digest([9; 32]),
        spec,
        model,
        training: Some(TrainingJob { labels: vec![Some(0); lengths.len()], lengths, cadence, criterion: None }),
        validation: None,
        test: None,
        is_stream: false,
        labels: Vec::new(),
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
    let second = Duration::from_secs(1);
    Patience { join: 60 * second, heartbeat: 60 * second, reattach: Duration::ZERO, heartbeat_every: second, window: 4 }
}

fn hello(worker: WorkerId) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: format!("node{}", worker.0 / 8),
        pid: worker.0 as u32,
        process: ProcessMark(worker.0),
        session: 1,
        device: "cpu".to_owned(),
        gpu: None,
        processor: String::new(),
        threads: 1,
        program: Digest([6; 32]),
        known: None,
        held: None,
    }
}
