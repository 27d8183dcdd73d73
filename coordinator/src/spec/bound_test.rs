use std::num::NonZeroU64;

use crate::cli::tests::{REFERENCE, train};
use medley_common::spec::{Precision, Summation};

use crate::spec::{Device, Every, Machine, SpecError, Team};

use super::*;

const TWO_CORES: Machine = Machine { cores: 2, cuda_devices: 0 };
const ROWS: u64 = 11_232;

fn bind(flags: &str, rows: u64) -> Result<Bound, SpecError> {
    let least = "--model_name_or_path m --do_train --train_file t.jsonl --output_dir out";
    train(&format!("{least} {flags}")).unwrap().bind(rows, &TWO_CORES)
}

#[test]
fn the_reference_run_is_the_same_at_any_number_of_workers() {
    let alone = train(REFERENCE).unwrap().bind(ROWS, &TWO_CORES).unwrap();
    for workers in [1, 2, 3, 4, 7] {
        let bound = train(&format!("{REFERENCE} --workers {workers}")).unwrap().bind(ROWS, &TWO_CORES).unwrap();
        assert_eq!(bound.train.schedule.total_updates, 3510, "{workers} workers");
        assert_eq!(bound.train.schedule.warmup_updates, 1755, "{workers} workers");
        assert_eq!(bound.train.rows_per_update, 32, "{workers} workers");
        assert_eq!(bound.train, alone.train);
        assert_eq!(bound.cadence, alone.cadence);
        assert_eq!(bound.team.workers, workers);
    }
    assert_eq!(alone.cadence.updates_per_epoch, 351);
    assert_eq!((alone.cadence.checkpoints(), alone.cadence.evaluations()), (7, 0));
    assert_eq!(alone.train.compute.precision, Precision::Float32);
}

#[test]
fn the_batch_grows_with_the_workers_on_request() {
    for (workers, updates, warmup) in [(1, 3510, 1755), (2, 1760, 880), (4, 880, 440)] {
        let flags = format!("{REFERENCE} --scale_batch_with_workers --workers {workers}");
        let bound = train(&flags).unwrap().bind(ROWS, &TWO_CORES).unwrap();
        assert_eq!(bound.train.rows_per_update, 32 * workers);
        assert_eq!(bound.train.schedule.total_updates, updates, "every row counts, so the last batch may be short");
        assert_eq!(bound.train.schedule.warmup_updates, warmup);
    }
}

#[test]
fn lengths_follow_hugging_face() {
    let updates = |flags, rows| {
        let schedule = bind(flags, rows).unwrap().train.schedule;
        (schedule.total_updates, schedule.warmup_updates)
    };
    assert_eq!(updates("--num_train_epochs 0.5 --warmup_ratio 0.1", 100), (7, 1), "13 an epoch, both rounded up");
    assert_eq!(updates("--max_steps 20 --num_train_epochs 99 --warmup_steps 0.26", 100), (20, 6));
    assert_eq!(updates("--warmup_steps 5 --warmup_ratio 0.5", 8), (3, 5));
    assert_eq!(updates("--num_train_epochs 1e-9", 1), (1, 0));
}

#[test]
fn cadences_follow_the_strategies() {
    let cadence = |flags: &str| bind(&format!("--validation_file v {flags}"), 80).unwrap().cadence;
    let every = |updates| Every::Updates(NonZeroU64::new(updates).unwrap());
    let defaults = cadence("");
    assert_eq!((defaults.logging, defaults.evaluation, defaults.saving), (every(500), Every::Never, every(500)));
    assert_eq!(cadence("--evaluation_strategy steps --logging_steps 7").evaluation, every(7));
    assert_eq!(cadence("--eval_strategy steps --eval_steps 9").evaluation, every(9));
    assert_eq!(cadence("--eval_strategy epoch").evaluation, Every::Epoch);
    assert_eq!(cadence("--save_steps 0.25").saving, every(8), "a quarter of 30 updates, rounded up");
    assert_eq!(cadence("--logging_strategy no --logging_steps 0").logging, Every::Never);
    assert!(cadence("--logging_first_step").logs_first_update);
}

#[test]
fn a_run_without_training_makes_no_updates() {
    let flags = "--model_name_or_path m --output_dir out --do_eval --validation_file v --save_strategy epoch";
    let bound = train(flags).unwrap().bind(0, &TWO_CORES).unwrap();
    assert_eq!(bound.train.schedule.total_updates, 0);
    assert_eq!((bound.cadence.checkpoints(), bound.notes.len()), (0, 0));
}

#[test]
fn impossible_sizes_are_refused() {
    let refusal = |flags, rows| bind(flags, rows).unwrap_err().to_string();
    assert_eq!(refusal("", 0), "--train_file t.jsonl has no rows to train on");
    assert_eq!(
        refusal("--per_device_train_batch_size 100000 --gradient_accumulation_steps 100000", 9),
        "an update of 10000000000 rows is too large; lower --per_device_train_batch_size or --gradient_accumulation_steps"
    );
    assert_eq!(
        refusal("--num_train_epochs 1e300", 9),
        "a run of 2e300 updates is too long; at most 1e9 are allowed, so lower --num_train_epochs"
    );
    assert_eq!(
        refusal("--max_steps 2000000000", 9),
        "a run of 2e9 updates is too long; at most 1e9 are allowed, so lower --max_steps"
    );
    assert!(refusal("--device cuda", 9).starts_with("--device is cuda, but no CUDA device can be used here; build a"));
}

#[test]
fn doubtful_runs_are_warned_of() {
    let notes =
        |flags, rows| -> Vec<String> { bind(flags, rows).unwrap().notes.iter().map(ToString::to_string).collect() };
    assert_eq!(
        notes("--max_steps 10 --warmup_steps 10", 80),
        ["warning: the warm-up takes 10 updates and the run has 10, so the learning rate never gets to its peak"]
    );
    assert_eq!(
        notes("--per_device_train_batch_size 2 --workers 3", 80),
        ["warning: 3 workers share 2 rows an update, so some of them have nothing to do"]
    );
    assert_eq!(notes("", 80), [""; 0]);
}

#[test]
fn the_machine_decides_what_was_left_open() {
    let team = |flags: &str, machine| {
        let spec = train(&format!("{REFERENCE} {flags}")).unwrap();
        spec.bind(ROWS, &machine).map(|bound| (bound.team, bound.train.compute.precision))
    };
    let gpus = Machine { cores: 16, cuda_devices: 4 };
    let on = |workers, device, threads| Team { workers, device, threads };
    assert_eq!(team("", TWO_CORES), Ok((on(1, Device::Cpu, 2), Precision::Float32)));
    assert_eq!(team("--workers 3", TWO_CORES), Ok((on(3, Device::Cpu, 1), Precision::Float32)));
    assert_eq!(team("--workers 2 --threads 5", TWO_CORES), Ok((on(2, Device::Cpu, 5), Precision::Float32)));
    assert_eq!(team("", gpus), Ok((on(4, Device::Cuda, 4), Precision::Float16)));
    let unasked = REFERENCE.replace("--fp16", "");
    for (flags, precision) in [
        ("", Precision::Bfloat16),
        ("--fp16 False", Precision::Bfloat16),
        ("--bf16 False", Precision::Float32),
        ("--tf32", Precision::Tf32),
        ("--bf16 False --tf32", Precision::Tf32),
        ("--fp16", Precision::Float16),
        ("--device cpu", Precision::Float32),
    ] {
        let bound = train(&format!("{unasked} {flags}")).unwrap().bind(ROWS, &gpus).unwrap();
        assert_eq!(bound.train.compute.precision, precision, "{flags}");
    }
    assert_eq!(team("--device cpu", gpus), Ok((on(1, Device::Cpu, 16), Precision::Float32)));
    let many = Machine { cores: 16, cuda_devices: 9 };
    assert_eq!(team("", many), Err(SpecError::TooFewLanes { workers: 9, lanes: 8, enough: 16 }));
}

/// On GPUs it costs something, so it is asked for.
#[test]
fn gpus_sum_lane_by_lane_on_request() {
    let gpus = Machine { cores: 16, cuda_devices: 4 };
    let bound = |flags: &str| train(&format!("{REFERENCE} {flags}")).unwrap().bind(ROWS, &gpus);
    let summation = |flags: &str| bound(flags).unwrap().train.compute.summation;
    assert_eq!(summation(""), Summation::ByWorker);
    assert_eq!(summation("--reproducible off"), Summation::ByWorker);
    assert_eq!(summation("--reproducible on"), Summation::ByLane);
    assert_eq!(summation("--device cpu"), Summation::ByLane);
    let refused = bound("--reproducible on --gradient_dtype bfloat16").unwrap_err().to_string();
    assert!(refused.starts_with("--reproducible on and --gradient_dtype bfloat16 exclude each other"), "{refused}");
    assert!(refused.ends_with("leave one of them out"), "{refused}");
}
