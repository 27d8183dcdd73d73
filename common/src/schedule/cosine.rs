//! Down by a cosine: half a turn of it, or as many as are asked for.

use std::f64::consts::PI;

use super::shape::{Domain, Moment, Parameter, Shape};

#[derive(Debug)]
pub(super) struct Cosine;

impl Shape for Cosine {
    fn name(&self) -> &'static str {
        "cosine"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "num_cycles", default: Some(0.5), domain: Domain::Number(0.0, 1e6) }]
    }

    fn factor(&self, at: &Moment<'_>) -> f64 {
        (0.5 * (1.0 + (PI * at.value(0) * 2.0 * at.progress()).cos())).max(0.0)
    }

    fn words(&self, values: &[f64]) -> String {
        match values {
            [turns] if *turns != 0.5 => format!("down and up by {turns} turns of a cosine"),
            _ => "down to 0 by a cosine".to_owned(),
        }
    }
}
