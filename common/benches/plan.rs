//! Times the plan of a large run: `cargo bench -p medley-common --bench plan`
#![allow(missing_docs)]

#[path = "../examples/plan/spec.rs"]
mod spec;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use medley_common::identity::Update;
use medley_common::plan::Plan;

const ROWS: u32 = 1_000_000;

fn plan() -> Plan {
    let lengths = (0..ROWS).map(|row| 10 + row % 1000 * 7919 % 100).collect();
    Plan::new(&spec::of(u64::from(ROWS.div_ceil(32))), lengths)
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
