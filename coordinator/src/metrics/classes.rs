//! Precision, recall and F1, of each label and their plain means.

use serde_json::Value;

use super::{Confusion, Metric, Scored, share};

#[derive(Debug)]
pub(super) struct Classes;

/// Precision, recall and F1 of one label.
pub(super) fn of_label(confusion: &Confusion, label: usize) -> [f64; 3] {
    let hits = confusion.count(label, label) as f64;
    let (predicted, support) = (confusion.predicted(label) as f64, confusion.support(label) as f64);
    [share(hits, predicted), share(hits, support), share(2.0 * hits, predicted + support)]
}

/// The mean F1 of all labels.
pub(super) fn macro_f1(confusion: &Confusion, labels: usize) -> f64 {
    (0..labels).map(|label| of_label(confusion, label)[2]).sum::<f64>() / labels as f64
}

impl Metric for Classes {
    fn values(&self, scored: &Scored<'_>) -> Vec<(String, Value)> {
        const NAMES: [&str; 3] = ["precision", "recall", "f1"];
        let labels = scored.names.len();
        let each: Vec<[f64; 3]> = (0..labels).map(|label| of_label(&scored.confusion, label)).collect();
        let mean = |at: usize| each.iter().map(|values| values[at]).sum::<f64>() / labels as f64;
        let means = NAMES.iter().enumerate().map(|(at, name)| (format!("macro_{name}"), Value::from(mean(at))));
        let one = |(name, values): (&String, &[f64; 3])| {
            NAMES.iter().zip(*values).map(|(what, value)| (format!("{what}_{name}"), Value::from(value))).collect()
        };
        let singles = scored.names.iter().zip(&each).flat_map(|of| -> Vec<_> { one(of) });
        means.chain(singles).collect()
    }
}
