//! One step of stochastic gradient descent, as `torch.optim.SGD` makes it.

use super::step::{RowGradients, StepRun};
use super::{Ops, SliceMut};

/// The numbers of one step, the same for all elements that decay alike.
///
/// With `d` the gradient times `gradient_scale`, and `b` the momentum, 0 where there is none:
///
/// ```text
/// g = d + decay p
/// b = momentum b + taken g
/// p -= step_size (direct g + through b)
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// Divides by the update's divisor and clips.
    pub gradient_scale: f32,
    /// Weight decay, added to the gradient.
    pub decay: f32,
    /// Share of the momentum that stays.
    pub momentum: f32,
    /// Share of the gradient that the momentum takes.
    pub taken: f32,
    /// Share of the gradient in the step itself.
    pub direct: f32,
    /// Share of the momentum in the step.
    pub through: f32,
    /// The learning rate.
    pub step_size: f32,
}

impl Coefficients {
    /// The same without decay.
    #[must_use]
    pub fn lasting(self) -> Self {
        Self { decay: 0.0, ..self }
    }
}

/// A step of elements with a dense gradient, run by run.
pub struct Sgd<'a, O: Ops + ?Sized> {
    /// The numbers.
    pub coefficients: Coefficients,
    /// `p`.
    pub parameters: SliceMut<'a, O::Buffer>,
    /// `b` of these parameters, if there is momentum.
    pub momentum: Option<SliceMut<'a, O::Buffer>>,
    /// What of them is moved; no element twice.
    pub runs: Vec<StepRun<'a, O>>,
}

/// A step of a matrix of which only some rows have a gradient.
pub struct SgdRows<'a, O: Ops + ?Sized> {
    /// The numbers.
    pub coefficients: Coefficients,
    /// `p`, `[.., width]`.
    pub parameters: SliceMut<'a, O::Buffer>,
    /// `b`, if there is momentum.
    pub momentum: Option<SliceMut<'a, O::Buffer>>,
    /// The gradient.
    pub gradient: RowGradients<'a, O>,
}
