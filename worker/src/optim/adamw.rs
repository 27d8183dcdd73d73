//! AdamW in the two forms that Hugging Face trains with.

use std::ops::Range;

use medley_common::identity::Update;
use medley_common::spec::{OptimizerKind, OptimizerSpec};

use super::gradients::Gradients;
use crate::layout::{Layout, Segment};
use crate::ops::adamw::{AdamW as Step, AdamWRows, AdamWRun, Coefficients};
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

/// The optimizer and its moments, flat and in the order of the layout.
pub struct AdamW<O: Ops> {
    spec: OptimizerSpec,
    /// Runs of the flat buffer that decay alike, by segment.
    runs: Vec<Run>,
    word_width: usize,
    first: O::Buffer,
    second: O::Buffer,
}

struct Run {
    segment: Segment,
    /// Elements within the segment.
    within: Range<usize>,
    /// Elements of the flat buffer.
    range: Range<usize>,
    decays: bool,
}

/// The numbers of one step that are not the optimizer's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSize {
    /// The step, from 1, those that were skipped not counted: its number decides the bias correction.
    pub update: Update,
    /// The learning rate.
    pub learning_rate: f64,
    /// What the summed gradient is multiplied by.
    pub gradient_scale: f64,
}

impl<O: Ops> AdamW<O> {
    /// An optimizer that has made no step.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn new(ops: &O, layout: &Layout, spec: OptimizerSpec) -> Result<Self, DeviceError> {
        let (first, second) = (ops.zeros(layout.len())?, ops.zeros(layout.len())?);
        let word_width = layout.slots()[0].shape[1];
        Ok(Self { spec, runs: runs(layout), word_width, first, second })
    }

    /// First and second moments.
    #[must_use]
    pub fn moments(&self) -> (&O::Buffer, &O::Buffer) {
        (&self.first, &self.second)
    }

    /// Replaces first and second moments.
    pub fn restore(&mut self, first: O::Buffer, second: O::Buffer) {
        self.first = first;
        self.second = second;
    }

    /// Makes one step.
    ///
    /// # Errors
    /// The device failed.
    pub fn step(
        &mut self,
        ops: &O,
        parameters: &mut O::Buffer,
        gradients: &Gradients<O>,
        size: StepSize,
    ) -> Result<(), DeviceError> {
        let coefficients = coefficients(&self.spec, size);
        for Run { range, decays, .. } in self.runs.iter().filter(|run| run.segment == Segment::Words) {
            let (rows, gradient) = gradients.words();
            let width = self.word_width;
            let coefficients = if *decays { coefficients } else { coefficients.lasting() };
            let parameters = SliceMut { buffer: &mut *parameters, range: range.clone() };
            let first = SliceMut { buffer: &mut self.first, range: range.clone() };
            let second = SliceMut { buffer: &mut self.second, range: range.clone() };
            ops.adamw_rows(AdamWRows { coefficients, parameters, first, second, width, rows, gradient })?;
        }
        let dense = |run: &Run| {
            let (_, buffer) = gradients.segments().iter().find(|(known, _)| *known == run.segment)?;
            let gradient = Slice { buffer, range: run.within.clone() };
            Some(AdamWRun { range: run.range.clone(), decays: run.decays, gradient })
        };
        let runs = self.runs.iter().filter_map(dense).collect();
        let (first, second) = (&mut self.first, &mut self.second);
        ops.adamw(Step { coefficients, parameters, first, second, runs })
    }
}

/// Neighbouring tensors of a segment that decay alike are one run.
fn runs(layout: &Layout) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (segment, whole) in layout.segments() {
        let slots = layout.slots().iter().filter(|slot| whole.contains(&slot.range.start));
        for slot in slots {
            let (start, end) = (slot.range.start, slot.range.end);
            let (within, decays) = (start - whole.start..end - whole.start, slot.decays());
            match runs.last_mut() {
                Some(run) if run.segment == *segment && run.decays == decays => {
                    run.within.end = within.end;
                    run.range.end = end;
                }
                _ => runs.push(Run { segment: *segment, within, range: start..end, decays }),
            }
        }
    }
    runs
}

/// The numbers of what decays.
fn coefficients(spec: &OptimizerSpec, size: StepSize) -> Coefficients {
    let updates = size.update.0 as f64;
    let first_correction = 1.0 - spec.beta1.powf(updates);
    let second_correction = (1.0 - spec.beta2.powf(updates)).sqrt();
    let decay = size.learning_rate * spec.weight_decay;
    let (step_size, root_scale, decay_before, decay_after) = match spec.kind {
        OptimizerKind::AdamwHf => (size.learning_rate * second_correction / first_correction, 1.0, 0.0, decay),
        OptimizerKind::AdamwTorch => (size.learning_rate / first_correction, 1.0 / second_correction, decay, 0.0),
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

#[cfg(test)]
#[path = "adamw_test.rs"]
mod tests;
