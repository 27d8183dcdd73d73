//! Times the sum of gradients over ranks of one machine, in layers of MiniLM's size: `cargo bench -p medley-worker
//! --bench ring`
// A benchmark that cannot be set up has nothing else to say.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../examples/allreduce/ring.rs"]
mod ring;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use medley_worker::collective::TcpSettings;

use crate::ring::Work;

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("sum");
    group.sample_size(10);
    let chunk_elements = TcpSettings::default().chunk_elements;
    let sizes = [(2, 7), (2, 90), (3, 90), (4, 90)];
    for ((ranks, megabytes), way) in sizes.into_iter().flat_map(|size| [(size, "shared memory"), (size, "TCP")]) {
        let work = |rounds| Work { ranks, megabytes, rounds, chunk_elements, shared_memory: way != "TCP" };
        group.throughput(Throughput::Bytes(work(0).bytes() as u64));
        let id = BenchmarkId::new(format!("{ranks} ranks, {way}"), format!("{megabytes} MB"));
        group.bench_function(id, |b| {
            b.iter_custom(|rounds| work(u32::try_from(rounds).unwrap()).times().unwrap().iter().sum());
        });
    }
    group.finish();
}

criterion_group!(benches, sums);
criterion_main!(benches);
