//! Evaluations decide: which model is the result, and when training ends.

use medley_tests::Scratch;
use rustix::process::Signal;
use serde_json::Value;

use crate::RECIPE;
use crate::ledger::updates;

/// 78 updates, evaluated and saved after every tenth.
const WHOLE: &str = "--num_train_epochs 6 --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl \
                     --evaluation_strategy steps --eval_steps 10 --save_strategy steps --save_steps 10";

const BEST: &str = "--load_best_model_at_end";

fn evaluated(scratch: &Scratch) -> Vec<(u64, f64)> {
    let state = scratch.json("out/trainer_state.json");
    let entry = |entry: &Value| Some((entry["step"].as_u64()?, entry.get("eval_loss")?.as_f64()?));
    state["log_history"].as_array().unwrap().iter().filter_map(entry).collect()
}

/// The evaluations of saved models, the lowest loss first.
fn ranked(scratch: &Scratch) -> Vec<(u64, f64)> {
    let mut during: Vec<_> = evaluated(scratch).into_iter().filter(|(step, _)| step % 10 == 0).collect();
    during.dedup_by_key(|(step, _)| *step);
    during.sort_by(|one, other| one.1.total_cmp(&other.1));
    during
}

fn run(scratch: &Scratch, flags: &str) {
    scratch.run(&format!("train {RECIPE} {WHOLE} {flags}")).expect(0);
    let verdict = scratch.run("verify out").expect(0).stdout;
    assert!(verdict.contains("selection") && verdict.contains("all is as the ledger says"), "{verdict}");
}

#[test]
fn the_best_checkpoint_is_the_model_that_is_evaluated_predicts_and_is_left() {
    let runs: Vec<Scratch> = ["--workers 1", "--workers 3", "--workers 2 --chaos kill:worker=1@update=25"]
        .into_iter()
        .map(|workers| {
            let scratch = Scratch::new(100);
            run(&scratch, &format!("{BEST} {workers}"));
            scratch
        })
        .collect();
    let one = &runs[0];
    let evaluations = evaluated(one);
    let steps: Vec<u64> = evaluations.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [10, 20, 30, 40, 50, 60, 70, 78], "after every tenth update, and at the end");
    let (best, loss) = ranked(one)[0];
    assert!(best < 70, "{evaluations:?}: the last is the best, so that this shows nothing");
    assert_eq!(evaluations[7].1, loss, "the model that is evaluated at the end is the best");
    assert_eq!(updates(one).len(), 78, "training goes on to its end");
    assert_eq!(one.sha256("out/model.safetensors"), one.sha256(&format!("out/checkpoint-{best}/model.safetensors")));
    let state = one.json("out/trainer_state.json");
    assert_eq!((state["best_global_step"].as_u64(), state["best_metric"].as_f64()), (Some(best), Some(loss)));
    assert_eq!(state["best_model_checkpoint"], format!("out/checkpoint-{best}"));
    assert_eq!(one.json("out/checkpoint-10/trainer_state.json")["best_global_step"], 10, "the only one by then");
    assert_eq!(one.json("out/eval_results.json")["epoch"], 6.0);
    for other in &runs[1..] {
        assert_eq!(evaluated(other), evaluations);
        for file in ["out/model.safetensors", "out/predictions.jsonl", "out/predict_results.txt"] {
            assert_eq!(other.sha256(file), one.sha256(file), "{file}");
        }
    }
    // What has predicted is what is left.
    let flags = "--model_name_or_path out --do_predict --test_file test.jsonl --max_seq_length 64";
    one.run(&format!("train {flags} --output_dir again")).expect(0);
    assert_eq!(one.sha256("again/predictions.jsonl"), one.sha256("out/predictions.jsonl"));
    // No half of the last model is left, and updates can be made again.
    let mut left: Vec<_> = std::fs::read_dir(one.path("out")).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.retain(|name| name.to_string_lossy().ends_with(".partial"));
    assert!(left.is_empty(), "{left:?}");
    one.run("replay out --from-checkpoint 20 --updates 5 --workers 2").expect(0).says(&["are the ledger's to the bit"]);
}

#[test]
fn training_ends_where_evaluations_improve_no_more_whether_it_was_stopped_or_not() {
    let flags = format!("{BEST} --early_stopping_patience 2 --save_total_limit 1");
    let straight = Scratch::new(100);
    run(&straight, &format!("{flags} --workers 2"));
    let evaluations = evaluated(&straight);
    let last = updates(&straight).len() as u64;
    let (best, loss) = ranked(&straight)[0];
    assert!(last < 78 && last == best + 20, "{evaluations:?}: two evaluations after the best, and no more");
    assert_eq!(evaluations.last(), Some(&(last, loss)));
    let kept = |update: u64| straight.path(&format!("out/checkpoint-{update}")).is_dir();
    assert!(kept(best) && kept(last) && !kept(last - 10));

    let stopped = Scratch::new(100);
    let command = format!("train {RECIPE} {WHOLE} {flags}");
    let mut running = stopped.start(&format!("{command} --workers 2"));
    running.wait_for("saved out/checkpoint-10");
    running.signal(Signal::INT);
    running.end().expect(75);
    run(&stopped, &format!("{flags} --workers 3"));
    assert_eq!(evaluated(&stopped), evaluations);
    assert_eq!(updates(&stopped), updates(&straight));
    for file in ["out/model.safetensors", "out/predictions.jsonl"] {
        assert_eq!(stopped.sha256(file), straight.sha256(file), "{file}");
    }
    // It is complete, and of these settings.
    stopped.run(&format!("{command} --workers 1")).expect(0).says(&["holds this run, complete"]);
    let other = command.replace("patience 2", "patience 3");
    stopped.run(&other).expect(78).says(&["early_stopping_patience was 2, now 3"]);
}

#[test]
fn a_damaged_best_checkpoint_is_named_and_the_next_best_takes_its_place() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {WHOLE} {BEST} --workers 1");
    scratch.run(&format!("{command} --output_dir straight")).expect(0);
    let log = scratch.json("straight/trainer_state.json");
    let best = log["best_global_step"].as_u64().unwrap();
    let mut running = scratch.start(&command);
    running.wait_for(&format!("saved out/checkpoint-{best}"));
    running.signal(Signal::INT);
    running.end().expect(75);
    let damaged = format!("out/checkpoint-{best}");
    scratch.write(&format!("{damaged}/config.json"), "{}");
    let ended = scratch.run(&command).expect(0);
    let (next, _) = ranked(&scratch)[1];
    let model = format!("the model is that of out/checkpoint-{next}");
    ended.says(&[&damaged, "the next best checkpoint takes its place", &model]);
    assert_eq!(
        scratch.sha256("out/model.safetensors"),
        scratch.sha256(&format!("out/checkpoint-{next}/model.safetensors"))
    );
    let verdict = scratch.run("verify out").expect(65).stdout;
    assert!(verdict.contains(&format!("the best that was evaluated and saved is that of {best}")), "{verdict}");
}

/// The learning rate of each update.
fn rates(scratch: &Scratch) -> Vec<f64> {
    updates(scratch).values().map(|update| update.learning_rate).collect()
}

#[test]
fn the_learning_rate_is_lowered_where_evaluations_improve_no_more_whatever_happens() {
    let settings = r#"--lr_scheduler_type reduce_lr_on_plateau --lr_scheduler_kwargs {"patience":0,"factor":0.5}"#;
    let plateau = format!("--learning_rate 4e-3 --warmup_ratio 0 {settings}");
    let straight = Scratch::new(100);
    run(&straight, &format!("{plateau} --workers 1"));
    let during: Vec<f64> = evaluated(&straight).iter().take(7).map(|(_, loss)| *loss).collect();
    let (mut best, mut rate, mut expected) = (f64::INFINITY, 4e-3, vec![4e-3; 10]);
    for loss in during {
        // By more than a ten-thousandth, as torch has it.
        if loss < best * (1.0 - 1e-4) {
            best = loss
        } else {
            rate *= 0.5
        }
        expected.extend([rate; 10]);
    }
    expected.truncate(78);
    assert_eq!(rates(&straight), expected);
    assert!(expected[77] < 4e-3, "it never goes down, so that this shows nothing");

    let hurt = Scratch::new(100);
    run(&hurt, &format!("{plateau} --workers 3 --chaos kill:worker=1@update=45"));
    let stopped = Scratch::new(100);
    let mut running = stopped.start(&format!("train {RECIPE} {WHOLE} {plateau} --workers 2"));
    running.wait_for("saved out/checkpoint-50");
    running.signal(Signal::INT);
    running.end().expect(75);
    run(&stopped, &format!("{plateau} --workers 1"));
    for other in [hurt, stopped] {
        assert_eq!(updates(&other), updates(&straight));
        assert_eq!(other.sha256("out/model.safetensors"), straight.sha256("out/model.safetensors"));
    }
    straight.run("replay out --from-checkpoint 60 --updates 15").expect(0).says(&["are the ledger's to the bit"]);

    // The checkpoint's log tells what the lost ledger would have, and the new one goes on telling it.
    let lost = Scratch::new(100);
    let command = format!("train {RECIPE} {WHOLE} {plateau} --workers 2");
    for checkpoint in [30, 60] {
        let mut running = lost.start(&command);
        running.wait_for(&format!("saved out/checkpoint-{checkpoint}"));
        running.signal(Signal::INT);
        running.end().expect(75);
        if checkpoint == 30 {
            std::fs::remove_file(lost.path("out/ledger.jsonl")).unwrap();
        }
    }
    lost.run(&command).expect(0);
    assert_eq!(rates(&lost), expected[78 - rates(&lost).len()..]);
    assert_eq!(lost.sha256("out/model.safetensors"), straight.sha256("out/model.safetensors"));
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
    refused(&format!("{steps} --load_best_model_at_end --save_strategy epoch"), 64, "needs every checkpoint evaluated");
    let plateau = "--warmup_ratio 0 --lr_scheduler_type reduce_lr_on_plateau";
    refused(plateau, 64, "reduce_lr_on_plateau needs --evaluation_strategy");
    let never = format!("plan {RECIPE} --do_eval --validation_file dev.jsonl {plateau} {steps}");
    let told = scratch.run(&never).expect(0).stdout;
    assert!(told.contains("are too few for its"), "{told}");
    let rising = format!("{plateau} {steps} --metric_for_best_model accuracy");
    refused(&rising, 64, r#"more of eval_accuracy is better: give --lr_scheduler_kwargs '{"mode": "max"}'"#);
    let factor = format!(r#"{plateau} {steps} --lr_scheduler_kwargs {{"factor":1}}"#);
    refused(&factor, 64, "factor is 1; expected less than 1");
    refused("--evaluation_strategy epoch --eval_delay -1", 64, "--eval_delay is -1");
}
