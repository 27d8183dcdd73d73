//! The classification head: a handful of rows, computed by the calling thread.

use super::Cpu;
use crate::ops::head::{
    CrossEntropy, FirstTokens, FirstTokensBackward, HeadDropout, LaneLosses, TanhDropout, TanhDropoutBackward,
};

pub(super) fn first_tokens(op: FirstTokens<'_, Cpu>) {
    for (start, y) in op.pack.offsets.iter().zip(op.y.chunks_exact_mut(op.hidden)).take(op.pack.rows.len()) {
        y.copy_from_slice(&op.x[start * op.hidden..][..op.hidden]);
    }
}

pub(super) fn first_tokens_backward(op: FirstTokensBackward<'_, Cpu>) {
    for (start, dy) in op.pack.offsets.iter().zip(op.dy.chunks_exact(op.hidden)).take(op.pack.rows.len()) {
        op.dx[start * op.hidden..][..op.hidden].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
    }
}

pub(super) fn tanh_dropout(op: TanhDropout<'_, Cpu>) {
    let rows = op.x.chunks_exact_mut(op.hidden).zip(op.y.chunks_exact_mut(op.hidden));
    for (row, (x, y)) in op.pack.rows.iter().zip(rows) {
        x.iter_mut().for_each(|x| *x = x.tanh());
        y.copy_from_slice(x);
        if let Some(mask) = op.dropout.map(|dropout| dropout.row(*row)) {
            (0..).zip(y).for_each(|(column, y)| *y *= mask.factor(column));
        }
    }
}

pub(super) fn tanh_dropout_backward(op: TanhDropoutBackward<'_, Cpu>) {
    let rows = op.x.chunks_exact(op.hidden).zip(op.gradient.chunks_exact_mut(op.hidden));
    for (row, (x, gradient)) in op.pack.rows.iter().zip(rows) {
        if let Some(mask) = op.dropout.map(|dropout| dropout.row(*row)) {
            (0..).zip(gradient.iter_mut()).for_each(|(column, gradient)| *gradient *= mask.factor(column));
        }
        gradient.iter_mut().zip(x).for_each(|(gradient, x)| *gradient *= 1.0 - x * x);
    }
}

pub(super) fn dropout(op: HeadDropout<'_, Cpu>) {
    let rows = op.x.chunks_exact(op.hidden).zip(op.y.chunks_exact_mut(op.hidden));
    for (row, (x, y)) in op.pack.rows.iter().zip(rows) {
        let mask = op.dropout.row(*row);
        (0..).zip(x.iter().zip(y)).for_each(|(column, (x, y))| *y = x * mask.factor(column));
    }
}

pub(super) fn cross_entropy(op: CrossEntropy<'_, Cpu>) {
    let rows = op.logits.chunks_exact(op.labels).zip(op.dlogits.chunks_exact_mut(op.labels));
    for ((label, (logits, dlogits)), loss) in op.pack.labels.iter().zip(rows).zip(op.losses) {
        if label.is_none() {
            dlogits.fill(0.0);
            *loss = 0.0;
            continue;
        }
        let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum();
        let target_of = |column: u32| {
            let certain = if *label == Some(column) { 1.0 - op.smoothing } else { 0.0 };
            let weight = op.class_weights.get(column as usize).copied().unwrap_or(1.0);
            (certain + op.smoothing / op.labels as f64) * weight
        };
        let mass = if op.class_weights.is_empty() { 1.0 } else { (0..op.labels as u32).map(target_of).sum() };
        let mut total = 0.0;
        for ((column, logit), dlogit) in (0..).zip(logits).zip(dlogits) {
            let log_probability = f64::from(*logit) - most - sum.ln();
            let target = target_of(column);
            total -= target * log_probability;
            *dlogit = ((log_probability.exp() * mass - target) * op.gradient_scale) as f32;
        }
        *loss = total as f32;
    }
}

pub(super) fn lane_losses(op: LaneLosses<'_, Cpu>) {
    for (lane, sum) in (0..).zip(op.sums.into_values()) {
        let losses = op.pack.loss_lanes.iter().zip(op.losses).filter(|(of, _)| **of == lane);
        let losses = losses.filter(|_| op.lanes.contains(&lane)).map(|(_, loss)| f64::from(*loss));
        *sum = losses.fold(0.0, |sum, loss| sum + loss) as f32;
    }
}

#[cfg(test)]
#[path = "head_test.rs"]
mod tests;
