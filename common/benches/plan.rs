//! Times the plan of a large run: `cargo bench -p medley-common --bench plan`
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use medley_common::identity::Update;
use medley_common::plan::Plan;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec};

const ROWS: u32 = 1_000_000;
const BATCH: u32 = 32;

fn plan() -> Plan {
    let updates = u64::from(ROWS.div_ceil(BATCH));
    let spec = TrainSpec {
        seed: 42,
        rows_per_update: BATCH,
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
    Plan::new(&spec, (0..ROWS).map(|row| 10 + row * 7919 % 100).collect())
}

fn plans(c: &mut Criterion) {
    c.bench_function("the order of an epoch of 1,000,000 rows", |b| {
        b.iter_batched(plan, |mut plan| black_box(plan.update(Update(1))), BatchSize::LargeInput);
    });
    let mut plan = plan();
    let (updates, mut update) = (plan.updates_per_epoch(), 0);
    c.bench_function("an update of 32 rows, and its 8 lanes", |b| {
        b.iter(|| {
            update = update % updates + 1;
            black_box(plan.update(Update(update)))
        });
    });
}

criterion_group!(benches, plans);
criterion_main!(benches);
