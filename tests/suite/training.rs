//! One run means the same at every number of workers.

use medley_tests::Scratch;
use serde_json::Value;

use crate::RECIPE;

const WHOLE: &str = "--do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl --num_train_epochs 2";

/// (update, rows by lane, learning rate) of every update.
fn ledger(scratch: &Scratch) -> Vec<(u64, Value, f64)> {
    scratch
        .json_lines("out/ledger.jsonl")
        .iter()
        .map(|line| (line["update"].as_u64().unwrap(), line["lanes"].clone(), line["learning_rate"].as_f64().unwrap()))
        .collect()
}

fn losses(scratch: &Scratch) -> Vec<f64> {
    scratch.json_lines("out/ledger.jsonl").iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// 100 rows make 13 updates an epoch, the last of 4 rows: fewer than lanes.
#[test]
fn every_number_of_workers_makes_the_same_run() {
    let runs: Vec<Scratch> = [1, 2, 3]
        .into_iter()
        .map(|workers| {
            let scratch = Scratch::new(100);
            scratch.run(&format!("train {RECIPE} {WHOLE} --workers {workers}")).expect(0);
            scratch
        })
        .collect();
    let (one, others) = runs.split_first().unwrap();
    let expected = ledger(one);
    assert_eq!(expected.len(), 26);
    assert_eq!(expected.iter().map(|(update, ..)| *update).collect::<Vec<_>>(), (1..=26).collect::<Vec<_>>());
    for other in others {
        assert_eq!(ledger(other), expected);
        assert!(losses(one).iter().zip(losses(other)).all(|(one, other)| (one - other).abs() < 1e-4));
        // Stronger than asked of any trainer: lanes are summed in one tree, so the weights are equal to the bit.
        assert_eq!(other.sha256("out/model.safetensors"), one.sha256("out/model.safetensors"));
        assert_eq!(other.read("out/predict_results.txt"), one.read("out/predict_results.txt"));
        assert_eq!(other.json("out/eval_results.json")["eval_loss"], one.json("out/eval_results.json")["eval_loss"]);
    }
}

/// INV-1: in an epoch each row enters exactly one update.
#[test]
fn every_row_is_seen_once_an_epoch() {
    let scratch = Scratch::new(50);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 3 --workers 2")).expect(0);
    let updates = ledger(&scratch);
    assert_eq!(updates.len(), 3 * 7);
    for epoch in updates.chunks(7) {
        let mut rows: Vec<u64> = epoch
            .iter()
            .flat_map(|(_, lanes, _)| lanes.as_array().unwrap().iter().flat_map(|lane| lane.as_array().unwrap()))
            .map(|row| row.as_u64().unwrap())
            .collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..50).collect::<Vec<_>>());
    }
}

/// Hugging Face's meaning of the batch flags, where it is asked for.
#[test]
fn the_batch_grows_with_the_workers_only_on_request() {
    let scratch = Scratch::new(96);
    let ended =
        scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 2 --scale_batch_with_workers")).expect(0);
    assert_eq!(ledger(&scratch).len(), 6, "{}", ended.stderr);
}

#[test]
fn a_complete_run_that_is_typed_again_needs_no_worker() {
    let scratch = Scratch::new(10);
    let command = format!("train {RECIPE} --num_train_epochs 1 --workers 1");
    scratch.run(&command).expect(0);
    let again = scratch.run(&command).expect(0).says(&["holds this run, complete", "done: the results are in out"]);
    assert!(!again.stderr.contains("joined"), "{}", again.stderr);
}

#[test]
fn a_model_that_learns_gets_better() {
    let scratch = Scratch::new(64);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 12 --learning_rate 5e-3 --workers 2")).expect(0);
    let losses = losses(&scratch);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[losses.len() - 8..]) < mean(&losses[..8]) - 0.1, "{losses:?}");
}
