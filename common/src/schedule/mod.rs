//! The learning rate as a pure function of the update, and of what evaluations before it have measured.
//!
//! A [`Decay`] is a shape and the values of its parameters; each shape is a file of its own behind one trait
//! (`shape.rs`), whose table is all that names it.

mod constant;
mod cosine;
mod cosine_with_restarts;
mod decay;
mod inverse_sqrt;
mod linear;
mod polynomial;
mod reduce_lr_on_plateau;
mod shape;
mod warmup_stable_decay;

use serde::{Deserialize, Serialize};

use crate::identity::Update;

pub use decay::{Decay, DecayError, Setting, Wish};

/// Warm-up from 0 to the peak, then a decay (`transformers.optimization.get_scheduler`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LrSchedule {
    /// Shape after the warm-up.
    pub decay: Decay,
    /// The highest learning rate, until evaluations lower it.
    pub peak: f64,
    /// Updates of linear warm-up.
    pub warmup_updates: u64,
    /// Updates of the whole run.
    pub total_updates: u64,
}

impl LrSchedule {
    /// The highest learning rate once evaluations have measured that, in their order.
    #[must_use]
    pub fn peak_after(&self, measured: &[f64]) -> f64 {
        self.decay.peak(self.peak, measured)
    }

    /// The learning rate that `update` (from 1) is made with, where the evaluations before it have left that `peak`.
    ///
    /// As in Hugging Face, update `u` uses the factor of `u - 1` scheduler steps, so with a warm-up the first update
    /// has learning rate 0 and the peak is used by update `warmup_updates + 1`.
    #[must_use]
    pub fn at(&self, update: Update, peak: f64) -> f64 {
        let step = update.0.saturating_sub(1);
        peak * self.decay.factor(step, (self.warmup_updates, self.total_updates), peak)
    }
}

#[cfg(test)]
#[path = "schedule_test.rs"]
mod tests;
