//! The metrics of an evaluation, for a person or as JSON.

use std::fmt;

use serde_json::Value;

use crate::archive::Metrics;

/// What is told in one number each.
const NUMBERS: [(&str, &str); 7] = [
    ("accuracy", "eval_accuracy"),
    ("macro F1", "eval_macro_f1"),
    ("macro precision", "eval_macro_precision"),
    ("macro recall", "eval_macro_recall"),
    ("Matthews correlation", "eval_matthews_correlation"),
    ("calibration error", "eval_calibration_error"),
    ("loss", "eval_loss"),
];

/// The metrics of labelled rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    metrics: Metrics,
    names: Vec<String>,
}

impl Table {
    pub(super) fn new(metrics: Metrics, names: Vec<String>) -> Self {
        Self { metrics, names }
    }

    /// The text of `eval_results.json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        String::from_utf8_lossy(&self.metrics.to_json()).into_owned()
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.metrics.values().get(key)?.as_f64()
    }

    /// Rows by label, then by prediction.
    fn confusion(&self) -> Vec<Vec<u64>> {
        let line = |line: &Value| line.as_array().map(|line| line.iter().filter_map(Value::as_u64).collect());
        let lines = self.metrics.values().get("eval_confusion_matrix").and_then(Value::as_array);
        lines.map(|lines| lines.iter().filter_map(line).collect()).unwrap_or_default()
    }

    fn numbers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, key) in NUMBERS {
            let Some(value) = self.number(key) else { continue };
            let interval = self.metrics.values().get(&format!("{key}_interval")).and_then(Value::as_array);
            let bound = |at: usize| interval.and_then(|bounds| bounds.get(at)?.as_f64());
            let interval = match (bound(0), bound(1)) {
                (Some(low), Some(high)) => format!("  95 % interval {low:.4} to {high:.4}"),
                _ => String::new(),
            };
            writeln!(f, "{name:<21} {value:.4}{interval}")?;
        }
        Ok(())
    }
}

/// Numbers, then labels, then what was taken for what; no line break at the end.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.number("eval_samples").unwrap_or_default();
        let rate = self.number("eval_samples_per_second").unwrap_or_default();
        self.numbers(f)?;
        writeln!(f, "{:<21} {rows} ({rate:.0} rows/s)", "rows")?;
        let width = self.names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "\n{:<width$}  precision  recall      F1    rows", "label")?;
        let confusion = self.confusion();
        for (name, counts) in self.names.iter().zip(&confusion) {
            let of = |what: &str| self.number(&format!("eval_{what}_{name}")).unwrap_or_default();
            let [precision, recall, f1] = ["precision", "recall", "f1"].map(of);
            let support: u64 = counts.iter().sum();
            writeln!(f, "{name:<width$}  {precision:>9.4}  {recall:.4}  {f1:.4}  {support:>6}")?;
        }
        write!(f, "\n{:<width$}", "rows of, taken for")?;
        let first = width.max("rows of, taken for".len());
        self.names.iter().try_for_each(|name| write!(f, "  {name:>5}"))?;
        for (name, counts) in self.names.iter().zip(&confusion) {
            write!(f, "\n{name:<first$}")?;
            for (column, count) in self.names.iter().zip(counts) {
                let column = column.chars().count().max(5);
                write!(f, "  {count:>column$}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use medley_common::evaluation::{Prediction, Tally};
    use medley_common::identity::{RowId, Split, Update};

    use super::*;
    use crate::run::report::EvaluationReport;

    #[test]
    fn a_table_has_intervals_labels_and_the_confusion_matrix() {
        let names = ["no".to_owned(), "perhaps".to_owned()];
        let row =
            |row: u32| Prediction { row: RowId(row), logits: vec![0.0, 1.0 - (row % 2) as f32 * 2.0], loss: Some(0.5) };
        let (predictions, labels): (Vec<_>, Vec<_>) = (0..8).map(|id| (row(id), Some(u32::from(id != 3)))).unzip();
        let tally = Tally::of(&predictions, &labels);
        let report = EvaluationReport {
            split: Split::Validation,
            update: Update(0),
            epoch: 0.0,
            tally,
            predictions,
            labels,
            seconds: 2.0,
        };
        let table = Table::new(Metrics::of_evaluation(&report, 8, &names), names.to_vec());
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("accuracy              0.6250  95 % interval 0."), "{text}");
        assert_eq!(&lines[6..9], ["loss                  0.5000", "rows                  8 (4 rows/s)", ""], "{text}");
        let labels = [
            "label    precision  recall      F1    rows",
            "no          0.2500  1.0000  0.4000       1",
            "perhaps     1.0000  0.5714  0.7273       7",
            "",
            "rows of, taken for     no  perhaps",
            "no                      1        0",
            "perhaps                 3        4",
        ];
        assert_eq!(&lines[9..], labels, "{text}");
        assert!(table.to_json().contains("\n    \"eval_accuracy\": 0.625,\n"), "{}", table.to_json());
    }
}
