//! Many settings, one table.

use medley_tests::Scratch;
use rustix::process::Signal;
use serde_json::Value;

/// The flags that all runs share.
const SHARED: &str = "-- --model_name_or_path model --do_train --train_file train.jsonl --max_seq_length 64 --do_eval \
                      --validation_file dev.jsonl --per_device_train_batch_size 8 --threads 1 --workers 2 --device cpu";

fn rows(results: &Value, rung: usize) -> Vec<Value> {
    results["rungs"][rung]["settings"].as_array().unwrap().clone()
}

#[test]
fn settings_and_seeds_come_to_a_table_and_a_stopped_sweep_goes_on() {
    let command = format!(
        "sweep --over learning_rate=1e-9,1e-3 --seeds 1,2 --metric loss --output_dir swept {SHARED} --max_steps 20"
    );
    let scratch = Scratch::new(60);
    let mut running = scratch.start(&command);
    running.wait_for("run 2 of 4: learning_rate=1e-9, seed 2");
    running.signal(Signal::INT);
    running.end().expect(75).says(&["stopped: the same command goes on"]);
    let table = scratch.run(&command).expect(0).stdout;
    for part in ["eval_loss (± standard error)", "the best: --learning_rate 1e-", "its best model is in swept/trial-"]
    {
        assert!(table.contains(part), "missing {part:?} in:\n{table}");
    }
    let results = scratch.json("swept/sweep_results.json");
    assert_eq!((results["runs"].as_u64(), results["of"].as_u64()), (Some(4), Some(4)));
    for row in rows(&results, 0) {
        let folder = format!("swept/trial-{}", row["trial"]);
        let values: Vec<f64> = [1, 2]
            .map(|seed| scratch.json(&format!("{folder}/seed-{seed}/eval_results.json"))["eval_loss"].as_f64().unwrap())
            .into();
        let mean = row["mean"].as_f64().unwrap();
        assert!((mean - (values[0] + values[1]) / 2.0).abs() < 1e-12, "{row}");
        assert!((row["standard_error"].as_f64().unwrap() - (values[0] - values[1]).abs() / 2.0).abs() < 1e-12, "{row}");
    }
    let means: Vec<f64> = rows(&results, 0).iter().map(|row| row["mean"].as_f64().unwrap()).collect();
    assert!(means[0] < means[1], "the lower loss first: {means:?}");
    scratch.run("verify swept/trial-2/seed-1").expect(0);
    let other = command.replace("1e-9", "1e-8");
    scratch.run(&other).expect(78).says(&["swept holds another sweep, with other settings; name another --output_dir"]);
    // Another seed, metric or number of workers is no other sweep: what is complete is read.
    let more = command.replace("--seeds 1,2", "--seeds 1,2,3").replace("metric loss", "metric accuracy");
    let more = more.replace("--workers 2", "--workers 1");
    let ended = scratch.run(&more).expect(0);
    assert!(
        ended.stderr.contains("seed 3") && !ended.stderr.contains("learning_rate=1e-9, seed 1"),
        "{}",
        ended.stderr
    );
    scratch.run(&command.replace("swept", "model")).expect(78).says(&["model is not empty, and holds no sweep"]);
}

#[test]
fn the_best_of_short_runs_are_trained_for_longer() {
    let scratch = Scratch::new(60);
    let command = format!(
        "sweep --over learning_rate=log:1e-9..1e-3 --trials 4 --halving 2 --output_dir swept {SHARED} --max_steps 20"
    );
    let ended = scratch.run(&command).expect(0).says(&["run 7 of 7"]);
    assert!(ended.stdout.contains("round 3 of 3"), "{}", ended.stdout);
    let results = scratch.json("swept/sweep_results.json");
    assert_eq!([0, 1, 2].map(|rung| rows(&results, rung).len()), [4, 2, 1]);
    let updates = |folder: &str| scratch.updates(&format!("swept/{folder}/ledger.jsonl")).len();
    let trial = |rung: usize| rows(&results, rung)[0]["trial"].as_u64().unwrap();
    let lengths = [0, 1, 2].map(|rung| updates(&format!("round-{}/trial-{}/seed-42", rung + 1, trial(rung))));
    assert_eq!(lengths, [5, 10, 20]);
}

#[test]
fn a_sweep_that_cannot_work_is_refused_before_its_first_run() {
    let scratch = Scratch::new(10);
    let refused = |flags: &str, says: &str| {
        scratch.run(&format!("sweep --output_dir swept {flags}")).expect(64).says(&[says]);
        assert!(!scratch.path("swept").exists(), "{flags}");
    };
    let shared = format!("{SHARED} --max_steps 2");
    refused(&format!("--over learning_rate=1e-5..1e-3 {shared}"), "--trials");
    refused(&format!("--over learning_rat=1e-5 {shared}"), "learning_rat");
    refused(&format!("--over learning_rate=1e-5,fast {shared}"), "fast");
    refused(&format!("--over seed=1,2 {shared}"), "--seeds");
    refused(&format!("--over max_steps=1,2 --halving 2 {shared}"), "halving sets how long a run is");
    refused(&format!("--over lanes=1,2 {shared} --output_dir elsewhere"), "--output_dir");
    refused("--over lanes=1,2 -- --model_name_or_path model --do_eval --validation_file dev.jsonl", "--do_train");
    refused(
        &format!("--over lanes=8 --metric f3 {shared}"),
        "--metric is f3; expected loss, accuracy, macro_precision",
    );
    refused(&format!("--over validation_file=dev.jsonl,nope.jsonl {shared}"), "nope.jsonl: no such file");
}
