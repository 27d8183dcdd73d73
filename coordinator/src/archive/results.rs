//! The result files of Hugging Face's scripts: the same names, keys and layout (`Trainer.save_metrics`).

use std::io;
use std::path::{Path, PathBuf};

use medley_common::identity::Split;
use serde_json::Value;

use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::json_text::{JsonObject, number, pretty};
use super::ledger::LEDGER_FILE;
use super::manifest::read_text;
use super::output_dir::OutputDir;
use crate::metrics::measure;
use crate::peak_memory::PeakMemory;
use crate::run::report::{EvaluationReport, TrainSummary};

/// What training came to.
pub const TRAIN_RESULTS_FILE: &str = "train_results.json";

/// The file that unites all results of a folder.
pub const ALL_RESULTS_FILE: &str = "all_results.json";

/// The numbers of one phase, under Hugging Face's keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    prefix: &'static str,
    values: JsonObject,
    /// What the process took meanwhile: of the whole run, and so in the file that unites all results alone.
    taken: JsonObject,
}

impl Metrics {
    /// What training came to, over a split of `train_rows` rows; and how many parameters moved, where others were frozen.
    ///
    /// Speeds are those of this process: rows and updates made before a resume do not count. There is no
    /// `total_flos`: Hugging Face counts padding in it, of which there is none here.
    #[must_use]
    pub fn of_training(summary: &TrainSummary, train_rows: u64, trained_parameters: Option<u64>) -> Self {
        let mut values = JsonObject::from([
            ("epoch".to_owned(), number(summary.epoch)),
            ("train_loss".to_owned(), number(summary.mean_loss)),
            ("train_samples".to_owned(), Value::from(train_rows)),
        ]);
        values.extend(trained_parameters.map(|count| ("trained_parameters".to_owned(), Value::from(count))));
        values.extend(speed("train", summary.seconds, summary.rows, summary.updates));
        Self { prefix: "train", values, taken: JsonObject::new() }
    }

    /// What an evaluation came to; steps are batches of `batch_rows` rows (`--per_device_eval_batch_size`), as
    /// Hugging Face counts them.
    ///
    /// Accuracy, loss and what else predictions come to (see [`crate::metrics`]) are over the labelled rows, and absent
    /// where there are none; `names` are those of the labels, by id. As in Hugging Face, `epoch` is there for the validation
    /// split after training only.
    #[must_use]
    pub fn of_evaluation(report: &EvaluationReport, batch_rows: u32, names: &[String]) -> Self {
        let prefix = match report.split {
            Split::Train => "train_eval",
            Split::Validation => "eval",
            Split::Test => "predict",
        };
        let rows = report.predictions.len() as u64;
        let mut values = JsonObject::from([(format!("{prefix}_samples"), Value::from(rows))]);
        if let (Some(accuracy), Some(loss)) = (report.tally.accuracy(), report.tally.mean_loss()) {
            values.insert(format!("{prefix}_accuracy"), number(accuracy));
            values.insert(format!("{prefix}_loss"), number(loss));
            let measured = measure(&report.predictions, &report.labels, names);
            values.extend(measured.into_iter().map(|(key, value)| (format!("{prefix}_{key}"), value)));
            if report.tally.rows != rows {
                values.insert(format!("{prefix}_labelled_samples"), Value::from(report.tally.rows));
            }
        }
        if report.split == Split::Validation && report.update.0 > 0 {
            values.insert("epoch".to_owned(), number(report.epoch));
        }
        values.extend(speed(prefix, report.seconds, rows, rows.div_ceil(u64::from(batch_rows.max(1)))));
        Self { prefix, values, taken: JsonObject::new() }
    }

    /// The same with the most memory that was taken so far, which `all_results.json` has beside them.
    #[must_use]
    pub fn with_memory(self, peak: PeakMemory) -> Self {
        Self { taken: peak.results().collect(), ..self }
    }

    /// The numbers by key.
    #[must_use]
    pub fn values(&self) -> &JsonObject {
        &self.values
    }

    /// The numbers as the file has them.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        pretty(&self.values, INDENT)
    }

    /// Writes `<prefix>_results.json` and merges the numbers into `all_results.json`. Blocks.
    ///
    /// An `all_results.json` that cannot be merged with is renamed, never lost; the answer is its new name.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save(&self, output: &OutputDir) -> Result<Option<PathBuf>, ArchiveError> {
        let own = output.path().join(format!("{}_results.json", self.prefix));
        durable::replace(&own, self.to_json())?;
        let all = output.path().join(ALL_RESULTS_FILE);
        let (mut merged, aside) = read_results(&all)?;
        merged.extend(self.values.iter().map(|(key, value)| (key.clone(), value.clone())));
        for (key, taken) in &self.taken {
            // The most that the run has ever taken: whoever only asks for its results again takes less. Without a ledger
            // it may have been another run.
            let is_of_run = output.path().join(LEDGER_FILE).exists();
            let before = merged.get(key).and_then(serde_json::Value::as_u64).filter(|_| is_of_run);
            if before.is_none_or(|before| taken.as_u64() > Some(before)) {
                merged.insert(key.clone(), taken.clone());
            }
        }
        durable::replace(&all, pretty(&merged, INDENT))?;
        Ok(aside)
    }
}

/// Python's `indent=4`.
const INDENT: &str = "    ";

/// `<prefix>_runtime` and speeds, rounded as `transformers.trainer_utils.speed_metrics` rounds them.
pub(super) fn speed(prefix: &str, seconds: f64, rows: u64, steps: u64) -> JsonObject {
    let round = |value: f64, unit: f64| number((value * unit).round() / unit);
    let mut values = JsonObject::from([(format!("{prefix}_runtime"), round(seconds, 1e4))]);
    if seconds > 0.0 {
        values.insert(format!("{prefix}_samples_per_second"), round(rows as f64 / seconds, 1e3));
        values.insert(format!("{prefix}_steps_per_second"), round(steps as f64 / seconds, 1e3));
    }
    values
}

fn read_results(path: &Path) -> Result<(JsonObject, Option<PathBuf>), ArchiveError> {
    let bytes = match read_text(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((JsonObject::new(), None)),
        Err(error) => return Err(ArchiveError::io("read", path)(error)),
    };
    if let Ok(results) = serde_json::from_slice(&bytes) {
        return Ok((results, None));
    }
    let aside = durable::aside(path);
    Operation::Rename { from: path.to_owned(), to: aside.clone() }.perform()?;
    Ok((JsonObject::new(), Some(aside)))
}

#[cfg(test)]
#[path = "results_test.rs"]
mod tests;
