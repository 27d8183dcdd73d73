//! Where the time of an update goes on a GPU: a table of kernels and products by their share.

use std::error::Error;

use medley_worker::collective::{Connect, Solo};
use medley_worker::device::Place;
use medley_worker::ops::Ops;
use medley_worker::ops::cuda::Cuda;
use medley_worker::ops::cuda::device::Gpu;
use medley_worker::ops::cuda::device::clocked::{Clocked, Taken};

use super::{Precision, Updates};

/// Lines of the table; what is below them takes next to nothing.
const LINES: usize = 24;

pub(super) fn time(place: &Place, updates: &Updates) -> Result<(), Box<dyn Error>> {
    let Place::Cuda { ordinal, .. } = place else { return Err("--kernels needs --device cuda".into()) };
    let precision = updates.compute.precision;
    let clocked = Clocked::new(Gpu::open(*ordinal, precision == Precision::Tf32)?);
    let (cuda, lanes) = (Cuda::new(clocked.clone(), precision), updates.options.lanes);
    let alone = cuda.clone();
    let connect: Connect<<Cuda<Clocked> as Ops>::Buffer> =
        Box::new(move |_, _, layout, _| Ok(Box::new(Solo::new(alone.clone(), layout, lanes))));
    let timed = updates.time(cuda, &connect, &|| clocked.take().map(drop))?;
    let mut all: Vec<(String, Taken)> = clocked.take()?.into_iter().collect();
    all.sort_by(|(_, left), (_, right)| right.seconds.total_cmp(&left.seconds));
    let (count, total) = (updates.options.updates as f64, all.iter().map(|(_, taken)| taken.seconds).sum::<f64>());
    let launches = all.iter().map(|(_, taken)| f64::from(taken.launches)).sum::<f64>();
    println!("   share        ms  launches  of an update");
    for (name, taken) in all.iter().take(LINES) {
        let (share, ms) = (1e2 * taken.seconds / total, 1e3 * taken.seconds / count);
        println!("{share:6.1} %  {ms:8.3}  {:8.1}  {name}", f64::from(taken.launches) / count);
    }
    let rest: f64 = all.iter().skip(LINES).map(|(_, taken)| taken.seconds).sum();
    println!(
        "{:6.1} %  {:8.3}            {} others",
        1e2 * rest / total,
        1e3 * rest / count,
        all.len().max(LINES) - LINES
    );
    println!(
        "kernels of an update: {:.3} ms in {:.0} launches; an update with so many clocks: {:.3} ms",
        1e3 * total / count,
        launches / count,
        1e3 * timed.runs[timed.runs.len() / 2].0,
    );
    Ok(())
}
