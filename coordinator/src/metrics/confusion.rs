//! How often rows of each label were predicted as each.

use serde_json::Value;

use super::{Metric, Scored, classes};

/// Counts by label, then by prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    labels: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// Counts pairs of label and prediction, each below `labels`.
    #[must_use]
    pub fn of(labels: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut counts = vec![0; labels * labels];
        pairs.into_iter().for_each(|(label, predicted)| counts[label * labels + predicted] += 1);
        Self { labels, counts }
    }

    /// Rows of `label` that were predicted as `predicted`.
    #[must_use]
    pub fn count(&self, label: usize, predicted: usize) -> u64 {
        self.counts[label * self.labels + predicted]
    }

    /// Rows of `label`.
    #[must_use]
    pub fn support(&self, label: usize) -> u64 {
        (0..self.labels).map(|predicted| self.count(label, predicted)).sum()
    }

    /// Rows that were predicted as `predicted`.
    #[must_use]
    pub fn predicted(&self, predicted: usize) -> u64 {
        (0..self.labels).map(|label| self.count(label, predicted)).sum()
    }

    /// Rows that were predicted as what they are.
    #[must_use]
    pub fn correct(&self) -> u64 {
        (0..self.labels).map(|label| self.count(label, label)).sum()
    }

    /// The mean F1 of all labels.
    #[must_use]
    pub fn macro_f1(&self) -> f64 {
        classes::macro_f1(self, self.labels)
    }

    /// The counts, a list for each label, in label order.
    #[must_use]
    pub fn table(&self) -> Vec<Vec<u64>> {
        self.counts.chunks(self.labels.max(1)).map(<[u64]>::to_vec).collect()
    }

    /// All rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The table itself: a list for each label, in label order.
#[derive(Debug)]
pub(super) struct Matrix;

impl Metric for Matrix {
    fn values(&self, scored: &Scored<'_>) -> Vec<(String, Value)> {
        vec![("confusion_matrix".to_owned(), scored.confusion.table().into_iter().map(Value::from).collect())]
    }
}
