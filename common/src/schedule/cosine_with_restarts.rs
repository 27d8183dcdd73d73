//! Down to 0 by half a cosine, from the peak again each time.

use std::f64::consts::PI;

use super::shape::{Domain, Moment, Parameter, Shape};

#[derive(Debug)]
pub(super) struct CosineWithRestarts;

impl Shape for CosineWithRestarts {
    fn name(&self) -> &'static str {
        "cosine_with_restarts"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "num_cycles", default: Some(1.0), domain: Domain::Whole(1.0, 1e6) }]
    }

    fn factor(&self, at: &Moment<'_>) -> f64 {
        let progress = at.progress();
        if progress >= 1.0 {
            return 0.0;
        }
        (0.5 * (1.0 + (PI * ((at.value(0) * progress) % 1.0)).cos())).max(0.0)
    }

    fn words(&self, values: &[f64]) -> String {
        match values {
            [times] if *times > 1.0 => format!("down to 0 by a cosine, {times} times"),
            _ => "down to 0 by a cosine".to_owned(),
        }
    }
}
