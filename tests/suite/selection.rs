//! Evaluations decide: which model is the result, and when training ends.

use medley_tests::Scratch;
use rustix::process::Signal;
use serde_json::Value;

use crate::RECIPE;
use crate::ledger::updates;

/// 78 updates, evaluated and saved after every tenth.
const WHOLE: &str = "--num_train_epochs 6 --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl \
                     --evaluation_strategy steps --eval_steps 10 --save_strategy steps --save_steps 10";

/// The loss falls, so that the highest one is that of the first evaluation: neither the last, nor what one hopes for.
const WORST: &str = "--load_best_model_at_end --metric_for_best_model eval_loss --greater_is_better True";

fn evaluated(scratch: &Scratch) -> Vec<(u64, f64)> {
    let state = scratch.json("out/trainer_state.json");
    let entry = |entry: &Value| Some((entry["step"].as_u64()?, entry.get("eval_loss")?.as_f64()?));
    state["log_history"].as_array().unwrap().iter().filter_map(entry).collect()
}

fn run(scratch: &Scratch, flags: &str) {
    scratch.run(&format!("train {RECIPE} {WHOLE} {flags}")).expect(0);
    scratch.run("verify out").expect(0).says(&["selection", "all is as the ledger says"]);
}

#[test]
fn the_best_checkpoint_is_the_model_that_is_evaluated_predicts_and_is_left() {
    let runs: Vec<Scratch> = ["--workers 1", "--workers 3", "--workers 2 --chaos kill:worker=1@update=25"]
        .into_iter()
        .map(|workers| {
            let scratch = Scratch::new(100);
            run(&scratch, &format!("{WORST} {workers}"));
            scratch
        })
        .collect();
    let one = &runs[0];
    let evaluations = evaluated(one);
    let (steps, losses): (Vec<u64>, Vec<f64>) = evaluations.iter().copied().unzip();
    // The last two are after the last save, and at the end.
    assert_eq!(steps, [10, 20, 30, 40, 50, 60, 70, 78]);
    assert!(losses[..7].windows(2).all(|pair| pair[0] > pair[1]), "{losses:?}");
    assert_eq!(losses[7], losses[0], "the model that is evaluated at the end is the one after update 10");
    assert_eq!(updates(one).len(), 78, "training goes on to its end");
    assert_eq!(one.sha256("out/model.safetensors"), one.sha256("out/checkpoint-10/model.safetensors"));
    let state = one.json("out/trainer_state.json");
    assert_eq!((state["best_global_step"].as_u64(), state["best_metric"].as_f64()), (Some(10), Some(losses[0])));
    assert_eq!(state["best_model_checkpoint"], "out/checkpoint-10");
    assert_eq!(one.json("out/checkpoint-10/trainer_state.json")["best_global_step"], 10);
    assert_eq!(one.json("out/eval_results.json")["epoch"], 6.0);
    for other in &runs[1..] {
        assert_eq!(evaluated(other), evaluations);
        for file in ["out/model.safetensors", "out/predictions.jsonl", "out/predict_results.txt"] {
            assert_eq!(other.sha256(file), one.sha256(file), "{file}");
        }
    }
    // What predicts is what is left.
    let model = one.path("out");
    let flags = format!("--model_name_or_path {} --do_predict --test_file test.jsonl", model.display());
    one.run(&format!("train {flags} --max_seq_length 64 --output_dir again")).expect(0);
    assert_eq!(one.sha256("again/predictions.jsonl"), one.sha256("out/predictions.jsonl"));
}

#[test]
fn training_ends_where_evaluations_improve_no_more_whether_it_was_stopped_or_not() {
    let flags = format!("{WORST} --early_stopping_patience 3 --save_total_limit 1");
    let straight = Scratch::new(100);
    run(&straight, &format!("{flags} --workers 2"));
    let steps: Vec<u64> = evaluated(&straight).into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [10, 20, 30, 40, 40], "three that improve nothing, and the end");
    assert_eq!(updates(&straight).len(), 40);
    assert!(straight.path("out/checkpoint-10").is_dir() && straight.path("out/checkpoint-40").is_dir());
    assert!(!straight.path("out/checkpoint-20").exists());

    let stopped = Scratch::new(100);
    let command = format!("train {RECIPE} {WHOLE} {flags}");
    let mut running = stopped.start(&format!("{command} --workers 2"));
    running.wait_for("saved out/checkpoint-20");
    running.signal(Signal::INT);
    running.end().expect(75);
    run(&stopped, &format!("{flags} --workers 3"));
    assert_eq!(evaluated(&stopped), evaluated(&straight));
    assert_eq!(updates(&stopped), updates(&straight));
    for file in ["out/model.safetensors", "out/predictions.jsonl"] {
        assert_eq!(stopped.sha256(file), straight.sha256(file), "{file}");
    }
    // It is complete, and of these settings.
    stopped.run(&format!("{command} --workers 1")).expect(0).says(&["holds this run, complete"]);
    let other = command.replace("patience 3", "patience 2");
    stopped.run(&other).expect(78).says(&["early_stopping_patience was 3, now 2"]);
}

#[test]
fn a_damaged_best_checkpoint_is_named_and_the_next_best_takes_its_place() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WHOLE} {WORST} --workers 1");
    let mut running = scratch.start(&command);
    running.wait_for("saved out/checkpoint-30");
    running.signal(Signal::INT);
    running.end().expect(75);
    scratch.write("out/checkpoint-10/config.json", "{}");
    scratch.run(&command).expect(0).says(&["checkpoint-10", "the next best", "the model is that of out/checkpoint-20"]);
    assert_eq!(scratch.sha256("out/model.safetensors"), scratch.sha256("out/checkpoint-20/model.safetensors"));
    scratch
        .run("verify out")
        .expect(65)
        .says(&["checkpoint-10", "the best that was evaluated and saved is that of 10"]);
}

#[test]
fn evaluations_may_start_before_the_first_update_or_late() {
    let scratch = Scratch::new(100);
    let flags = "--num_train_epochs 3 --do_eval --validation_file dev.jsonl --evaluation_strategy epoch";
    scratch.run(&format!("train {RECIPE} {flags} --eval_on_start --eval_delay 2 --workers 2")).expect(0);
    let evaluations = evaluated(&scratch);
    let steps: Vec<u64> = evaluations.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 26, 39, 39], "at the start, after two and three epochs, and at the end");
    assert!(evaluations[0].1 > evaluations[1].1, "{evaluations:?}");
}

#[test]
fn settings_that_cannot_decide_are_refused_with_the_way_out() {
    let scratch = Scratch::new(10);
    let refused = |flags: &str, code: i32, says: &str| {
        let files = "--do_eval --validation_file dev.jsonl";
        scratch.run(&format!("train {RECIPE} {files} {flags}")).expect(code).says(&[says]);
        assert!(!scratch.path("out").exists(), "{flags}");
    };
    refused("--load_best_model_at_end", 64, "--load_best_model_at_end needs --evaluation_strategy");
    refused("--early_stopping_patience 2", 64, "--early_stopping_patience needs --evaluation_strategy");
    refused("--early_stopping_patience 0", 64, "--early_stopping_patience is 0; expected at least 1");
    refused("--early_stopping_threshold 0.1", 64, "--early_stopping_threshold needs --early_stopping_patience");
    refused("--metric_for_best_model accuracy", 64, "--metric_for_best_model needs --load_best_model_at_end");
    let steps = "--evaluation_strategy steps --eval_steps 4";
    let best = "--load_best_model_at_end --save_steps 4";
    refused(&format!("{steps} {best} --metric_for_best_model f2"), 78, "expected loss, accuracy, macro_precision");
    refused(&format!("{steps} --load_best_model_at_end --save_steps 6"), 78, "--save_steps a multiple of --eval_steps");
    refused(&format!("{steps} --load_best_model_at_end --save_strategy epoch"), 78, "needs every checkpoint evaluated");
    refused("--evaluation_strategy epoch --eval_delay -1", 64, "--eval_delay is -1");
}
