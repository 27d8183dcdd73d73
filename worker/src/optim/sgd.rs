//! Stochastic gradient descent with momentum (Sutskever et al., 2013), as `torch.optim.SGD` makes it.

use std::ops::Range;

use medley_common::identity::Update;
use medley_common::spec::SgdSpec;

use super::optimizer::StepSize;
use crate::ops::sgd::{Coefficients, Sgd as Step, SgdRows};
use crate::ops::step::{RowGradients, StepRun};
use crate::ops::{DeviceError, Ops, SliceMut};

/// The momentum, if there is any, and how it moves parameters.
pub(super) struct Sgd<O: Ops> {
    spec: SgdSpec,
    weight_decay: f64,
    momentum: Option<O::Buffer>,
}

impl<O: Ops> Sgd<O> {
    /// So many parameters that have not moved yet.
    pub(super) fn new(ops: &O, parameters: usize, (spec, weight_decay): (SgdSpec, f64)) -> Result<Self, DeviceError> {
        let momentum = if spec.momentum > 0.0 { Some(ops.zeros(parameters)?) } else { None };
        Ok(Self { spec, weight_decay, momentum })
    }

    pub(super) fn memory(&self) -> Option<&O::Buffer> {
        self.momentum.as_ref()
    }

    pub(super) fn memory_mut(&mut self) -> Option<&mut O::Buffer> {
        self.momentum.as_mut()
    }

    /// Moves the rows of a matrix, of which `memory` is remembered.
    pub(super) fn step_rows(
        &mut self,
        ops: &O,
        (parameters, memory): (SliceMut<'_, O::Buffer>, Range<usize>),
        (decays, gradient): (bool, RowGradients<'_, O>),
        size: StepSize,
    ) -> Result<(), DeviceError> {
        let coefficients = self.coefficients(size);
        let coefficients = if decays { coefficients } else { coefficients.lasting() };
        let momentum = self.momentum.as_mut().map(|buffer| SliceMut { buffer, range: memory });
        ops.sgd_rows(SgdRows { coefficients, parameters, momentum, gradient })
    }

    /// Moves `runs` of parameters, of which `memory` is remembered.
    pub(super) fn step(
        &mut self,
        ops: &O,
        (parameters, memory): (SliceMut<'_, O::Buffer>, Range<usize>),
        runs: Vec<StepRun<'_, O>>,
        size: StepSize,
    ) -> Result<(), DeviceError> {
        let coefficients = self.coefficients(size);
        let momentum = self.momentum.as_mut().map(|buffer| SliceMut { buffer, range: memory });
        ops.sgd(Step { coefficients, parameters, momentum, runs })
    }

    /// The numbers of what decays.
    fn coefficients(&self, size: StepSize) -> Coefficients {
        let SgdSpec { momentum, dampening, nesterov } = self.spec;
        // torch begins with the gradient itself for a momentum.
        let taken = if size.update == Update(1) { 1.0 } else { 1.0 - dampening };
        let (direct, through) = match (momentum > 0.0, nesterov) {
            (false, _) => (1.0, 0.0),
            (true, false) => (0.0, 1.0),
            (true, true) => (1.0, momentum),
        };
        Coefficients {
            gradient_scale: size.gradient_scale as f32,
            decay: self.weight_decay as f32,
            momentum: momentum as f32,
            taken: taken as f32,
            direct: direct as f32,
            through: through as f32,
            step_size: size.learning_rate as f32,
        }
    }
}
