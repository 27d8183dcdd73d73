//! What a schedule is: its name, its parameters, and a factor of the peak for every step.

use std::fmt::Debug;

use super::decay::Wish;
use super::{
    constant, cosine, cosine_with_restarts, inverse_sqrt, linear, polynomial, reduce_lr_on_plateau, warmup_stable_decay,
};

/// All schedules; Hugging Face's names. A new one is a file, and a line here.
pub(super) const SHAPES: &[&dyn Shape] = &[
    &linear::Linear,
    &cosine::Cosine,
    &cosine_with_restarts::CosineWithRestarts,
    &polynomial::Polynomial,
    &constant::Constant,
    &constant::ConstantWithWarmup,
    &inverse_sqrt::InverseSqrt,
    &warmup_stable_decay::WarmupStableDecay,
    &reduce_lr_on_plateau::ReduceLrOnPlateau,
];

/// The course of a learning rate; after `transformers.optimization`, whose results it gives to the last few bits.
pub(super) trait Shape: Debug + Sync {
    /// Its name, as `--lr_scheduler_type` has it.
    fn name(&self) -> &'static str;

    /// What can be set about it.
    fn parameters(&self) -> &'static [Parameter] {
        &[]
    }

    /// Whether it begins with a warm-up.
    fn has_warmup(&self) -> bool {
        true
    }

    /// The factor of the peak where the warm-up is so far; linear where nothing else is said.
    fn warmup(&self, progress: f64, _values: &[f64]) -> f64 {
        progress
    }

    /// The factor of the peak, from the end of the warm-up on.
    fn factor(&self, at: &Moment<'_>) -> f64;

    /// What it wants of the metric that evaluations measure, where it goes by one.
    fn wants(&self, _values: &[f64]) -> Option<Wish> {
        None
    }

    /// The peak that is left where evaluations have measured that, in their order.
    fn peak(&self, peak: f64, _measured: &[f64], _values: &[f64]) -> f64 {
        peak
    }

    /// Why it makes no sense for this peak, if it does not.
    fn problem(&self, _peak: f64, _values: &[f64]) -> Option<String> {
        None
    }

    /// How it goes on after the warm-up, in words; the values are those of its parameters.
    fn words(&self, values: &[f64]) -> String;
}

/// Where a run is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    /// Steps of the scheduler: updates done.
    pub(super) step: u64,
    /// Steps of warm-up, at most `step`.
    pub(super) warmup: u64,
    /// Updates of the whole run.
    pub(super) total: u64,
    /// The highest learning rate.
    pub(super) peak: f64,
    /// The values of the shape's parameters, in their order.
    pub(super) values: &'a [f64],
}

impl Moment<'_> {
    /// The share of the run after the warm-up that is over.
    pub(super) fn progress(&self) -> f64 {
        let after = self.total.saturating_sub(self.warmup).max(1);
        (self.step - self.warmup) as f64 / after as f64
    }

    /// The value of a parameter by its place.
    pub(super) fn value(&self, place: usize) -> f64 {
        self.values.get(place).copied().unwrap_or_default()
    }
}

/// Something that can be set about a shape, in `--lr_scheduler_kwargs`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is where it is not given; `None` where it must be given.
    pub(super) default: Option<f64>,
    /// What it may be.
    pub(super) domain: Domain,
}

/// What a parameter may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Domain {
    /// A number from one to another.
    Number(f64, f64),
    /// A whole number from one to another.
    Whole(f64, f64),
    /// One of some words; its value is the word's place.
    Word(&'static [&'static str]),
}

impl Domain {
    /// Whether a value lies in it.
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::Number(least, most) => (least..=most).contains(&value),
            Self::Whole(least, most) => (least..=most).contains(&value) && value.fract() == 0.0,
            Self::Word(words) => value.fract() == 0.0 && value >= 0.0 && value < words.len() as f64,
        }
    }

    /// What lies in it, in words.
    pub(super) fn expected(self) -> String {
        match self {
            Self::Number(least, most) => format!("a number from {least} to {most:e}"),
            Self::Whole(least, most) => format!("a whole number from {least} to {most:e}"),
            Self::Word(words) => words.join(", "),
        }
    }
}
