//! The correlation of labels and predictions (Gorodkin, 2004, Comparing two K-category assignments by a K-category
//! correlation coefficient): 1 where all are right, 0 for a guess.

use serde_json::Value;

use super::{Metric, Scored, share};

#[derive(Debug)]
pub(super) struct Matthews;

impl Metric for Matthews {
    fn values(&self, scored: &Scored<'_>) -> Vec<(String, Value)> {
        let confusion = &scored.confusion;
        let (rows, correct) = (confusion.rows() as f64, confusion.correct() as f64);
        let sum = |of: &dyn Fn(usize) -> f64| (0..scored.names.len()).map(of).sum::<f64>();
        let (support, predicted) = (|label| confusion.support(label) as f64, |label| confusion.predicted(label) as f64);
        let covariance = correct * rows - sum(&|label| support(label) * predicted(label));
        let spread = (rows * rows - sum(&|label| predicted(label).powi(2)))
            * (rows * rows - sum(&|label| support(label).powi(2)));
        vec![("matthews_correlation".to_owned(), Value::from(share(covariance, spread.sqrt())))]
    }
}
