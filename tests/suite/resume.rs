//! Stopping costs nothing: a resumed run ends in the same bytes as one that never stopped.

use medley_tests::Scratch;
use rustix::process::Signal;

use crate::RECIPE;
use crate::ledger::updates;

const LONG: &str = "--logging_steps 7 --num_train_epochs 6 --save_strategy steps --save_steps 10 --do_eval --validation_file dev.jsonl";

fn uninterrupted() -> Scratch {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {LONG} --workers 2")).expect(0);
    scratch
}

fn assert_same(resumed: &Scratch, straight: &Scratch) {
    assert_eq!(resumed.sha256("out/model.safetensors"), straight.sha256("out/model.safetensors"));
    assert_eq!(updates(resumed), updates(straight));
    let logged = |scratch: &Scratch| {
        let state = scratch.json("out/trainer_state.json");
        let log = state["log_history"].as_array().unwrap().clone();
        log.into_iter()
            .filter_map(|entry| Some((entry["step"].clone(), entry.get("loss")?.clone())))
            .collect::<Vec<_>>()
    };
    assert!(!logged(straight).is_empty());
    assert_eq!(logged(resumed), logged(straight));
    assert_eq!(
        resumed.json("out/train_results.json")["train_loss"],
        straight.json("out/train_results.json")["train_loss"]
    );
    assert_eq!(
        resumed.json("out/trainer_state.json")["global_step"],
        straight.json("out/trainer_state.json")["global_step"]
    );
}

#[test]
fn ctrl_c_saves_and_the_same_command_goes_on() {
    let straight = uninterrupted();
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {LONG} --workers 2");
    let mut run = scratch.start(&command);
    run.wait_for("update 1/");
    // A parent may pass on what the terminal has sent to all: that is no second wish.
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    run.end().expect(75).says(&["checkpoint", "which is saved"]);
    let stopped = updates(&scratch).len();
    assert!((1..78).contains(&stopped), "{stopped} updates");
    // Another number of workers, to the bit.
    scratch.run(&format!("train {RECIPE} {LONG} --workers 3")).expect(0).says(&["resum"]);
    assert_same(&scratch, &straight);
}

/// A scheduler that types the command again must not start it over for ever.
#[test]
fn a_stopped_run_is_not_overwritten_by_its_own_command() {
    let straight = uninterrupted();
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {LONG} --workers 2 --overwrite_output_dir");
    let mut run = scratch.start(&command);
    run.wait_for("saved out/checkpoint-10");
    run.signal(Signal::INT);
    run.end().expect(75);
    scratch.run(&command).expect(0).says(&["this very run, unfinished", "resuming from out/checkpoint-"]);
    assert_same(&scratch, &straight);
    // Complete, it is another run's as any: the command trains again.
    let again = scratch.run(&format!("train {RECIPE} {LONG} --workers 1 --overwrite_output_dir")).expect(0);
    assert!(!again.stderr.contains("resuming from"), "{}", again.stderr);
    assert_same(&scratch, &straight);
}

#[test]
fn a_damaged_checkpoint_is_named_and_passed_over() {
    let straight = uninterrupted();
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {LONG} --workers 2")).expect(0);
    // As after a crash that took the final model and the last two checkpoints with it.
    std::fs::remove_file(scratch.path("out/model.safetensors")).unwrap();
    for lost in ["checkpoint-70", "checkpoint-60"] {
        let path = scratch.path(&format!("out/{lost}/model.safetensors"));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    scratch.run(&format!("train {RECIPE} {LONG} --workers 1")).expect(0).says(&[
        "checkpoint-70",
        "checkpoint-60",
        "checkpoint-50",
    ]);
    assert_same(&scratch, &straight);
}

/// Its checkpoints are good without it; what was done before them is proved no more.
#[test]
fn a_lost_ledger_is_begun_anew_at_the_newest_checkpoint() {
    let scratch = Scratch::new(40);
    let command = format!("train {RECIPE} --num_train_epochs 2 --save_steps 3 --workers 1");
    scratch.run(&command).expect(0);
    for lost in ["model.safetensors", "medley_run.json", "ledger.jsonl"] {
        std::fs::remove_file(scratch.path(&format!("out/{lost}"))).unwrap();
    }
    std::fs::remove_dir_all(scratch.path("out/checkpoint-9")).unwrap();
    scratch.run(&command).expect(0).says(&["resuming from out/checkpoint-6"]);
    let proof = scratch.run("verify out").expect(65);
    for found in ["3 of 3 intact", "what came before is not proved", "1 thing is wrong"] {
        assert!(proof.stdout.contains(found), "{}", proof.stdout);
    }
}

#[test]
fn a_checkpoint_of_another_recipe_is_refused() {
    let scratch = Scratch::new(40);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 2 --save_steps 3 --workers 1")).expect(0);
    std::fs::remove_file(scratch.path("out/model.safetensors")).unwrap();
    let before = scratch.sha256("out/checkpoint-9/model.safetensors");
    let other = RECIPE.replace("1e-3", "2e-3");
    let ended = scratch.run(&format!("train {other} --num_train_epochs 2 --save_steps 3 --workers 1"));
    assert_ne!(ended.code, Some(0));
    ended.says(&["0.002", "--overwrite_output_dir"]);
    assert_eq!(scratch.sha256("out/checkpoint-9/model.safetensors"), before);
}

#[test]
fn old_checkpoints_go_by_the_limit() {
    let scratch = Scratch::new(40);
    scratch
        .run(&format!("train {RECIPE} --num_train_epochs 2 --save_steps 2 --save_total_limit 2 --workers 1"))
        .expect(0);
    let mut left: Vec<String> = std::fs::read_dir(scratch.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("checkpoint-"))
        .collect();
    left.sort();
    assert_eq!(left, ["checkpoint-10", "checkpoint-8"]);
}

/// A process that ended between its last checkpoint and the final model leaves nothing out.
#[test]
fn a_run_that_ended_before_its_results_gets_them() {
    let scratch = Scratch::new(40);
    let command = format!("train {RECIPE} --num_train_epochs 2 --save_steps 5 --workers 1");
    scratch.run(&command).expect(0);
    let loss = scratch.json("out/train_results.json")["train_loss"].clone();
    for lost in ["model.safetensors", "medley_run.json", "train_results.json", "all_results.json", "trainer_state.json"]
    {
        std::fs::remove_file(scratch.path(&format!("out/{lost}"))).unwrap();
    }
    scratch.run(&command).expect(0);
    assert_eq!(scratch.json("out/train_results.json")["train_loss"], loss);
    assert_eq!(scratch.json("out/trainer_state.json")["global_step"], 10);
    assert!(scratch.path("out/model.safetensors").is_file());
}
