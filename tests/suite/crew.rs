//! Several workers of one machine under one command, and what a worker does that is asked to end more than once.

use std::time::Duration;

use medley_tests::{Running, Scratch};
use rustix::process::{Signal, kill_process};

use crate::RECIPE;
use crate::faults::{wait_until_gone, workers};
use crate::serving::address;

const ENDLESS: &str = "--num_train_epochs 10000 --save_strategy no --min_workers 1 --listen 127.0.0.1:0";

/// A coordinator of two workers that goes on with one.
fn serve(scratch: &Scratch) -> (Running, String) {
    let mut run = scratch.start(&format!("serve {RECIPE} {ENDLESS} --workers 2"));
    let address = address(&mut run);
    (run, format!("--coordinator {address} --threads 1"))
}

#[test]
fn one_command_starts_the_workers_of_a_machine() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} --num_train_epochs 1 --workers 3 --listen 127.0.0.1:0"));
    let worker = format!("--coordinator {} --threads 1", address(&mut run));
    let machines =
        ["--workers 2", "--workers auto --device cpu"].map(|size| scratch.start_worker(&format!("{worker} {size}")));
    run.end().expect(0);
    machines.into_iter().for_each(|machine| drop(machine.end().expect(0)));
    let local = Scratch::new(100);
    local.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 1")).expect(0);
    assert_eq!(scratch.sha256("out/model.safetensors"), local.sha256("out/model.safetensors"));
    scratch.start_worker(&format!("{worker} --workers 0")).end().expect(64).says(&["a number from 1"]);
    scratch.start_worker(&format!("{worker} --workers 2 --local_rank 1")).end().expect(64);
}

#[test]
fn who_is_lost_is_started_again_and_all_leave_together() {
    let scratch = Scratch::new(100);
    let (mut run, worker) = serve(&scratch);
    let mut machine = scratch.start_worker(&format!("{worker} --workers 2"));
    let pids = workers(&mut run);
    run.wait_for("update 1/");
    kill_process(pids[1], Signal::KILL).unwrap();
    machine.wait_for("it is started again");
    run.wait_for("joined");
    run.wait_for("going on with 2 workers");
    machine.signal(Signal::TERM);
    machine.end().expect(75);
    pids.into_iter().for_each(wait_until_gone);
}

#[test]
fn the_workers_of_a_machine_do_not_outlive_who_started_them() {
    let scratch = Scratch::new(100);
    let (mut run, worker) = serve(&scratch);
    let machine = scratch.start_worker(&format!("{worker} --workers 2"));
    let pids = workers(&mut run);
    machine.signal(Signal::KILL);
    assert_eq!(machine.end().code, None);
    pids.into_iter().for_each(wait_until_gone);
}

/// A run that is stopped is not waited for: whoever starts the coordinator again starts these again as well.
#[test]
fn the_workers_of_a_machine_end_with_a_run_that_is_stopped() {
    let scratch = Scratch::new(100);
    let (mut run, worker) = serve(&scratch);
    let machine = scratch.start_worker(&format!("{worker} --workers 2"));
    run.wait_for("update 1/");
    run.signal(Signal::TERM);
    run.end().expect(75);
    machine.end().expect(75);
}

/// A worker that waits for its coordinator's leave, because that is suspended, and has been asked twice, so far apart.
fn asked_twice(scratch: &Scratch, apart: Duration) -> (Running, Running, Running) {
    let (mut run, worker) = serve(scratch);
    let (first, second) = (scratch.start_worker(&worker), scratch.start_worker(&worker));
    run.wait_for("update 1/");
    run.signal(Signal::STOP);
    first.signal(Signal::TERM);
    // Not a wait for something to happen: what is tested is the time between the two.
    std::thread::sleep(apart);
    first.signal(Signal::TERM);
    (run, first, second)
}

/// Slurm may signal every process of a task, and the parents among them pass it on.
#[test]
fn asked_twice_at_once_a_worker_leaves_in_order() {
    let scratch = Scratch::new(100);
    let (mut run, first, _second) = asked_twice(&scratch, Duration::from_millis(200));
    run.signal(Signal::CONT);
    run.wait_for("left, as it was asked to end");
    first.end().expect(75);
}

#[test]
fn asked_again_later_a_worker_ends_at_once() {
    let scratch = Scratch::new(100);
    let (mut run, first, _second) = asked_twice(&scratch, Duration::from_millis(2500));
    // Its coordinator is still suspended.
    first.end().expect(70);
    run.signal(Signal::CONT);
    run.wait_for("going on with 1 worker");
}
