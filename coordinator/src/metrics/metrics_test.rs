use medley_common::identity::RowId;
use serde_json::Value;

use super::*;

fn names(labels: usize) -> Vec<String> {
    ["entailment", "neutral", "contradiction"][..labels].iter().map(|name| (*name).to_owned()).collect()
}

fn predictions(logits: &[Vec<f32>]) -> Vec<Prediction> {
    (0..).map(RowId).zip(logits).map(|(row, logits)| Prediction { row, logits: logits.clone(), loss: None }).collect()
}

fn value<'a>(found: &'a [(String, Value)], key: &str) -> &'a Value {
    &found.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}")).1
}

/// Made by tests/peers/metrics.py.
#[test]
fn numbers_are_those_of_scikit_learn() {
    let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/metrics.json")).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let logits: Vec<Vec<f32>> = serde_json::from_value(case["logits"].clone()).unwrap();
        let labels: Vec<Option<u32>> = serde_json::from_value(case["labels"].clone()).unwrap();
        let found = measure(&predictions(&logits), &labels, &names(3));
        for (key, expected) in case["expected"].as_object().unwrap() {
            let found = value(&found, key);
            match expected.as_f64() {
                Some(number) => assert!((found.as_f64().unwrap() - number).abs() < 1e-9, "{key}: {found} {number}"),
                None => assert_eq!(found, expected, "{key}"),
            }
        }
    }
}

#[test]
fn intervals_hold_the_value_and_are_the_same_again() {
    // 400 rows, three of four right.
    let logits: Vec<Vec<f32>> =
        (0..400).map(|row| if row % 4 == 0 { vec![0.0, 1.0] } else { vec![1.0, 0.0] }).collect();
    let labels = vec![Some(0); 400];
    let found = measure(&predictions(&logits), &labels, &names(2));
    let interval: Vec<f64> = serde_json::from_value(value(&found, "accuracy_interval").clone()).unwrap();
    // Of the normal approximation: 0.75 - 1.96 * 0.02165 and 0.75 + 1.96 * 0.02165.
    assert!((interval[0] - 0.7076).abs() < 0.01 && (interval[1] - 0.7924).abs() < 0.01, "{interval:?}");
    assert_eq!(found, measure(&predictions(&logits), &labels, &names(2)));
}

#[test]
fn calibration_is_the_gap_between_what_is_said_and_what_is_so() {
    // All with probability 0.9, half of them right.
    let logits = vec![vec![9f32.ln(), 0.0]; 10];
    let labels: Vec<Option<u32>> = (0..10).map(|row| Some(row % 2)).collect();
    let found = measure(&predictions(&logits), &labels, &names(2));
    assert!((value(&found, "calibration_error").as_f64().unwrap() - 0.4).abs() < 1e-7);
    let bins = value(&found, "reliability_bins").as_array().unwrap();
    assert_eq!((bins.len(), &bins[0]["rows"], &bins[0]["accuracy"]), (1, &Value::from(10), &Value::from(0.5)));
}

#[test]
fn what_has_no_label_does_not_count() {
    let logits = [vec![1.0, 0.0], vec![0.0, 1.0], vec![f32::NAN, f32::NAN]];
    assert_eq!(measure(&predictions(&logits), &[None, None, None], &names(2)), []);
    let found = measure(&predictions(&logits), &[Some(0), None, Some(1), Some(7)], &names(2));
    assert_eq!(value(&found, "confusion_matrix").to_string(), "[[1,0],[1,0]]");
    assert!(value(&found, "calibration_error").is_null(), "of what is no number, none is made up");
}
