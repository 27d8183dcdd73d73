//! Logits of rows, without dropout.

use medley_common::evaluation::Prediction;
use medley_common::example::Example;
use medley_common::identity::RowId;

use super::Trainer;
use crate::batch::{Batch, Labels, RowError, Source};
use crate::model::Pass;
use crate::model::bert::Purpose;
use crate::ops::dropout::Masks;
use crate::ops::{DeviceError, Ops};

/// Tokens computed in one pass: enough for efficient products, few enough for the memory of any machine that can train.
const PACK_TOKENS: usize = 4096;

/// Why rows were not predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// A row cannot be computed.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<O: Ops> Trainer<O> {
    /// Predicts `rows`, in their order. A row's logits have the same bits in whatever company it is predicted.
    ///
    /// # Errors
    /// A row that the model cannot compute, before anything is computed; or the device failed.
    pub fn predict(&mut self, rows: &[RowId], examples: &[Example]) -> Result<Vec<Prediction>, PredictError> {
        let mut predictions = Vec::with_capacity(rows.len());
        for pack in self.packs(rows, examples)? {
            predictions.extend(self.predict_pack(pack, examples)?);
        }
        Ok(predictions)
    }

    /// Cuts `rows` into runs of at most [`PACK_TOKENS`] tokens, or of one row.
    fn packs<'r>(&self, rows: &'r [RowId], examples: &[Example]) -> Result<Vec<&'r [RowId]>, RowError> {
        let source = Source { model: &self.config, examples, labels: Labels::Optional };
        let (mut packs, mut start, mut tokens) = (Vec::new(), 0, 0);
        for (place, row) in rows.iter().enumerate() {
            let length = source.example(*row)?.len();
            if place > start && tokens + length > PACK_TOKENS {
                packs.push(&rows[start..place]);
                (start, tokens) = (place, 0);
            }
            tokens += length;
        }
        packs.extend(rows.get(start..).filter(|rest| !rest.is_empty()));
        Ok(packs)
    }

    fn predict_pack(&mut self, rows: &[RowId], examples: &[Example]) -> Result<Vec<Prediction>, PredictError> {
        let source = Source { model: &self.config, examples, labels: Labels::Optional };
        let batch = Batch::pack([(0, rows)], source)?;
        let (firsts, pack) = (self.ops.load(batch.first_tokens())?, self.ops.load(batch)?);
        let (ops, parameters, masks) = (&self.ops, &self.parameters, Masks::none());
        let pass = Pass { ops, parameters, pack: &pack, firsts: &firsts, masks };
        self.model.forward(&pass, Purpose::Prediction)?;
        let logits = self.model.logits(&pass)?;
        let batch = pack.as_ref();
        let rows = batch.rows.iter().zip(&batch.labels).zip(logits.chunks_exact(self.config.num_labels as usize));
        Ok(rows
            .map(|((row, label), logits)| Prediction {
                row: *row,
                logits: logits.to_vec(),
                loss: label.map(|label| cross_entropy(logits, label)),
            })
            .collect())
    }
}

/// `-ln softmax(logits)[label]`.
fn cross_entropy(logits: &[f32], label: u32) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum();
    sum.ln() + most - f64::from(logits[label as usize])
}
