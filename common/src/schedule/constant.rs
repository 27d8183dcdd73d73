//! No decay, with a warm-up or without.

use super::shape::{Moment, Shape};

#[derive(Debug)]
pub(super) struct Constant;

#[derive(Debug)]
pub(super) struct ConstantWithWarmup;

impl Shape for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn has_warmup(&self) -> bool {
        false
    }

    fn factor(&self, _at: &Moment<'_>) -> f64 {
        1.0
    }

    fn words(&self, _values: &[f64]) -> String {
        "throughout".to_owned()
    }
}

impl Shape for ConstantWithWarmup {
    fn name(&self) -> &'static str {
        "constant_with_warmup"
    }

    fn factor(&self, _at: &Moment<'_>) -> f64 {
        1.0
    }

    fn words(&self, _values: &[f64]) -> String {
        "constant".to_owned()
    }
}
