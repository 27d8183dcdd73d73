//! Down by the inverse square root of the updates done (Vaswani et al., 2017, Attention is all you need).

use super::shape::{Domain, Moment, Parameter, Shape};

/// The scale of a run that says none and has no warm-up.
const UPDATES: f64 = 10_000.0;

#[derive(Debug)]
pub(super) struct InverseSqrt;

impl Shape for InverseSqrt {
    fn name(&self) -> &'static str {
        "inverse_sqrt"
    }

    fn parameters(&self) -> &'static [Parameter] {
        // 0: as long as the warm-up.
        &[Parameter { name: "timescale", default: Some(0.0), domain: Domain::Whole(0.0, 1e12) }]
    }

    fn factor(&self, at: &Moment<'_>) -> f64 {
        let warmup = at.warmup as f64;
        let scale = [at.value(0), warmup, UPDATES].into_iter().find(|scale| *scale > 0.0).unwrap_or(UPDATES);
        1.0 / ((at.step as f64 + scale - warmup) / scale).sqrt()
    }

    fn words(&self, _values: &[f64]) -> String {
        "down by the inverse square root".to_owned()
    }
}
