//! Each worker keeps a shard of the optimizer's state: the run ends in the same bytes, whatever happens.

use medley_tests::{Ended, Scratch};

use crate::RECIPE;
use crate::ledger::updates;
use crate::recovery::assert_same;

const WORK: &str = "--num_train_epochs 6 --save_steps 25 --logging_steps 7 --digest_steps 4 --heartbeat_timeout 1 \
    --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl";

fn clean() -> Scratch {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {WORK} --workers 1")).expect(0);
    scratch
}

fn assert_same_checkpoints(run: &Scratch, clean: &Scratch, ended: &Ended) {
    for update in [25, 50, 75] {
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let path = format!("out/checkpoint-{update}/{file}");
            assert_eq!(run.sha256(&path), clean.sha256(&path), "{path} after:\n{}", ended.stderr);
        }
    }
}

#[test]
fn shards_change_no_byte_of_a_model_or_a_checkpoint() {
    let clean = clean();
    for (workers, chaos) in [
        (3, None),
        (3, Some("kill:worker=1@update=40")),
        (2, Some("term:worker=0@update=33")),
        (3, Some("kill:worker=0@save=25; stop:worker=1@update=60")),
    ] {
        let scratch = Scratch::new(100);
        let command = format!("train {RECIPE} {WORK} --workers {workers} --max_restarts 1000 --shard_optimizer_state");
        let chaos: Vec<&str> = chaos.into_iter().flat_map(|chaos| ["--chaos", chaos]).collect();
        let ended = scratch.run_with(&command, &chaos).expect(0);
        assert_same(&scratch, &clean, &ended);
        assert_same_checkpoints(&scratch, &clean, &ended);
        scratch.run("verify out").expect(0);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        let back = ended.stderr.contains("nobody holds update");
        match chaos.last() {
            Some(chaos) if chaos.starts_with("kill") => assert!(back, "from a checkpoint:\n{}", ended.stderr),
            // Asked to leave, it does so by way of a checkpoint.
            Some(_) => assert!(!back && ended.stderr.contains("left, as it was asked to end"), "{}", ended.stderr),
            None => assert!(!back, "{}", ended.stderr),
        }
    }
}

/// A run is gone on with by other workers, with shards and without.
#[test]
fn a_stopped_run_goes_on_with_and_without_shards() {
    let clean = clean();
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WORK} --shard_optimizer_state --workers");
    let mut run = scratch.start(&format!("{command} 2"));
    run.wait_for("update 28:");
    run.signal(rustix::process::Signal::INT);
    run.end().expect(75);
    let stopped = updates(&scratch).len();
    let mut run = scratch.start(&format!("train {RECIPE} {WORK} --workers 1"));
    run.wait_for("update 56:");
    run.signal(rustix::process::Signal::INT);
    run.end().expect(75);
    assert!((28..78).contains(&stopped) && updates(&scratch).len() >= stopped, "{stopped} updates");
    let ended = scratch.run(&format!("{command} 3")).expect(0).says(&["resum"]);
    assert_same(&scratch, &clean, &ended);
}

/// Too few are too few, whatever they hold.
#[test]
fn as_many_as_were_asked_for_go_on() {
    let scratch = Scratch::new(100);
    let faults = "--min_workers 2 --max_restarts 0 --join_timeout 2 --chaos kill:worker=1@update=15";
    let ended = scratch.run(&format!("train {RECIPE} {WORK} --workers 2 --shard_optimizer_state {faults}"));
    ended.expect(70).says(&["1 of 2 workers"]);
}

/// Nothing is trained again for want of a state that nobody needs.
#[test]
fn a_worker_that_dies_among_the_results_costs_no_update() {
    const WORK: &str = "--num_train_epochs 3 --digest_steps 4 --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl";
    let clean = Scratch::new(100);
    clean.run(&format!("train {RECIPE} {WORK} --workers 1")).expect(0);
    let scratch = Scratch::new(100);
    let faults = "--max_restarts 1000 --chaos kill:worker=1@evaluation=39";
    let ended = scratch.run(&format!("train {RECIPE} {WORK} --workers 3 --shard_optimizer_state {faults}")).expect(0);
    assert!(!ended.stderr.contains("goes on from update"), "{}", ended.stderr);
    assert_same(&scratch, &clean, &ended);
}
