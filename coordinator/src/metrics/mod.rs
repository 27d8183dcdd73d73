//! What an evaluation came to beside accuracy and loss: a metric is a file behind one trait, and a line in the table.
//!
//! All are over the labelled rows, and over all labels of the model, those included that no row has: as scikit-learn
//! computes them where it is given `labels`, with 0 where a quotient has no denominator.

mod bootstrap;
mod calibration;
mod classes;
mod confusion;
mod matthews;

use std::fmt::Debug;

use medley_common::evaluation::Prediction;
use medley_common::identity::RowId;
use serde_json::Value;

pub use confusion::Confusion;

/// All metrics. A new one is a file, and a line here.
const METRICS: &[&dyn Metric] =
    &[&classes::Classes, &matthews::Matthews, &confusion::Matrix, &calibration::Calibration, &bootstrap::Bootstrap];

/// Something that predictions come to.
trait Metric: Debug + Sync {
    /// Its numbers by key, without the prefix of the split.
    fn values(&self, scored: &Scored<'_>) -> Vec<(String, Value)>;
}

/// Labelled rows and what was predicted of them.
#[derive(Debug)]
struct Scored<'a> {
    /// The names of the labels, by id.
    names: &'a [String],
    rows: Vec<ScoredRow>,
    confusion: Confusion,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
struct ScoredRow {
    label: usize,
    predicted: usize,
    /// The probability of the predicted label.
    confidence: f64,
}

impl<'a> Scored<'a> {
    /// The labelled ones of `predictions`; `None` where there are none.
    fn of(predictions: &[Prediction], labels: &[Option<u32>], names: &'a [String]) -> Option<Self> {
        let row = |prediction: &Prediction| {
            let label = (*labels.get(prediction.row.0 as usize)?)? as usize;
            let predicted = prediction.label() as usize;
            let known = label < names.len() && predicted < names.len();
            known.then(|| ScoredRow { label, predicted, confidence: confidence(&prediction.logits, predicted) })
        };
        let rows: Vec<ScoredRow> = predictions.iter().filter_map(row).collect();
        if rows.is_empty() {
            return None;
        }
        let confusion = Confusion::of(names.len(), rows.iter().map(|row| (row.label, row.predicted)));
        Some(Self { names, rows, confusion })
    }
}

/// What `predictions` come to against `labels` (by row id), for the labels of these `names`: numbers and tables by key.
/// Nothing where no row has a label.
#[must_use]
pub fn measure(predictions: &[Prediction], labels: &[Option<u32>], names: &[String]) -> Vec<(String, Value)> {
    let scored = Scored::of(predictions, labels, names);
    scored.map_or_else(Vec::new, |scored| METRICS.iter().flat_map(|metric| metric.values(&scored)).collect())
}

/// The metric of this key, as [`measure`] has it; `None` where it is no single number, or no row has a label.
#[must_use]
pub fn value(key: &str, predictions: &[Prediction], labels: &[Option<u32>], names: &[String]) -> Option<f64> {
    let scored = Scored::of(predictions, labels, names)?;
    let has_it = |metric: &&dyn Metric| metric.values(&scored).into_iter().find(|(name, _)| name == key)?.1.as_f64();
    METRICS.iter().find_map(has_it)
}

/// The keys of all that is a single number, loss and accuracy first, for labels of these `names`.
#[must_use]
pub fn names(labels: &[String]) -> Vec<String> {
    let row = Prediction { row: RowId(0), logits: vec![0.0; labels.len()], loss: None };
    let numbers = measure(&[row], &[Some(0)], labels).into_iter().filter(|(_, value)| value.is_number());
    ["loss", "accuracy"].map(str::to_owned).into_iter().chain(numbers.map(|(key, _)| key)).collect()
}

/// The softmax of the predicted label's logit, the highest of all.
fn confidence(logits: &[f32], predicted: usize) -> f64 {
    let highest = f64::from(logits.get(predicted).copied().unwrap_or_default());
    1.0 / logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum::<f64>()
}

/// A quotient; 0 where there is nothing to divide by.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
#[path = "metrics_test.rs"]
mod tests;
