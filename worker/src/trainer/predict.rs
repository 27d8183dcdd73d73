//! Logits of rows, without dropout.

use std::collections::{BTreeMap, BTreeSet};

use medley_common::evaluation::Prediction;
use medley_common::example::Example;
use medley_common::identity::RowId;

use super::Trainer;
use crate::batch::{Batch, Labels, RowError, Source};
use crate::model::Pass;
use crate::model::bert::Purpose;
use crate::ops::dropout::Masks;
use crate::ops::{DeviceError, LaneKeeping, Ops};

/// Rows of a split that are predicted and reported at once: those with numbers from one multiple of it to the next. A pass
/// or some, so that an evaluation can be broken off.
pub const BLOCK_ROWS: u32 = 96;

/// Tokens computed in one pass: enough for efficient products, few enough for the memory of any machine that can train.
const PACK_TOKENS: usize = 4096;
/// The same where a pass is always the same: whoever is asked for one of its rows computes all of them, so that large
/// passes would be computed twice at the ends of shares.
const FIXED_PACK_TOKENS: usize = 1024;

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
    /// Predicts `rows`, in their order. Where lanes are summed apart, a row's logits have the same bits in whatever company
    /// it is asked for.
    ///
    /// # Errors
    /// A row that the model cannot compute, before anything is computed; or the device failed.
    pub fn predict(&mut self, rows: &[RowId], examples: &[Example]) -> Result<Vec<Prediction>, PredictError> {
        let own = self.packs(rows, examples, PACK_TOKENS)?;
        let depends = self.keeps_lanes() && self.ops.lane_keeping() == LaneKeeping::Alone;
        let packs = if depends { self.fixed_packs(rows, examples)? } else { own };
        let mut predictions = Vec::with_capacity(rows.len());
        for pack in packs {
            predictions.extend(self.predict_pack(&pack, examples)?);
        }
        if !depends {
            return Ok(predictions);
        }
        let mut known: BTreeMap<RowId, Prediction> =
            predictions.into_iter().map(|prediction| (prediction.row, prediction)).collect();
        Ok(rows.iter().filter_map(|row| known.remove(row)).collect())
    }

    /// Those passes over the split, which are the same whoever is asked for what, that have any of `rows`.
    pub(super) fn fixed_packs(&self, rows: &[RowId], examples: &[Example]) -> Result<Vec<Vec<RowId>>, RowError> {
        let asked: BTreeSet<RowId> = rows.iter().copied().collect();
        let blocks: BTreeSet<u32> = asked.iter().map(|row| row.0 / BLOCK_ROWS).collect();
        let all = u32::try_from(examples.len()).unwrap_or(u32::MAX);
        let mut passes = Vec::new();
        for block in blocks {
            let first = block * BLOCK_ROWS;
            let block: Vec<RowId> = (first..all.min(first.saturating_add(BLOCK_ROWS))).map(RowId).collect();
            let packs = self.packs(&block, examples, FIXED_PACK_TOKENS)?;
            passes.extend(packs.into_iter().filter(|pack| pack.iter().any(|row| asked.contains(row))));
        }
        Ok(passes)
    }

    /// Cuts `rows` into runs of at most so many tokens, or of one row.
    fn packs(&self, rows: &[RowId], examples: &[Example], most: usize) -> Result<Vec<Vec<RowId>>, RowError> {
        let source = Source { model: &self.config, examples, labels: Labels::Optional };
        let (mut packs, mut pack, mut tokens) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            let length = source.example(*row)?.len();
            if !pack.is_empty() && tokens + length > most {
                packs.push(std::mem::take(&mut pack));
                tokens = 0;
            }
            pack.push(*row);
            tokens += length;
        }
        packs.extend(Some(pack).filter(|rest| !rest.is_empty()));
        Ok(packs)
    }

    fn predict_pack(&mut self, rows: &[RowId], examples: &[Example]) -> Result<Vec<Prediction>, PredictError> {
        let source = Source { model: &self.config, examples, labels: Labels::Optional };
        let batch = Batch::pack([(0, rows)], source)?;
        let (ops, parameters, masks) = (&self.ops, &self.parameters, Masks::none());
        let (firsts, pack) = (ops.load(batch.first_tokens(), &masks)?, ops.load(batch, &masks)?);
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
