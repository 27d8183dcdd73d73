//! The learning rate as a pure function of the update.

use serde::{Deserialize, Serialize};

use crate::identity::Update;

/// How the learning rate goes on after its warm-up; Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Straight down to 0 at the last update.
    Linear,
    /// Half a cosine down to 0.
    Cosine,
    /// No warm-up, no decay.
    Constant,
    /// Warm-up, then no decay.
    ConstantWithWarmup,
}

/// Warm-up from 0 to the peak, then a decay (`transformers.optimization.get_scheduler`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LrSchedule {
    /// Shape after the warm-up.
    pub decay: Decay,
    /// The highest learning rate.
    pub peak: f64,
    /// Updates of linear warm-up.
    pub warmup_updates: u64,
    /// Updates of the whole run.
    pub total_updates: u64,
}

impl LrSchedule {
    /// The learning rate that `update` (from 1) is made with.
    ///
    /// As in Hugging Face, update `u` uses the factor of `u - 1` scheduler steps, so with a warm-up the first update
    /// has learning rate 0 and the peak is used by update `warmup_updates + 1`.
    #[must_use]
    pub fn at(&self, update: Update) -> f64 {
        let step = update.0.saturating_sub(1);
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if self.decay == Decay::Constant {
            return 1.0;
        }
        if step < self.warmup_updates {
            return step as f64 / self.warmup_updates as f64;
        }
        let after = self.total_updates.saturating_sub(self.warmup_updates).max(1) as f64;
        match self.decay {
            Decay::Constant | Decay::ConstantWithWarmup => 1.0,
            Decay::Linear => self.total_updates.saturating_sub(step) as f64 / after,
            Decay::Cosine => {
                let progress = (step - self.warmup_updates) as f64 / after;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> LrSchedule {
        LrSchedule { decay, peak: 3e-5, warmup_updates: 1755, total_updates: 3510 }
    }

    #[test]
    fn linear_is_the_reference_run() {
        let linear = schedule(Decay::Linear);
        assert_eq!(linear.at(Update(1)), 0.0);
        assert_eq!(linear.at(Update(2)), 3e-5 / 1755.0);
        assert_eq!(linear.at(Update(1756)), 3e-5);
        assert_eq!(linear.at(Update(3510)), 3e-5 * (1.0 / 1755.0));
    }

    #[test]
    fn other_shapes() {
        assert_eq!(schedule(Decay::Constant).at(Update(1)), 3e-5);
        assert_eq!(schedule(Decay::ConstantWithWarmup).at(Update(1)), 0.0);
        assert_eq!(schedule(Decay::ConstantWithWarmup).at(Update(3000)), 3e-5);
        let cosine = schedule(Decay::Cosine);
        assert_eq!(cosine.at(Update(1756)), 3e-5);
        let half = LrSchedule { warmup_updates: 0, total_updates: 100, ..cosine };
        assert!((half.at(Update(51)) - 1.5e-5).abs() < 1e-12);
    }

    #[test]
    fn no_warmup_starts_at_the_peak() {
        let linear = LrSchedule { warmup_updates: 0, ..schedule(Decay::Linear) };
        assert_eq!(linear.at(Update(1)), 3e-5);
    }
}
