//! Lower by a factor whenever evaluations stop to improve (`torch.optim.lr_scheduler.ReduceLROnPlateau`).

use super::decay::Wish;
use super::shape::{Domain, Moment, Parameter, Shape};

#[derive(Debug)]
pub(super) struct ReduceLrOnPlateau;

const MODES: &[&str] = &["min", "max"];
const THRESHOLD_MODES: &[&str] = &["rel", "abs"];

/// As they stand in torch's signature.
const PARAMETERS: &[Parameter] = &[
    Parameter { name: "mode", default: Some(0.0), domain: Domain::Word(MODES) },
    Parameter { name: "factor", default: Some(0.1), domain: Domain::Number(0.0, 1.0) },
    Parameter { name: "patience", default: Some(10.0), domain: Domain::Whole(0.0, 1e12) },
    Parameter { name: "threshold", default: Some(1e-4), domain: Domain::Number(0.0, 1e12) },
    Parameter { name: "threshold_mode", default: Some(0.0), domain: Domain::Word(THRESHOLD_MODES) },
    Parameter { name: "cooldown", default: Some(0.0), domain: Domain::Whole(0.0, 1e12) },
    Parameter { name: "min_lr", default: Some(0.0), domain: Domain::Number(0.0, 1e12) },
    Parameter { name: "eps", default: Some(1e-8), domain: Domain::Number(0.0, 1e12) },
];

impl Shape for ReduceLrOnPlateau {
    fn name(&self) -> &'static str {
        "reduce_lr_on_plateau"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    /// As in transformers, where this one alone ignores `warmup_steps`.
    fn has_warmup(&self) -> bool {
        false
    }

    fn factor(&self, _at: &Moment<'_>) -> f64 {
        1.0
    }

    fn wants(&self, values: &[f64]) -> Option<Wish> {
        Some(if value(values, 0) > 0.0 { Wish::More } else { Wish::Less })
    }

    fn peak(&self, peak: f64, measured: &[f64], values: &[f64]) -> f64 {
        let (factor, patience, cooldown) = (value(values, 1), value(values, 2), value(values, 5));
        let (least, smallest_step) = (value(values, 6), value(values, 7));
        let mut rate = peak;
        let mut best = if value(values, 0) > 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
        let (mut failures, mut rest) = (0.0, 0.0);
        for measured in measured {
            if improves(*measured, best, values) {
                (best, failures) = (*measured, 0.0);
            } else {
                failures += 1.0;
            }
            if rest > 0.0 {
                (rest, failures) = (rest - 1.0, 0.0);
            }
            if failures > patience {
                let lower = (rate * factor).max(least);
                if rate - lower > smallest_step {
                    rate = lower;
                }
                (rest, failures) = (cooldown, 0.0);
            }
        }
        rate
    }

    fn problem(&self, _peak: f64, values: &[f64]) -> Option<String> {
        let factor = value(values, 1);
        (factor >= 1.0).then(|| format!("factor is {factor}; expected less than 1"))
    }

    fn words(&self, values: &[f64]) -> String {
        let (factor, patience) = (value(values, 1), value(values, 2));
        format!("times {factor} whenever more than {patience} evaluations in a row bring no improvement")
    }
}

/// Whether `measured` is enough better than the best before it; what is no number never is.
fn improves(measured: f64, best: f64, values: &[f64]) -> bool {
    let (is_more, threshold, is_absolute) = (value(values, 0) > 0.0, value(values, 3), value(values, 4) > 0.0);
    match (is_more, is_absolute) {
        (false, false) => measured < best * (1.0 - threshold),
        (false, true) => measured < best - threshold,
        (true, false) => measured > best * (threshold + 1.0),
        (true, true) => measured > best + threshold,
    }
}

fn value(values: &[f64], place: usize) -> f64 {
    values.get(place).copied().unwrap_or_default()
}
