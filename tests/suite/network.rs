//! A network that is slow, silent or cut between a worker and its coordinator changes nothing in the result.
//!
//! What happens between hosts of their own, packets lost among it, is tried by `tests/peers/faults.py`, which needs root.

use std::time::Duration;

use medley_tests::{Proxy, Running, Scratch};

use crate::recovery::assert_same;
use crate::{RECIPE, serving};

const LONG: &str = "--num_train_epochs 60 --save_steps 250 --logging_steps 10 --heartbeat_timeout 2 \
    --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl";

fn clean() -> Scratch {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {LONG} --workers 1")).expect(0);
    scratch
}

/// A run with two workers, one of them behind a proxy that takes so long, which has begun to train.
fn behind_a_proxy(scratch: &Scratch, delay: Duration) -> (Running, Proxy, [Running; 2]) {
    let mut run = scratch.start(&format!("serve {RECIPE} {LONG} --workers 2 --min_workers 1 --listen 127.0.0.1:0"));
    let address = serving::address(&mut run);
    let proxy = Proxy::before(&address);
    proxy.delay(delay);
    let far = scratch.start_worker(&format!("--coordinator {} --threads 1", proxy.address()));
    let near = scratch.start_worker(&format!("--coordinator {address} --threads 1"));
    run.wait_for("update 1/");
    (run, proxy, [far, near])
}

/// Slow, but not as slow as the heartbeat limit allows: nobody is taken for dead.
#[test]
fn a_slow_network_costs_time_alone() {
    let scratch = Scratch::new(100);
    let (mut run, proxy, [far, near]) = behind_a_proxy(&scratch, Duration::from_millis(700));
    run.wait_for("update 20:");
    proxy.delay(Duration::ZERO);
    let ended = run.end().expect(0);
    assert!(!ended.stderr.contains("was lost"), "{}", ended.stderr);
    assert_same(&scratch, &clean(), &ended);
    far.end().expect(0);
    near.end().expect(0);
}

/// Nothing comes through for longer than the heartbeat limit; then everything does, orders of long ago among it.
#[test]
fn a_worker_behind_a_black_hole_is_replaced_and_told_so() {
    let scratch = Scratch::new(100);
    let (mut run, proxy, [far, near]) = behind_a_proxy(&scratch, Duration::ZERO);
    proxy.hold();
    run.wait_for("was lost while");
    run.wait_for("going on with 1 worker");
    proxy.release();
    far.end().expect(75).says(&["has been replaced"]);
    let ended = run.end().expect(0);
    assert_same(&scratch, &clean(), &ended);
    near.end().expect(0);
}

/// The coordinator hears nobody for longer than that, and is not heard: all come back with what they hold.
#[test]
fn a_coordinator_that_is_cut_off_from_all_costs_no_update() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} {LONG} --workers 2 --listen 127.0.0.1:0"));
    let proxy = Proxy::before(&serving::address(&mut run));
    let workers = [(); 2].map(|()| scratch.start_worker(&format!("--coordinator {} --threads 1", proxy.address())));
    run.wait_for("update 1/");
    proxy.hold();
    run.wait_for("waiting for those that hold update");
    proxy.release();
    run.wait_for("came back, and holds update");
    let ended = run.end().expect(0);
    assert!(!ended.stderr.contains("the run goes on from update"), "{}", ended.stderr);
    assert_same(&scratch, &clean(), &ended);
    for worker in workers {
        worker.end().expect(0);
    }
}

/// The connection breaks in the midst of it, and at several points while a worker joins.
#[test]
fn a_cut_connection_is_seen_at_once() {
    let scratch = Scratch::new(100);
    let (mut run, proxy, [_far, near]) = behind_a_proxy(&scratch, Duration::ZERO);
    proxy.cut();
    run.wait_for("was lost while");
    // They live until the end: what they do about it is theirs.
    let mut cut = Vec::new();
    for bytes in [1, 300, 40_000] {
        proxy.cut_after(bytes);
        cut.push(scratch.start_worker(&format!("--coordinator {} --threads 1", proxy.address())));
        proxy.wait_for_cut();
    }
    let ended = run.end().expect(0);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert_same(&scratch, &clean(), &ended);
    near.end().expect(0);
}
