use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::verify::tests::run;

const RESULTS: &str = r#"{"eval_accuracy": 0.75, "eval_accuracy_interval": [0.5, 0.875], "train_runtime": 64.6,
    "train_samples_per_second": 51.7, "train_steps_per_second": 0.2}"#;

fn with_results(folder: &TempDir, labels: &str) {
    fs::write(folder.path().join("all_results.json"), RESULTS).unwrap();
    fs::write(folder.path().join("config.json"), labels).unwrap();
}

fn compared(folders: &[&TempDir]) -> Result<Comparison, CompareError> {
    let pages = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
    compare(&folders, &pages.path().join("page.html"))
}

#[test]
fn what_a_run_came_to_is_a_row() {
    let (one, other) = (run(|_| {}), run(|record| record.loss *= 2.0));
    with_results(&one, r#"{"id2label": {"0": "yes", "1": "no"}}"#);
    // Cut off in the middle, as a run that goes on would be.
    let ledger = other.path().join("ledger.jsonl");
    let text = fs::read_to_string(&ledger).unwrap();
    let lines: Vec<&str> = text.lines().take(7).collect();
    fs::write(&ledger, format!("{}\n", lines.join("\n"))).unwrap();
    let found = compared(&[&one, &other]).unwrap();
    let text = found.text(None);
    let words = |line: usize| text.lines().nth(line).unwrap().split("  ").filter(|it| !it.is_empty()).map(str::trim);
    let expected =
        ["run", "validation accuracy", "updates", "model of", "time", "rows/s", "memory", "workers", "weights"];
    assert_eq!(words(0).collect::<Vec<_>>(), expected, "{text}");
    let cells = ["0.7500 (0.5000 to 0.8750)", "14 of 14", "14", "1 min 05 s", "52", "-", "2"];
    assert_eq!(words(1).skip(1).take(7).collect::<Vec<_>>(), cells, "{text}");
    assert_eq!(words(2).skip(1).collect::<Vec<_>>(), ["-", "5 of 14", "-", "-", "-", "-", "2", "-"], "{text}");
    assert!(text.contains(" is not complete: update 5 of 14\n"), "{text}");
    assert!(text.contains("note: time and rows/s are since the last start of"), "{text}");
    // The labels were put into the first after its end.
    assert!(!found.holds() && text.contains("is not as its ledger says: "), "{text}");
    let told: Value = serde_json::to_value(&found).unwrap();
    assert_eq!(told["runs"][0]["results"]["eval_accuracy_interval"], json!([0.5, 0.875]));
    assert_eq!((&told["runs"][1]["state"], &told["runs"][1]["update"]), (&json!("unfinished"), &json!(5)));
    assert_eq!((&told["runs"][0]["workers"], &told["differing_settings"]), (&json!([2, 2]), &json!([])));
}

#[test]
fn what_cannot_be_compared_is_said() {
    let (one, copy) = (run(|_| {}), run(|_| {}));
    with_results(&one, r#"{"id2label": {"0": "yes", "1": "no"}}"#);
    with_results(&copy, r#"{"id2label": {"0": "\u001b[31mred", "1": "no"}}"#);
    let text = compared(&[&one, &copy]).unwrap().text(Some(80));
    assert!(text.contains(" are copies of one run"), "{text}");
    assert!(text.contains("note: their labels differ ( [31mred, no; yes, no)"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let refused = |runs: &[PathBuf]| {
        let error = compare(runs, &folder.path().join("page.html")).unwrap_err();
        (error.exit_code(), error.to_string())
    };
    let (code, error) = refused(&[one.path().to_owned(), one.path().join(".")]);
    assert!(code == 64 && error.contains("are the same folder"), "{error}");
    let (code, error) = refused(&[one.path().to_owned(), folder.path().to_owned()]);
    assert!(code == 65 && error.contains("is not the folder of a run"), "{error}");
    let (code, error) = refused(&[missing, one.path().to_owned()]);
    assert!(code == 65 && error.contains("there is no such folder"), "{error}");
    assert!(!folder.path().join("page.html").exists(), "nothing is written then");
}
