//! Whether a probability means what it says (Guo et al., 2017, On calibration of modern neural networks): rows in bins
//! by the probability of their predicted label, and how far it lies from their accuracy.

use serde_json::{Value, json};

use super::{Metric, Scored, share};

/// Bins of equal width, as in the paper.
const BINS: usize = 15;

#[derive(Debug)]
pub(super) struct Calibration;

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    rows: u64,
    correct: u64,
    confidence: f64,
}

impl Bin {
    fn accuracy(&self) -> f64 {
        share(self.correct as f64, self.rows as f64)
    }

    fn mean_confidence(&self) -> f64 {
        share(self.confidence, self.rows as f64)
    }
}

impl Metric for Calibration {
    fn values(&self, scored: &Scored<'_>) -> Vec<(String, Value)> {
        let mut bins = [Bin::default(); BINS];
        for row in &scored.rows {
            // A bin has its upper bound. What is no number is in the first.
            let place = (row.confidence * BINS as f64).ceil() as usize;
            let bin = &mut bins[place.clamp(1, BINS) - 1];
            bin.rows += 1;
            bin.correct += u64::from(row.label == row.predicted);
            bin.confidence += row.confidence;
        }
        let gap = |bin: &Bin| bin.rows as f64 * (bin.accuracy() - bin.mean_confidence()).abs();
        let error = bins.iter().map(gap).sum::<f64>() / scored.rows.len() as f64;
        let told = bins
            .iter()
            .filter(|bin| bin.rows > 0)
            .map(|bin| json!({ "rows": bin.rows, "confidence": bin.mean_confidence(), "accuracy": bin.accuracy() }));
        vec![("calibration_error".to_owned(), Value::from(error)), ("reliability_bins".to_owned(), told.collect())]
    }
}
