//! Times the sum of gradients over ranks on the loopback interface, in layers of MiniLM's size: `cargo bench -p medley-worker
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
    for (ranks, megabytes) in [(2, 7), (2, 90), (3, 90), (4, 90)] {
        let work = |rounds| Work { ranks, megabytes, rounds, chunk_elements: TcpSettings::default().chunk_elements };
        group.throughput(Throughput::Bytes(work(0).bytes() as u64));
        let id = BenchmarkId::new(format!("{ranks} ranks"), format!("{megabytes} MB"));
        group.bench_function(id, |b| {
            b.iter_custom(|rounds| work(u32::try_from(rounds).unwrap()).times().unwrap().iter().sum());
        });
    }
    group.finish();
}

criterion_group!(benches, sums);
criterion_main!(benches);
