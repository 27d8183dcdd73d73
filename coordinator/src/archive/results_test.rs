use std::fs;

use medley_common::evaluation::{Prediction, Tally};
use medley_common::identity::{RowId, Update};

use super::*;

fn summary() -> TrainSummary {
    TrainSummary {
        update: Update(3510),
        epoch: 10.0,
        mean_loss: 0.25,
        rows: 112_320,
        updates: 3510,
        seconds: 1_234.567_89,
    }
}

fn report(split: Split, tally: Tally, rows: u32, update: u64) -> EvaluationReport {
    let predict = |row| Prediction { row: RowId(row), logits: vec![0.0], loss: None };
    EvaluationReport {
        split,
        update: Update(update),
        epoch: 10.0,
        tally,
        predictions: (0..rows).map(predict).collect(),
        labels: Vec::new(),
        seconds: 27.4404,
    }
}

#[test]
fn the_training_table_is_hugging_faces() {
    let folder = tempfile::tempdir().unwrap();
    let output = OutputDir::open(folder.path()).unwrap();
    Metrics::of_training(&summary(), 11_232, None).save(&output).unwrap();
    let expected = "{\n    \"epoch\": 10.0,\n    \"train_loss\": 0.25,\n    \"train_runtime\": 1234.5679,\n    \
                    \"train_samples\": 11232,\n    \"train_samples_per_second\": 90.979,\n    \
                    \"train_steps_per_second\": 2.843\n}";
    assert_eq!(fs::read_to_string(folder.path().join("train_results.json")).unwrap(), expected);
    assert_eq!(fs::read_to_string(folder.path().join("all_results.json")).unwrap(), expected);
    let frozen = Metrics::of_training(&summary(), 11_232, Some(1_155));
    assert_eq!(frozen.values()["trained_parameters"], 1_155);
}

#[test]
fn the_published_test_split_has_its_published_speeds() {
    let tally = Tally { rows: 1422, correct: 1224, loss_sum: 1422.0 * 0.875 };
    let metrics = Metrics::of_evaluation(&report(Split::Test, tally, 1422, 3510), 32, &[]);
    let expected = JsonObject::from(
        [
            ("predict_accuracy", Value::from(1224.0 / 1422.0)),
            ("predict_loss", Value::from(0.875)),
            ("predict_runtime", Value::from(27.4404)),
            ("predict_samples", Value::from(1422)),
            ("predict_samples_per_second", Value::from(51.821)),
            ("predict_steps_per_second", Value::from(1.64)),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    assert_eq!(*metrics.values(), expected);
}

#[test]
fn keys_follow_what_is_known() {
    let keys = |split, tally, rows, update| -> Vec<String> {
        Metrics::of_evaluation(&report(split, tally, rows, update), 8, &[]).values().keys().cloned().collect()
    };
    let labelled = Tally { rows: 4, correct: 2, loss_sum: 1.0 };
    let speed = ["runtime", "samples", "samples_per_second", "steps_per_second"];
    let with = |first: &[&str], prefix: &str| -> Vec<String> {
        let tail = speed.map(|key| format!("{prefix}_{key}"));
        first.iter().map(|key| (*key).to_owned()).chain(tail).collect()
    };
    let validation = ["epoch", "eval_accuracy", "eval_loss"];
    assert_eq!(keys(Split::Validation, labelled, 4, 9), with(&validation, "eval"));
    assert_eq!(keys(Split::Validation, labelled, 4, 0), with(&validation[1..], "eval"), "nothing was trained");
    assert_eq!(keys(Split::Test, Tally::default(), 4, 9), with(&[], "predict"), "unlabelled");
    let partly = keys(Split::Test, labelled, 5, 9);
    assert!(partly.contains(&"predict_labelled_samples".to_owned()), "{partly:?}");
}

#[test]
fn results_are_merged_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let output = OutputDir::open(folder.path()).unwrap();
    let all = folder.path().join(ALL_RESULTS_FILE);
    fs::write(&all, r#"{"mine": 1, "eval_loss": NaN}"#).unwrap();
    let tally = Tally { rows: 4, correct: 2, loss_sum: f64::NAN };
    let validation = Metrics::of_evaluation(&report(Split::Validation, tally, 4, 9), 8, &[]);
    let aside = validation.save(&output).unwrap();
    assert_eq!(aside, Some(folder.path().join("all_results.json.replaced-1")), "python wrote NaN, which no JSON has");
    assert_eq!(Metrics::of_training(&summary(), 11_232, None).save(&output).unwrap(), None);
    let merged: JsonObject = serde_json::from_slice(&fs::read(&all).unwrap()).unwrap();
    assert_eq!(merged.len(), 5 + 7, "epoch is in both: {merged:?}");
    assert_eq!(merged["eval_loss"], Value::Null);
}

#[test]
fn no_time_has_no_speed() {
    let mut instant = report(Split::Validation, Tally::default(), 0, 0);
    instant.seconds = 0.0;
    let metrics = Metrics::of_evaluation(&instant, 0, &[]);
    assert_eq!(metrics.values().keys().collect::<Vec<_>>(), ["eval_runtime", "eval_samples"]);
}
