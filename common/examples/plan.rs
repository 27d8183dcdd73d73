//! Plans the first updates of a large run, of 32 rows in 8 lanes each: `plan ROWS UPDATES`.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::Instant;

use medley_common::identity::Update;
use medley_common::plan::Plan;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rows, updates] = &words[..] else { panic!("expected ROWS UPDATES, found {words:?}") };
    let rows: u32 = rows.parse().expect("a number of rows");
    let updates: u64 = updates.parse().expect("a number of updates");
    let spec = TrainSpec {
        seed: 42,
        rows_per_update: 32,
        lanes: 8,
        schedule: LrSchedule { decay: Decay::linear(), peak: 1e-5, warmup_updates: 0, total_updates: updates },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwTorch,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: None,
        },
        label_smoothing: 0.0,
        compute: ComputeSpec::default(),
    };
    let lengths = (0..rows).map(|row| 10 + row % 1000 * 7919 % 100).collect();
    let start = Instant::now();
    let mut plan = Plan::new(&spec, lengths);
    let planned: u32 = (1..=updates).map(|update| plan.update(Update(update)).rows()).sum();
    println!("{{\"rows\": {planned}, \"ms\": {:.3}}}", start.elapsed().as_secs_f64() * 1e3);
}
