//! The predictions of the test split: Hugging Face's table, and the same with probabilities.

use std::fmt::Write as _;

use medley_common::evaluation::Prediction;
use serde::Serialize;

use super::durable;
use super::error::ArchiveError;
use super::output_dir::OutputDir;

/// `index<TAB>prediction`, as `run_glue.py` writes it, label names and a header line included.
pub const PREDICTIONS_TABLE: &str = "predict_results.txt";

/// One JSON object a row: `index`, the `line` of the test file that it stands in, its `pairID` where it has one,
/// `prediction`, and the `logits` and `probabilities` of all labels in label order.
pub const PREDICTIONS_LINES: &str = "predictions.jsonl";

/// Where a row comes from, for whoever joins the predictions with the file they were made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrigin {
    /// The line of the file, from 1; lines without an agreed label and blank ones are no rows, but count.
    pub line: u64,
    /// The row's `pairID`.
    pub pair_id: Option<String>,
}

/// Writes both files. `labels` are the labels' names in label order; one that lacks is called `LABEL_<n>`. `origins`
/// are those of all rows, by row id. Blocks.
///
/// # Errors
/// The folder cannot be written to.
pub fn save_predictions(
    output: &OutputDir,
    predictions: &[Prediction],
    labels: &[String],
    origins: &[RowOrigin],
) -> Result<(), ArchiveError> {
    let mut table = String::from("index\tprediction\n");
    let mut lines = Vec::new();
    for prediction in predictions {
        let name = label_name(labels, prediction.label() as usize);
        // A label with a tab or a line break in it would tear the table.
        let plain = name.replace(char::is_control, " ");
        writeln!(table, "{}\t{plain}", prediction.row).unwrap_or_default();
        let origin = origins.get(prediction.row.0 as usize);
        let line = Line {
            index: prediction.row.0,
            line: origin.map(|origin| origin.line),
            pair_id: origin.and_then(|origin| origin.pair_id.as_deref()),
            prediction: &name,
            logits: &prediction.logits,
            probabilities: softmax(&prediction.logits),
        };
        serde_json::to_writer(&mut lines, &line)
            .map_err(|error| ArchiveError::io("write", &output.path().join(PREDICTIONS_LINES))(error.into()))?;
        lines.push(b'\n');
    }
    durable::replace(&output.path().join(PREDICTIONS_TABLE), table.into_bytes())?;
    durable::replace(&output.path().join(PREDICTIONS_LINES), lines)
}

#[derive(Serialize)]
struct Line<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(rename = "pairID", skip_serializing_if = "Option::is_none")]
    pair_id: Option<&'a str>,
    prediction: &'a str,
    logits: &'a [f32],
    probabilities: Vec<f64>,
}

/// The name of a label; one that lacks is called `LABEL_<n>`.
pub(crate) fn label_name(labels: &[String], label: usize) -> String {
    labels.get(label).cloned().unwrap_or_else(|| format!("LABEL_{label}"))
}

/// The probabilities that logits stand for.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|logit| f64::from(logit - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use medley_common::identity::RowId;

    use super::*;

    #[test]
    fn both_files_tell_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let output = OutputDir::open(folder.path()).unwrap();
        let predict = |row, logits: &[f32]| Prediction { row: RowId(row), logits: logits.to_vec(), loss: None };
        let predictions = [predict(0, &[0.0, 0.0]), predict(1, &[-1.0, 1.0]), predict(2, &[0.0, 0.0, f32::INFINITY])];
        let labels = ["entail\tment".to_owned(), "neutral".to_owned()];
        let origin = |line, id: Option<&str>| RowOrigin { line, pair_id: id.map(str::to_owned) };
        let origins = [origin(1, Some("a1")), origin(3, None), origin(4, Some("a4"))];
        save_predictions(&output, &predictions, &labels, &origins).unwrap();

        let table = std::fs::read_to_string(folder.path().join(PREDICTIONS_TABLE)).unwrap();
        assert_eq!(table, "index\tprediction\n0\tentail ment\n1\tneutral\n2\tLABEL_2\n");
        let lines = std::fs::read_to_string(folder.path().join(PREDICTIONS_LINES)).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["prediction"], "entail\tment");
        assert_eq!((&lines[0]["line"], &lines[0]["pairID"]), (&1.into(), &"a1".into()));
        assert_eq!((&lines[1]["index"], &lines[1]["line"], lines[1].get("pairID")), (&1.into(), &3.into(), None));
        assert_eq!(lines[0]["probabilities"], serde_json::json!([0.5, 0.5]));
        assert!((lines[1]["probabilities"][1].as_f64().unwrap() - 0.880_797).abs() < 1e-6);
        assert!(lines[2]["probabilities"][2].is_null(), "no NaN in JSON");
    }
}
