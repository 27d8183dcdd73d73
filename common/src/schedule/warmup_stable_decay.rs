//! A plateau, then down in the last updates (Hu et al., 2024, MiniCPM).

use std::f64::consts::PI;

use super::shape::{Domain, Moment, Parameter, Shape};

const LINEAR: f64 = 0.0;
const COSINE: f64 = 1.0;

#[derive(Debug)]
pub(super) struct WarmupStableDecay;

impl Shape for WarmupStableDecay {
    fn name(&self) -> &'static str {
        "warmup_stable_decay"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "num_decay_steps", default: None, domain: Domain::Whole(0.0, 1e12) },
            Parameter {
                name: "decay_type",
                default: Some(COSINE),
                domain: Domain::Word(&["linear", "cosine", "1-sqrt"]),
            },
            Parameter { name: "min_lr_ratio", default: Some(0.0), domain: Domain::Number(0.0, 1.0) },
            Parameter { name: "num_cycles", default: Some(0.5), domain: Domain::Number(0.0, 1e6) },
        ]
    }

    /// It begins where it ends.
    fn warmup(&self, progress: f64, values: &[f64]) -> f64 {
        let least = values.get(2).copied().unwrap_or_default();
        progress * (1.0 - least) + least
    }

    fn factor(&self, at: &Moment<'_>) -> f64 {
        let (decay, kind, least, turns) = (at.value(0), at.value(1), at.value(2), at.value(3));
        // Where the warm-up reaches into the decay, that is under way when it ends.
        let begin = at.total as f64 - decay;
        let into = at.step as f64 - begin;
        if into < 0.0 {
            return 1.0;
        }
        if into >= decay {
            return least;
        }
        let progress = into / decay.max(1.0);
        let factor = if kind == LINEAR {
            1.0 - progress
        } else if kind == COSINE {
            0.5 * (1.0 + (PI * turns * 2.0 * progress).cos())
        } else {
            1.0 - progress.sqrt()
        };
        (factor * (1.0 - least) + least).max(0.0)
    }

    fn words(&self, values: &[f64]) -> String {
        let (decay, least) = (values.first().copied().unwrap_or_default(), values.get(2).copied().unwrap_or_default());
        let end = if least > 0.0 { format!("{least} of it") } else { "0".to_owned() };
        format!("constant, and down to {end} in the last {decay} updates")
    }
}
