//! What the chunks of a stream come to together.

use std::io;

use medley_common::evaluation::{Prediction, Tally};
use medley_common::identity::{RowId, Split, Update};

use super::{Predicted, Sink};
use crate::archive::Metrics;
use crate::run::report::EvaluationReport;

/// Predictions of labelled rows, for a measure of all of them.
#[derive(Debug, Default)]
pub(super) struct Scores {
    names: Vec<String>,
    predictions: Vec<Prediction>,
    labels: Vec<Option<u32>>,
    seconds: f64,
}

impl Sink for Scores {
    fn take(&mut self, chunk: &Predicted<'_>) -> io::Result<()> {
        let before = u32::try_from(self.predictions.len()).map_err(io::Error::other)?;
        let row = |row: RowId| row.0.checked_add(before).map(RowId);
        for prediction in &chunk.report.predictions {
            let row = row(prediction.row).ok_or_else(|| io::Error::other("more rows than can be numbered"))?;
            self.predictions.push(Prediction { row, ..prediction.clone() });
        }
        self.labels.extend(&chunk.report.labels);
        self.seconds += chunk.report.seconds;
        if self.names.is_empty() {
            self.names = chunk.names.to_vec();
        }
        Ok(())
    }
}

impl Scores {
    /// What a run with `--do_eval` writes of the same rows, and the names of the labels.
    pub(super) fn metrics(self, batch_rows: u32) -> (Metrics, Vec<String>) {
        let Self { names, predictions, labels, seconds } = self;
        // In the order of the rows, as a run adds them.
        let tally = Tally::of(&predictions, &labels);
        let (split, update) = (Split::Validation, Update(0));
        let report = EvaluationReport { split, update, epoch: 0.0, tally, predictions, labels, seconds };
        (Metrics::of_evaluation(&report, batch_rows, &names), names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: &[([f32; 2], u32)]) -> EvaluationReport {
        let predict = |(row, (logits, _)): (u32, &([f32; 2], u32))| Prediction {
            row: RowId(row),
            logits: logits.to_vec(),
            loss: Some(0.3),
        };
        EvaluationReport {
            split: Split::Test,
            update: Update(0),
            epoch: 0.0,
            tally: Tally::default(),
            predictions: (0..).zip(rows).map(predict).collect(),
            labels: rows.iter().map(|(_, label)| Some(*label)).collect(),
            seconds: 1.0,
        }
    }

    #[test]
    fn chunks_are_measured_as_one_split() {
        let rows = [([1.0, 0.0], 0), ([0.0, 1.0], 1), ([0.0, 1.0], 0), ([1.0, 0.0], 0), ([0.0, 2.0], 1)];
        let names = ["no", "yes"].map(str::to_owned);
        let measured = |chunks: &[&[([f32; 2], u32)]]| {
            let mut scores = Scores::default();
            for chunk in chunks {
                let report = EvaluationReport { seconds: 3.0 / chunks.len() as f64, ..report(chunk) };
                scores.take(&Predicted { names: &names, origins: &[], report: &report }).unwrap();
            }
            scores.metrics(8).0
        };
        let whole = measured(&[&rows]);
        assert_eq!(measured(&[&rows[..2], &rows[2..3], &rows[3..]]), whole);
        assert_eq!((&whole.values()["eval_accuracy"], &whole.values()["eval_samples"]), (&0.8.into(), &5.into()));
    }
}
