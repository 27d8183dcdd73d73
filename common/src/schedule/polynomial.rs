//! Down to an end that is above 0, by a power of what is left of the run.

use super::shape::{Domain, Moment, Parameter, Shape};

#[derive(Debug)]
pub(super) struct Polynomial;

impl Shape for Polynomial {
    fn name(&self) -> &'static str {
        "polynomial"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "lr_end", default: Some(1e-7), domain: Domain::Number(0.0, 1e3) },
            Parameter { name: "power", default: Some(1.0), domain: Domain::Number(0.0, 1e3) },
        ]
    }

    fn factor(&self, at: &Moment<'_>) -> f64 {
        let (end, power) = (at.value(0), at.value(1));
        // A peak of 0 has no share that is the end: it stays 0.
        if at.peak == 0.0 {
            return 0.0;
        }
        let left = (1.0 - at.progress()).max(0.0);
        ((at.peak - end) * left.powf(power) + end) / at.peak
    }

    fn problem(&self, peak: f64, values: &[f64]) -> Option<String> {
        let end = values.first().copied().unwrap_or_default();
        (peak > 0.0 && end >= peak).then(|| format!("lr_end is {end:?}; expected less than the peak, {peak:?}"))
    }

    fn words(&self, values: &[f64]) -> String {
        match values {
            [end, power] if *power != 1.0 => format!("down to {end:?} by the power {power} of what is left"),
            [end, _] => format!("straight down to {end:?}"),
            _ => "down".to_owned(),
        }
    }
}
