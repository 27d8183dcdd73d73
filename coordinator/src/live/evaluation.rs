//! The result of an evaluation, as a live page shows it.

use medley_common::evaluation::Prediction;
use medley_common::identity::{Split, Update};
use serde::Serialize;

use crate::archive::LogEntry;
use crate::metrics::Confusion;
use crate::run::report::EvaluationReport;

/// Labels of a matrix that can still be read.
const MOST_LABELS: usize = 40;

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The split: `validation` or `test`.
    pub split: String,
    /// Updates done when it was made.
    pub update: u64,
    /// Share of correct rows; `None` where no row has a label.
    pub accuracy: Option<f64>,
    /// Mean F1 of all labels.
    pub macro_f1: Option<f64>,
    /// Mean loss.
    pub loss: Option<f64>,
    /// Rows of each label, by what they were taken for; `None` where it is not known any more, or too large.
    pub confusion: Option<Vec<Vec<u64>>>,
}

impl Evaluation {
    /// Of `report`, whose model has so many labels. Takes the longer the more rows there are.
    #[must_use]
    pub fn of(report: &EvaluationReport, labels: usize) -> Self {
        let label = |prediction: &Prediction| Some((*report.labels.get(prediction.row.0 as usize)?)? as usize);
        let pair = |prediction: &Prediction| Some((label(prediction)?, prediction.label() as usize));
        let pairs = report.predictions.iter().filter_map(pair).filter(|(label, taken)| (*label).max(*taken) < labels);
        let confusion = Confusion::of(labels, pairs);
        let is_labelled = confusion.rows() > 0;
        Self {
            split: report.split.to_string(),
            update: report.update.0,
            accuracy: report.tally.accuracy(),
            macro_f1: is_labelled.then(|| confusion.macro_f1()),
            loss: report.tally.mean_loss(),
            confusion: (is_labelled && labels <= MOST_LABELS).then(|| confusion.table()),
        }
    }

    /// Of what a ledger has of one of the validation split.
    #[must_use]
    pub fn of_entry(update: Update, entry: &LogEntry) -> Self {
        let number = |key: &str| entry.0.get(key).and_then(serde_json::Value::as_f64);
        Self {
            split: Split::Validation.to_string(),
            update: update.0,
            accuracy: number("eval_accuracy"),
            macro_f1: number("eval_macro_f1"),
            loss: number("eval_loss"),
            confusion: None,
        }
    }

    /// What its curves have of it.
    #[must_use]
    pub fn values(&self) -> [Option<f64>; 3] {
        [self.loss, self.accuracy, self.macro_f1]
    }
}
