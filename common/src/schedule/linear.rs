//! Straight down to 0 at the last update.

use super::shape::{Moment, Shape};

#[derive(Debug)]
pub(super) struct Linear;

impl Shape for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn factor(&self, at: &Moment<'_>) -> f64 {
        let after = at.total.saturating_sub(at.warmup).max(1);
        at.total.saturating_sub(at.step) as f64 / after as f64
    }

    fn words(&self, _values: &[f64]) -> String {
        "straight down to 0".to_owned()
    }
}
