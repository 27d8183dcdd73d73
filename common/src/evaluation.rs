//! Predictions of rows, and what they add up to.

use crate::identity::RowId;

/// What the model says of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The row.
    pub row: RowId,
    /// One logit a label.
    pub logits: Vec<f32>,
    /// Cross-entropy of the row's label, label smoothing not applied; `None` for a row without a label.
    pub loss: Option<f64>,
}

impl Prediction {
    /// The label with the highest logit, the first of equals (as `numpy.argmax`); 0 for no logits.
    #[must_use]
    pub fn label(&self) -> u32 {
        let mut best = 0;
        for (index, logit) in self.logits.iter().enumerate() {
            if *logit > self.logits[best] {
                best = index;
            }
        }
        u32::try_from(best).unwrap_or(u32::MAX)
    }
}

/// Sums over the labelled rows of a split.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Labelled rows.
    pub rows: u64,
    /// Rows whose prediction is their label.
    pub correct: u64,
    /// Sum of the rows' losses, added in row order.
    pub loss_sum: f64,
}

impl Tally {
    /// Adds up `predictions`, which are in row order, against `labels` (by row id; `None` for an unlabelled row).
    #[must_use]
    pub fn of(predictions: &[Prediction], labels: &[Option<u32>]) -> Self {
        let mut tally = Self::default();
        for prediction in predictions {
            let label = labels.get(prediction.row.0 as usize).copied().flatten();
            if let (Some(label), Some(loss)) = (label, prediction.loss) {
                tally.rows += 1;
                tally.correct += u64::from(prediction.label() == label);
                tally.loss_sum += loss;
            }
        }
        tally
    }

    /// Share of correct rows; `None` where no row has a label.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.correct as f64 / self.rows as f64)
    }

    /// Mean loss over the labelled rows; `None` where there are none.
    #[must_use]
    pub fn mean_loss(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.loss_sum / self.rows as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlabelled_rows_do_not_count() {
        let predict = |row, logits: [f32; 3], loss| Prediction { row: RowId(row), logits: logits.to_vec(), loss };
        let predictions = [
            predict(0, [0.0, 2.0, 1.0], Some(0.5)),
            predict(1, [3.0, 2.0, 1.0], Some(1.0)),
            predict(2, [3.0, 3.0, 1.0], None),
        ];
        assert_eq!(predictions[2].label(), 0);
        let tally = Tally::of(&predictions, &[Some(1), Some(2), None]);
        assert_eq!((tally.rows, tally.correct), (2, 1));
        assert_eq!(tally.mean_loss(), Some(0.75));
        assert_eq!(Tally::of(&[], &[]).accuracy(), None);
    }
}
