use std::fs;

use super::*;
use crate::verify::tests::run;

const RESULTS: &str = r#"{
    "eval_accuracy": 0.75, "eval_accuracy_interval": [0.5, 0.875], "epoch": 2.0,
    "eval_confusion_matrix": [[3, 1], [0, 4]],
    "eval_reliability_bins": [{"accuracy": 0.5, "confidence": 0.6, "rows": 4}, {"accuracy": 1.0, "confidence": 0.9, "rows": 4}]
}"#;

fn drawn(folder: &Path) -> String {
    fs::write(folder.join("all_results.json"), RESULTS).unwrap();
    fs::write(folder.join("config.json"), r#"{"id2label": {"1": "no <b>", "0": "yes"}}"#).unwrap();
    let path = conclude(folder, None).unwrap();
    assert_eq!(path, folder.join("report.html"));
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_run_is_drawn_from_its_ledger_and_results() {
    let folder = run(|_| {});
    let text = drawn(folder.path());
    for shown in [
        "14 of 14 updates, complete",
        "validation accuracy</th><td>0.75 <small>(0.5 to 0.875)</small>",
        "<figcaption>Loss of the updates</figcaption>",
        "from 0.0714 to 1",
        "after update 0: 2 workers",
        "1 groups of workers, 0 updates made again after a loss, 1 ways back, 1 checkpoints",
        "after update 9: back to update 8",
        "<td class=\"right\" style=\"--share:0.750\">3 <small>75 %</small></td>",
        "no &lt;b&gt;",
        "4 rows at 0.6 were right by 0.5",
        "<th scope=\"row\">learning_rate</th>",
        "nothing is proved here",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    for never in ["<script", "http://", "https://", "src=", "url(", "@import", "no <b>", "NaN"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
}

#[test]
fn runs_are_laid_side_by_side_and_proved() {
    let (one, other) = (run(|_| {}), run(|record| record.loss *= 2.0));
    drawn(one.path());
    let page = one.path().join("comparison.html");
    assert!(draw(other.path(), &page, None).unwrap());
    let sitters = [one.path(), other.path()].map(|folder| Sitter::verified(folder).unwrap());
    // Labels were put into the first after its end.
    assert_eq!(sitters.each_ref().map(Sitter::holds), [false, true]);
    draw_all(&sitters, &page).unwrap();
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(text.matches("14 of 14 updates, complete").count(), 2, "{text}");
    assert_eq!(text.matches("medley verify").count(), 2, "{text}");
    // The other has no results, and a line of its own.
    assert!(text.contains("<small>(0.5 to 0.875)</small></td><td>-</td>"), "{text}");
    assert!(text.contains("class=\"line c1 d1\"") && text.contains("class=\"legend\""), "{text}");
}

#[test]
fn what_is_wrong_is_on_the_page() {
    let folder = run(|_| {});
    let ledger = folder.path().join("ledger.jsonl");
    let text = fs::read_to_string(&ledger).unwrap();
    let page = folder.path().join("report.html");
    drawn(folder.path());
    fs::write(&ledger, text.replacen("\"loss\":0.5", "\"loss\":0.6", 1)).unwrap();
    assert!(!draw(folder.path(), &page, None).unwrap());
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("<strong>damaged: ledger.jsonl:"), "{text}");
    assert!(text.contains("1 of 14 updates") && text.contains("<strong>wrong: ledger.jsonl:"), "{text}");
    // What the results say is of a run that is not shown.
    assert!(!text.contains("validation accuracy</th>"), "{text}");
}

#[test]
fn where_there_is_no_run_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let error = conclude(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("ledger.jsonl"), "{error}");
    fs::write(folder.path().join("ledger.jsonl"), "{}\n").unwrap();
    let error = conclude(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("line 1") || error.contains(":1"), "{error}");
    assert!(!folder.path().join("report.html").exists());
}
