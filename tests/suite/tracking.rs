//! What is reported to trackers is what the ledger has, each update once; it costs the run nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;

use medley_tests::{Running, Scratch};
use rustix::process::Signal;
use serde_json::Value;

use crate::RECIPE;
use crate::ledger::updates;

const RUN: &str = "--num_train_epochs 2 --save_steps 10 --logging_steps 3 --evaluation_strategy steps --eval_steps 13 \
    --validation_file dev.jsonl --do_predict --test_file test.jsonl";

/// The lines that jsonl shows of the one run of a folder, after the one that says which run it is.
fn shown(scratch: &Scratch, logging_dir: &str) -> Vec<Value> {
    let folders: Vec<_> =
        std::fs::read_dir(scratch.path(logging_dir)).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    let mut lines = scratch.json_lines(&format!("{logging_dir}/{}/metrics.jsonl", folders[0].to_string_lossy()));
    let first = lines.remove(0);
    assert_eq!(
        (&first["settings"]["learning_rate"], &first["settings"]["train_file"]),
        (&1e-3.into(), &"train.jsonl".into())
    );
    lines
}

/// The values that are shown, by their tags and steps; each of them once.
fn values(scratch: &Scratch, logging_dir: &str) -> BTreeMap<(String, u64), f64> {
    let mut values = BTreeMap::new();
    for line in shown(scratch, logging_dir) {
        let step = line["step"].as_u64().unwrap();
        for (tag, value) in line.as_object().unwrap().iter().filter(|(tag, _)| *tag != "step" && *tag != "time") {
            let twice = values.insert((tag.clone(), step), value.as_f64().unwrap());
            assert_eq!(twice, None, "{tag} of update {step} is shown twice");
        }
    }
    values
}

/// Holds what is shown against `log_history`, as Hugging Face would tag it. Speeds are of the process that is shown.
fn check_values(scratch: &Scratch, logging_dir: &str) {
    let shown = values(scratch, logging_dir);
    let state = scratch.json("out/trainer_state.json");
    let mut expected = 0;
    for entry in state["log_history"].as_array().unwrap() {
        let step = entry["step"].as_u64().unwrap();
        for (name, value) in entry.as_object().unwrap().iter().filter(|(name, _)| *name != "step") {
            let tag = name.strip_prefix("eval_").map_or(format!("train/{name}"), |rest| format!("eval/{rest}"));
            let found = shown.get(&(tag.clone(), step));
            let is_speed = ["runtime", "per_second"].iter().any(|part| tag.ends_with(part));
            assert!(is_speed || found.copied() == value.as_f64(), "{tag} of update {step}: {found:?}, {value}");
            expected += 1;
        }
    }
    assert!(expected > 60, "{state}");
    let loss = shown.get(&("predict/loss".to_owned(), 26));
    assert_eq!(loss.copied(), scratch.json("out/predict_results.json")["predict_loss"].as_f64());
    let known = |tag: &str| tag.starts_with("train/") || tag.starts_with("eval/") || tag.starts_with("predict/");
    assert!(shown.keys().all(|(tag, _)| known(tag)), "{shown:?}");
}

fn assert_same(run: &Scratch, plain: &Scratch) {
    for file in ["out/model.safetensors", "out/predictions.jsonl"] {
        assert_eq!(run.sha256(file), plain.sha256(file), "{file}");
    }
    assert_eq!(updates(run), updates(plain));
}

#[test]
fn a_tracked_run_is_the_same_run_and_is_shown_as_it_was() {
    let plain = Scratch::new(100);
    plain.run(&format!("train {RECIPE} {RUN} --workers 2")).expect(0);
    assert!(!plain.path("out/runs").exists());
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {RUN} --workers 2 --report_to tensorboard,jsonl --run_name first");
    let ended = scratch.run(&command).expect(0);
    assert_same(&scratch, &plain);
    check_values(&scratch, "out/runs");
    scratch.run("verify out").expect(0);
    let place = ended.stderr.split("tensorboard --logdir out/runs/first-").nth(1).expect("where to look");
    assert_eq!(place.lines().next().unwrap().len(), 8);
    // Typed again, it has nothing new to show.
    scratch.run(&command).expect(0);
    check_values(&scratch, "out/runs");
    let replayed = scratch.run("replay out --from-checkpoint 10 --updates 3").expect(0);
    assert!(!replayed.stderr.contains("tensorboard"), "{}", replayed.stderr);
}

/// A server that is not there, a folder that cannot be made: said once, and the run is the same.
#[test]
fn trackers_that_are_dead_cost_the_run_nothing() {
    let plain = Scratch::new(100);
    plain.run(&format!("train {RECIPE} {RUN} --workers 2")).expect(0);
    let scratch = Scratch::new(100);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let uri = format!("http://{gone}");
    let flags = "--workers 2 --report_to tensorboard jsonl mlflow --logging_dir train.jsonl/logs";
    let start = |scratch: &Scratch, variables: &[(&str, &str)], flags: &str| {
        let command = format!("train {RECIPE} {RUN} {flags}");
        let arguments: Vec<&str> = command.split_whitespace().collect();
        Running::start_among(variables, "medley", &arguments, &scratch.path("")).end()
    };
    let variables = [("MLFLOW_TRACKING_URI", uri.as_str()), ("NO_PROXY", "127.0.0.1")];
    let ended = start(&scratch, &variables, flags).expect(0);
    assert_same(&scratch, &plain);
    for name in ["tensorboard", "jsonl", "mlflow"] {
        let told = ended.stderr.matches(&format!("warning: {name}: ")).count();
        let missing = ended.stderr.matches(&format!("warning: {name} does not have ")).count();
        assert_eq!((told, missing), (1, 1), "{name} in:\n{}", ended.stderr);
    }
    // What the environment lacks is known before anything starts.
    let unset = [("MLFLOW_TRACKING_URI", "")];
    let refused = start(&Scratch::new(100), &unset, "--report_to mlflow").expect(78);
    assert!(refused.stderr.contains("needs MLFLOW_TRACKING_URI"), "{}", refused.stderr);
}

/// Stopped and gone on with, killed and gone on with before there is a checkpoint, and back at one because all are lost.
#[test]
fn a_run_that_goes_on_or_back_shows_each_update_once() {
    const LONG: &str = "--num_train_epochs 2 --logging_steps 1 --evaluation_strategy steps --eval_steps 5 \
        --validation_file dev.jsonl --do_predict --test_file test.jsonl --report_to jsonl tensorboard --logging_dir out/logs";
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {LONG} --workers 2 --save_steps 8");
    let mut run = scratch.start(&command);
    run.wait_for("update 3: ");
    run.signal(Signal::KILL);
    drop(run.end());
    let mut run = scratch.start(&command);
    run.wait_for("update 11: ");
    run.signal(Signal::TERM);
    run.end().expect(75);
    scratch.run(&command).expect(0);
    check_values(&scratch, "out/logs");

    let lost = Scratch::new(100);
    let chaos = ["--chaos", "kill:worker=0@update=13; kill:worker=1@update=13"];
    let ended = lost.run_with(&command, &chaos).expect(0);
    let went_back = lost.json_lines("out/ledger.jsonl").iter().any(|record| record["kind"] == "rewind");
    assert!(went_back, "{}", ended.stderr);
    check_values(&lost, "out/logs");
    assert_same(&lost, &scratch);
}

#[test]
fn a_complete_run_has_a_card_and_nobody_elses_is_touched() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} {RUN} --workers 1");
    scratch.run(&command).expect(0).says(&["the model's card is out/README.md"]);
    let card = scratch.read("out/README.md");
    for part in
        ["library_name: transformers", "- type: accuracy", "name: \"dev.jsonl\"", "| train | train.jsonl | 100 |"]
    {
        assert!(card.contains(part), "{part:?} is not in:\n{card}");
    }
    assert!(card.contains(&scratch.sha256("train.jsonl")) && card.contains("--max_seq_length 64"), "{card}");
    for row in scratch.json_lines("dev.jsonl") {
        assert!(!card.contains(row["sentence1"].as_str().unwrap()), "a sentence of the data is in it");
    }
    scratch.run("verify out").expect(0);
    scratch.write("out/README.md", &card.replace("medley", "mine"));
    scratch.run(&command).expect(0).says(&["note: out/README.md is not Medley's, or was changed"]);
    assert_eq!(scratch.read("out/README.md"), card.replace("medley", "mine"));
}
