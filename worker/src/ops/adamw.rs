//! One step of AdamW (Loshchilov and Hutter, 2019).

use super::step::{RowGradients, StepRun};
use super::{Ops, SliceMut};

/// The numbers of one step, the same for all elements that decay alike.
///
/// With `g` the gradient times `gradient_scale`:
///
/// ```text
/// m = beta1 m + (1 - beta1) g
/// v = beta2 v + (1 - beta2) g²
/// p -= decay_before p
/// p -= step_size m / (sqrt(v) root_scale + epsilon)
/// p -= decay_after p
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// Divides by the update's divisor and clips.
    pub gradient_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// `1 - beta1`, rounded once.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`, rounded once.
    pub one_minus_beta2: f32,
    /// Learning rate with bias corrections.
    pub step_size: f32,
    /// Bias correction of the root of the second moment; 1 where `step_size` holds it.
    pub root_scale: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Weight decay before the step.
    pub decay_before: f32,
    /// Weight decay after the step.
    pub decay_after: f32,
}

impl Coefficients {
    /// The same without decay.
    #[must_use]
    pub fn lasting(self) -> Self {
        Self { decay_before: 0.0, decay_after: 0.0, ..self }
    }
}

/// A step of elements with a dense gradient, run by run.
pub struct AdamW<'a, O: Ops + ?Sized> {
    /// The numbers.
    pub coefficients: Coefficients,
    /// `p`.
    pub parameters: SliceMut<'a, O::Buffer>,
    /// `m` of these parameters.
    pub first: SliceMut<'a, O::Buffer>,
    /// `v` of these parameters.
    pub second: SliceMut<'a, O::Buffer>,
    /// What of them is moved; no element twice.
    pub runs: Vec<StepRun<'a, O>>,
}

/// A step of a matrix of which only some rows have a gradient.
pub struct AdamWRows<'a, O: Ops + ?Sized> {
    /// The numbers.
    pub coefficients: Coefficients,
    /// `p`, `[.., width]`.
    pub parameters: SliceMut<'a, O::Buffer>,
    /// `m`.
    pub first: SliceMut<'a, O::Buffer>,
    /// `v`.
    pub second: SliceMut<'a, O::Buffer>,
    /// The gradient.
    pub gradient: RowGradients<'a, O>,
}
