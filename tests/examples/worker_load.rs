//! Starts a coordinator on one core and has many simulated workers train with it from the others; prints how long its
//! orders took, as JSON: `worker_load WORKERS UPDATES_A_SECOND UPDATES`.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

use medley_tests::{Scratch, crowd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [workers, rate, updates] = &words[..] else {
        panic!("expected WORKERS UPDATES_A_SECOND UPDATES, found {words:?}")
    };
    let workers: u32 = workers.parse().expect("a number of workers");
    let rate: f64 = rate.parse().expect("updates a second");
    let updates: u64 = updates.parse().expect("a number of updates");

    let all = sched_getaffinity(None).expect("the cores of this process");
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    let [first, others @ ..] = &cores[..] else { panic!("no core") };
    assert!(!others.is_empty(), "it takes two cores: one for the coordinator, and one for its workers");
    // The coordinator has the core of the thread that starts it.
    stay_on(&[*first]);
    let scratch = Scratch::new(128);
    let mut run = scratch.start(&format!(
        "serve --model_name_or_path model --do_train --train_file train.jsonl --max_seq_length 64 --output_dir out \
         --per_device_train_batch_size {workers} --lanes {workers} --workers {workers} --max_steps {} \
         --save_strategy no --logging_steps 500 --listen 127.0.0.1:0",
        updates + 1000
    ));
    let line = run.wait_for("listens on ");
    let address = line.split("listens on ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an address");
    let address = address.trim_end_matches([',', ';']).to_owned();
    stay_on(others);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let before = processor_seconds(run.pid());
    let pace = runtime.block_on(crowd::train(&address, workers, updates, rate));
    let busy = processor_seconds(run.pid()) - before;
    println!(
        "{{\"workers\": {workers}, \"updates\": {updates}, \"updates_per_second\": {:.1}, \"orders\": {}, \"p50_ms\": {:.3}, \
         \"p99_ms\": {:.3}, \"max_ms\": {:.3}, \"coordinator_cpu_ms_per_update\": {:.3}}}",
        pace.rate,
        pace.orders.count(),
        pace.orders.milliseconds(0.5),
        pace.orders.milliseconds(0.99),
        pace.orders.milliseconds(1.0),
        busy * 1e3 / updates as f64,
    );
}

/// Keeps this thread, and the processes that it starts from now on, on these cores.
fn stay_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).expect("choose cores");
}

/// Processor time of a process so far, in seconds: the 14th and 15th word of its `stat`, in hundredths.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that lives");
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|word| word.parse::<f64>().expect("ticks"));
    ticks.sum::<f64>() / 100.0
}
