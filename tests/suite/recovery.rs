//! No fault changes the result: whatever happens to workers, the run ends in the bytes of a run without faults.

use std::time::{Duration, Instant};

use medley_tests::{Ended, Scratch};
use rustix::process::{Signal, kill_process};

use crate::ledger::updates;
use crate::{RECIPE, faults, serving};

const WORK: &str = "--num_train_epochs 6 --save_steps 25 --logging_steps 7 --digest_steps 4 --heartbeat_timeout 1 \
    --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl";

/// Long enough for a person, or a test, to do something in the middle of it.
const LONG: &str = "--num_train_epochs 60 --save_steps 250 --heartbeat_timeout 1 \
    --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl";

/// A run without faults, which all others are compared with.
fn clean(work: &str) -> Scratch {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {work} --workers 1")).expect(0);
    scratch
}

pub fn assert_same(run: &Scratch, clean: &Scratch, ended: &Ended) {
    let same = |what: bool, name: &str| assert!(what, "{name} differs after:\n{}", ended.stderr);
    same(updates(run) == updates(clean), "the ledger");
    for file in ["model.safetensors", "predictions.jsonl", "predict_results.txt"] {
        let path = format!("out/{file}");
        same(run.sha256(&path) == clean.sha256(&path), file);
    }
    same(
        run.json("out/eval_results.json")["eval_loss"] == clean.json("out/eval_results.json")["eval_loss"],
        "eval_loss",
    );
    let (run, clean) = (run.json("out/train_results.json"), clean.json("out/train_results.json"));
    same(run["train_loss"] == clean["train_loss"], "train_loss");
}

/// Deaths, hangs and departures, alone and together, early and late; a checkpoint falls on updates 25, 50 and 75.
#[test]
fn faults_of_workers_change_nothing() {
    let start = Instant::now();
    let clean = clean(WORK);
    // Where a start takes longer than workers live, there is no progress: a busy machine strikes as much more slowly.
    let random = format!("random:mean={:.2}s,seed=5", start.elapsed().as_secs_f64().max(0.5) / 5.0);
    for (workers, chaos) in [
        (2, "kill:worker=1@update=20"),
        (2, "kill:worker=0@update=1; kill:worker=1@update=2"),
        (3, "kill:worker=0@update=24; kill:worker=1@update=25; kill:worker=2@update=50"),
        (3, "kill:worker=0@update=40; kill:worker=1@update=40"),
        (3, "stop:worker=1@update=31"),
        (2, "term:worker=0@update=10; kill:worker=1@update=60"),
        (5, "kill:worker=4@update=9; stop:worker=0@update=9; term:worker=2@update=12; kill:worker=3@update=77"),
        (4, random.as_str()),
    ] {
        let scratch = Scratch::new(100);
        let command = format!("train {RECIPE} {WORK} --workers {workers} --max_restarts 1000");
        let ended = scratch.run_with(&command, &["--chaos", chaos]).expect(0);
        let struck = ended.stderr.matches("chaos: SIG").count();
        assert!(struck >= chaos.matches('@').count().max(1), "{chaos} in:\n{}", ended.stderr);
        assert_same(&scratch, &clean, &ended);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

/// Before anything is trained: while they fetch the data and build their models.
#[test]
fn the_death_of_a_worker_at_the_start_changes_nothing() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {WORK} --workers 2"));
    let victim = faults::workers(&mut run)[1];
    kill_process(victim, Signal::KILL).unwrap();
    run.wait_for("was lost while");
    let ended = run.end().expect(0);
    assert_same(&scratch, &clean(WORK), &ended);
}

/// Asked to end before anything is trained: a worker under `serve`, whose place another takes, and `medley train`.
#[test]
fn a_request_to_end_at_the_start_changes_nothing() {
    let clean = clean(WORK);
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} {WORK} --workers 2 --listen 127.0.0.1:0"));
    let worker = format!("--coordinator {} --threads 1", serving::address(&mut run));
    let first = scratch.start_worker(&worker);
    run.wait_for("worker 1 joined");
    first.signal(Signal::TERM);
    first.end().expect(75);
    let others = [(); 2].map(|()| scratch.start_worker(&worker));
    let ended = run.end().expect(0);
    assert_same(&scratch, &clean, &ended);
    others.into_iter().for_each(|worker| drop(worker.end().expect(0)));

    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WORK} --workers 2");
    let mut run = scratch.start(&command);
    serving::address(&mut run);
    run.signal(Signal::TERM);
    run.end().expect(75);
    let ended = scratch.run(&command).expect(0);
    assert_same(&scratch, &clean, &ended);
}

/// A checkpoint is being written, or a split predicted, when they strike; an evaluation is made at the end alone.
#[test]
fn deaths_in_the_midst_of_saves_and_evaluations_change_nothing() {
    let clean = clean(WORK);
    for (workers, chaos) in [
        (1, "kill:worker=0@save=25; kill:worker=0@evaluation=78"),
        (2, "kill:worker=0@save=25; kill:worker=1@save=50; kill:worker=0@evaluation=78"),
        (3, "kill:worker=1@save=25; kill:worker=2@save=25; term:worker=0@save=50; stop:worker=1@evaluation=78"),
        (3, "term:worker=2@evaluation=78; kill:worker=1@evaluation=78"),
    ] {
        let scratch = Scratch::new(100);
        let command = format!("train {RECIPE} {WORK} --workers {workers} --max_restarts 1000");
        let ended = scratch.run_with(&command, &["--chaos", chaos]).expect(0);
        let struck = ended.stderr.matches("chaos: SIG").count();
        assert_eq!(struck, chaos.matches('@').count(), "all of {chaos} in:\n{}", ended.stderr);
        assert_same(&scratch, &clean, &ended);
        scratch.run("verify out").expect(0);
    }
}

/// Nobody is left who holds the state: the run goes on from the newest checkpoint, or from its start.
#[test]
fn the_death_of_all_workers_costs_the_way_to_the_checkpoint_alone() {
    let clean = clean(WORK);
    for (update, from) in [(40, "goes on from update 25"), (3, "goes on from update 0")] {
        let scratch = Scratch::new(100);
        let chaos = format!("kill:worker=0@update={update}; kill:worker=1@update={update}");
        let command = format!("train {RECIPE} {WORK} --workers 2");
        let ended = scratch.run_with(&command, &["--chaos", &chaos]).expect(0).says(&[from]);
        assert_same(&scratch, &clean, &ended);
    }
}

/// As it ends with `kill -9`, or for want of memory, in training, in a save and in an evaluation: the same command goes on.
#[test]
fn the_death_of_the_launcher_changes_nothing() {
    let clean = clean(WORK);
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WORK} --workers 2");
    for never in ["kill:worker=2@update=1", "kill:coordinator@update=79"] {
        scratch.run_with(&command, &["--chaos", never]).expect(78).says(&["can never come"]);
    }
    for moment in ["update=30", "save=50", "evaluation=78"] {
        let ended = scratch.run_with(&command, &["--chaos", &format!("kill:coordinator@{moment}")]);
        assert_eq!(ended.code, None, "{moment}: {}", ended.stderr);
        ended.says(&["chaos: SIGKILL to the coordinator\n"]);
    }
    let ended = scratch.run(&command).expect(0);
    assert_same(&scratch, &clean, &ended);
    scratch.run("verify out").expect(0);
    // Of a run that is complete, all of the plan is past.
    scratch.run_with(&command, &["--chaos", "kill:coordinator@evaluation=78"]).expect(0);
}

/// Asked to end in training, in a save and in an evaluation: a checkpoint, exit code 75, and the same command goes on.
#[test]
fn a_stop_in_the_midst_of_a_save_or_an_evaluation_changes_nothing() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WORK} --workers 2");
    for moment in ["update=30", "save=50", "evaluation=78"] {
        let chaos = format!("term:coordinator@{moment}");
        let ended = scratch.run_with(&command, &["--chaos", &chaos]).expect(75);
        ended.says(&["chaos: SIGTERM to the coordinator\n", "the same command goes on"]);
    }
    let ended = scratch.run(&command).expect(0).says(&["nothing is left to train"]);
    assert_same(&scratch, &clean(WORK), &ended);
    scratch.run("verify out").expect(0);
}

#[test]
fn a_worker_that_dies_too_often_is_given_up() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WORK} --workers 1 --max_restarts 1");
    let chaos = "kill:worker=0@update=5; kill:worker=0@update=55";
    let ended = scratch
        .run_with(&command, &["--chaos", chaos])
        .expect(70)
        .says(&["--max_restarts", "goes on from checkpoint-"]);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// Workers that nobody starts again: others may come in their place, under `serve` as under `train`.
#[test]
fn a_worker_that_comes_later_takes_the_place_of_a_lost_one() {
    let clean = clean(LONG);
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} {LONG} --workers 2 --min_workers 2 --listen 127.0.0.1:0"));
    let address = serving::address(&mut run);
    let worker = format!("--coordinator {address} --threads 1");
    let first = scratch.start_worker(&worker);
    let second = scratch.start_worker(&worker);
    run.wait_for("update 1/");
    first.signal(Signal::KILL);
    run.wait_for("waiting for workers: 1 of 2 are ready");
    let third = scratch.start_worker(&worker);
    let ended = run.end().expect(0).says(&["going on with 2 workers (generation 2)"]);
    assert_same(&scratch, &clean, &ended);
    assert_eq!((second.end().code, third.end().code), (Some(0), Some(0)));
    drop(first);
}

/// A scheduler takes a machine away: its worker leaves at the end of an update, and the job goes on.
#[test]
fn a_worker_that_is_asked_to_end_leaves_in_order() {
    let clean = clean(LONG);
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} {LONG} --workers 2 --listen 127.0.0.1:0"));
    let address = serving::address(&mut run);
    let worker = format!("--coordinator {address} --threads 1");
    let first = scratch.start_worker(&worker);
    let _second = scratch.start_worker(&worker);
    run.wait_for("update 1/");
    first.signal(Signal::TERM);
    // Whoever started it is to start another: the run is not over.
    let left = first.end().expect(75);
    assert!(left.lifetime < Duration::from_secs(60));
    let ended = run.end().expect(0);
    assert_same(&scratch, &clean, &ended);
}

/// Whoever starts the workers again with the coordinator, as a scheduler does, must see that the run is not over.
#[test]
fn workers_of_a_run_that_is_stopped_may_be_started_again() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} {LONG} --workers 2 --listen 127.0.0.1:0"));
    let worker = format!("--coordinator {} --threads 1", serving::address(&mut run));
    let workers = [(); 2].map(|()| scratch.start_worker(&worker));
    run.wait_for("update 1/");
    run.signal(Signal::TERM);
    run.end().expect(75);
    for worker in workers {
        worker.end().expect(75).says(&["the run was stopped"]);
    }
}

/// A worker that was suspended and wakes up is told that it was replaced.
#[test]
fn a_worker_that_wakes_up_late_is_refused() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} {LONG} --workers 2 --listen 127.0.0.1:0"));
    let address = serving::address(&mut run);
    let worker = format!("--coordinator {address} --threads 1");
    let sleeper = scratch.start_worker(&worker);
    let _other = scratch.start_worker(&worker);
    run.wait_for("update 1/");
    sleeper.signal(Signal::STOP);
    run.wait_for("was lost");
    sleeper.signal(Signal::CONT);
    sleeper.end().expect(75).says(&["has been replaced"]);
}

/// Nobody starts workers but the launcher: when all have left in order, it ends as a run that was stopped.
#[test]
fn when_all_workers_have_left_the_run_is_stopped() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WORK} --workers 2");
    let chaos = "term:worker=0@update=30; term:worker=1@update=30";
    scratch.run_with(&command, &["--chaos", chaos]).expect(75).says(&["is saved"]);
    let ended = scratch.run(&command).expect(0).says(&["resuming"]);
    assert_same(&scratch, &clean(WORK), &ended);
}

/// Deaths while states are saved, one save after another; then a stop in the middle of it all.
#[test]
fn deaths_during_saves_cost_nothing_and_a_stop_ends() {
    let scratch = Scratch::new(100);
    let saves = "--num_train_epochs 600 --save_steps 1 --save_total_limit 2 --heartbeat_timeout 1";
    let command = format!("train {RECIPE} {saves} --workers 3 --max_restarts 100000 --chaos random:mean=0.5s,seed=4");
    let mut run = scratch.start(&command);
    for _ in 0..20 {
        run.wait_for("saved out/checkpoint-");
    }
    run.signal(Signal::INT);
    run.wait_for("stopping: ");
    run.signal(Signal::TERM);
    let ended = run.end().expect(75);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// Without equal bits, all else is as ever: each row once, no update lost, and the ledger proves it.
#[test]
fn sums_in_any_order_lose_nothing_either() {
    let clean = clean(WORK);
    let scratch = Scratch::new(100);
    let chaos = "kill:worker=1@update=20; kill:worker=0@update=40; stop:worker=2@update=60";
    let command = format!("train {RECIPE} {WORK} --workers 3 --reproducible off");
    let ended = scratch.run_with(&command, &["--chaos", chaos]).expect(0).says(&["--reproducible off"]);
    let (found, expected) = (updates(&scratch), updates(&clean));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.values().zip(expected.values()).take(20) {
        assert_eq!((&found.lanes, found.learning_rate), (&expected.lanes, expected.learning_rate));
        assert!((found.loss / expected.loss - 1.0).abs() < 1e-3, "{found:?} {expected:?}");
    }
    assert_ne!(scratch.sha256("out/model.safetensors"), clean.sha256("out/model.safetensors"), "{}", ended.stderr);
    scratch.run("verify out").expect(0);
    let certificate = scratch.json("out/medley_run.json");
    assert_eq!(certificate["content"]["recipe"]["reproducible"], false);
    let hosts = certificate["content"]["hosts"].as_array().unwrap().clone();
    assert!(!hosts[0]["processor"].as_str().unwrap().is_empty() && hosts[0]["threads"] == 1, "{hosts:?}");
    scratch.run("replay out --from-checkpoint 25 --updates 5").expect(0).says(&["26 to 30", "bits are not compared"]);
    // The last bits are part of what a checkpoint is: it is not gone on with in the other way.
    let other = format!("train {RECIPE} {WORK} --output_dir other --resume_from_checkpoint out/checkpoint-25");
    scratch.run(&other).expect(78).says(&["reproducible was false, now true"]);
}
