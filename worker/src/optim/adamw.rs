//! AdamW in the two forms that Hugging Face trains with.

use std::ops::Range;

use medley_common::spec::{OptimizerKind, OptimizerSpec};

use super::optimizer::StepSize;
use crate::ops::adamw::{AdamW as Step, AdamWRows, Coefficients};
use crate::ops::step::{RowGradients, StepRun};
use crate::ops::{DeviceError, Ops, SliceMut};

/// The two moments, and how they move parameters.
pub(super) struct AdamW<O: Ops> {
    spec: OptimizerSpec,
    first: O::Buffer,
    second: O::Buffer,
}

impl<O: Ops> AdamW<O> {
    /// Moments of so many parameters that have not moved yet.
    pub(super) fn new(ops: &O, parameters: usize, spec: OptimizerSpec) -> Result<Self, DeviceError> {
        Ok(Self { spec, first: ops.zeros(parameters)?, second: ops.zeros(parameters)? })
    }

    pub(super) fn memory(&self) -> [&O::Buffer; 2] {
        [&self.first, &self.second]
    }

    pub(super) fn memory_mut(&mut self) -> [&mut O::Buffer; 2] {
        [&mut self.first, &mut self.second]
    }

    /// Moves the rows of a matrix, of which `memory` is remembered.
    pub(super) fn step_rows(
        &mut self,
        ops: &O,
        (parameters, memory): (SliceMut<'_, O::Buffer>, Range<usize>),
        (decays, gradient): (bool, RowGradients<'_, O>),
        size: StepSize,
    ) -> Result<(), DeviceError> {
        let coefficients = coefficients(&self.spec, size);
        let coefficients = if decays { coefficients } else { coefficients.lasting() };
        let [first, second] = self.moments(&memory);
        ops.adamw_rows(AdamWRows { coefficients, parameters, first, second, gradient })
    }

    /// Moves `runs` of parameters, of which `memory` is remembered.
    pub(super) fn step(
        &mut self,
        ops: &O,
        (parameters, memory): (SliceMut<'_, O::Buffer>, Range<usize>),
        runs: Vec<StepRun<'_, O>>,
        size: StepSize,
    ) -> Result<(), DeviceError> {
        let coefficients = coefficients(&self.spec, size);
        let [first, second] = self.moments(&memory);
        ops.adamw(Step { coefficients, parameters, first, second, runs })
    }

    fn moments(&mut self, memory: &Range<usize>) -> [SliceMut<'_, O::Buffer>; 2] {
        [&mut self.first, &mut self.second].map(|buffer| SliceMut { buffer, range: memory.clone() })
    }
}

/// The numbers of what decays.
fn coefficients(spec: &OptimizerSpec, size: StepSize) -> Coefficients {
    let updates = size.update.0 as f64;
    let first_correction = 1.0 - spec.beta1.powf(updates);
    let second_correction = (1.0 - spec.beta2.powf(updates)).sqrt();
    let decay = size.learning_rate * spec.weight_decay;
    let (step_size, root_scale, decay_before, decay_after) = if spec.kind == OptimizerKind::AdamwHf {
        (size.learning_rate * second_correction / first_correction, 1.0, 0.0, decay)
    } else {
        (size.learning_rate / first_correction, 1.0 / second_correction, decay, 0.0)
    };
    Coefficients {
        gradient_scale: size.gradient_scale as f32,
        beta1: spec.beta1 as f32,
        one_minus_beta1: (1.0 - spec.beta1) as f32,
        beta2: spec.beta2 as f32,
        one_minus_beta2: (1.0 - spec.beta2) as f32,
        step_size: step_size as f32,
        root_scale: root_scale as f32,
        epsilon: spec.epsilon as f32,
        decay_before: decay_before as f32,
        decay_after: decay_after as f32,
    }
}
