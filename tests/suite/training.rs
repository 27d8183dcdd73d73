//! One run means the same at every number of workers.

use medley_tests::{Running, Scratch};

use crate::RECIPE;
use crate::ledger::updates;

const WHOLE: &str = "--do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl --num_train_epochs 2";

/// 100 rows make 13 updates an epoch, the last of 4 rows: fewer than lanes. Threads do not show either.
#[test]
fn every_number_of_workers_makes_the_same_run() {
    let runs: Vec<Scratch> = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (1, 2), (1, 3), (2, 3), (3, 2)]
        .into_iter()
        .map(|(workers, threads)| {
            let scratch = Scratch::new(100);
            scratch.run(&format!("train {RECIPE} {WHOLE} --workers {workers} --threads {threads}")).expect(0);
            scratch
        })
        .collect();
    let (one, others) = runs.split_first().unwrap();
    let expected = updates(one);
    assert_eq!(expected.len(), 26);
    assert!(expected.keys().copied().eq(1..=26));
    for other in others {
        assert_eq!(updates(other), expected);
        // Stronger than asked of any trainer: lanes are summed in one tree, so the weights are equal to the bit.
        assert_eq!(other.sha256("out/model.safetensors"), one.sha256("out/model.safetensors"));
        for file in ["out/predict_results.txt", "out/predictions.jsonl"] {
            assert_eq!(other.sha256(file), one.sha256(file), "{file}");
        }
        assert_eq!(other.json("out/eval_results.json")["eval_loss"], one.json("out/eval_results.json")["eval_loss"]);
    }
}

/// Workers of one machine sum through memory that they share, unless they are told not to.
#[test]
fn shared_memory_and_tcp_make_the_same_run() {
    let runs = [("on", "over shared memory"), ("off", "over TCP")].map(|(switch, way)| {
        let scratch = Scratch::new(40);
        let command = format!("train {RECIPE} --num_train_epochs 1 --device cpu --workers 3 --threads 1");
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let variables = [("MEDLEY_SHARED_MEMORY", switch)];
        let ended = Running::start_among(&variables, "medley", &arguments, &scratch.path("")).end().expect(0);
        let said = ended.stderr.lines().find(|line| line.contains("3 ranks on 1 host")).unwrap_or_default();
        assert!(said.ends_with(way), "{}", ended.stderr);
        scratch
    });
    assert_eq!(updates(&runs[0]), updates(&runs[1]));
    assert_eq!(runs[0].sha256("out/model.safetensors"), runs[1].sha256("out/model.safetensors"));
}

/// Without a GPU, one worker with all cores is the fastest that there is: what nobody says, and `auto`, come to the same.
#[test]
fn the_number_of_workers_may_be_left_open() {
    let digests = ["", "--workers auto", "--workers 1"].map(|workers| {
        let scratch = Scratch::new(20);
        let ended = scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --device cpu {workers}")).expect(0);
        assert!(ended.stderr.contains("1 worker on the CPU"), "{}", ended.stderr);
        scratch.sha256("out/model.safetensors")
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// INV-1: in an epoch each row enters exactly one update.
#[test]
fn every_row_is_seen_once_an_epoch() {
    let scratch = Scratch::new(50);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 3 --workers 2")).expect(0);
    let updates: Vec<_> = updates(&scratch).into_values().collect();
    assert_eq!(updates.len(), 3 * 7);
    for epoch in updates.chunks(7) {
        let lanes = epoch.iter().flat_map(|update| update.lanes.as_array().unwrap());
        let rows = lanes.flat_map(|lane| lane.as_array().unwrap());
        let mut rows: Vec<u64> = rows.map(|row| row.as_u64().unwrap()).collect();
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
    assert_eq!(updates(&scratch).len(), 6, "{}", ended.stderr);
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
    let losses: Vec<f64> = updates(&scratch).values().map(|update| update.loss).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[losses.len() - 8..]) < mean(&losses[..8]) - 0.1, "{losses:?}");
}
