//! Measures the collective: ranks as threads of one process, through shared memory or over the loopback interface.
//!
//! `cargo run --release -p medley-worker --example allreduce -- --ranks 2 --megabytes 90`

mod ring;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use medley_worker::collective::TcpSettings;

use crate::ring::Work;

/// Sums gradients over ranks that are threads of this process.
#[derive(Parser)]
struct Arguments {
    /// Number of ranks.
    #[arg(long, default_value_t = 2)]
    ranks: u32,
    /// Gradients of each rank, in MB, in layers of MiniLM's size (7.1 MB).
    #[arg(long, default_value_t = 90)]
    megabytes: u32,
    /// Sums that are timed.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Elements that travel and are added at a time.
    #[arg(long, default_value_t = TcpSettings::default().chunk_elements)]
    chunk_elements: usize,
    /// Sum over TCP, as ranks on several machines do.
    #[arg(long)]
    tcp: bool,
}

fn main() -> Result<()> {
    let Arguments { ranks, megabytes, rounds, chunk_elements, tcp } = Arguments::parse();
    ensure!(ranks > 0 && rounds > 0, "--ranks and --rounds must be at least 1");
    let work = Work { ranks, megabytes, rounds, chunk_elements, shared_memory: !tcp };
    let mut times = work.times()?;
    times.sort_unstable();
    let rate = |time: Duration| work.bytes() as f64 / time.as_secs_f64() / 1e9;
    let (best, median) = (times[0], times[times.len() / 2]);
    println!(
        "{ranks} ranks, {:.1} MB each: median {:.1} ms = {:.2} GB/s, best {:.1} ms = {:.2} GB/s",
        work.bytes() as f64 / 1e6,
        median.as_secs_f64() * 1e3,
        rate(median),
        best.as_secs_f64() * 1e3,
        rate(best)
    );
    println!("{{\"gb_per_s\": {:.4}}}", rate(median));
    Ok(())
}
