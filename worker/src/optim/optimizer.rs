//! The optimizer: which parameters are moved by which gradient. How far is up to the rule, a file of its own each.

use std::ops::Range;

use medley_common::identity::Update;
use medley_common::spec::{OptimizerKind, OptimizerSpec, TuningSpec};

use super::adamw::AdamW;
use super::gradients::Gradients;
use super::runs::{Part, Run, parts};
use super::sgd::Sgd;
use crate::layout::{Layout, Segment};
use crate::ops::step::{RowGradients, StepRun};
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

/// Moves the parameters by their gradients, and remembers what its rule asks for, flat and in the order of the layout.
pub struct Optimizer<O: Ops> {
    parts: Vec<Part>,
    word_width: usize,
    rule: Rule<O>,
}

enum Rule<O: Ops> {
    AdamW(AdamW<O>),
    Sgd(Sgd<O>),
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

impl<O: Ops> Optimizer<O> {
    /// An optimizer of the parameters of `shard`, runs of the flat buffer, that has made no step.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn new(
        ops: &O,
        layout: &Layout,
        (spec, tuning): (OptimizerSpec, &TuningSpec),
        shard: &[Range<usize>],
    ) -> Result<Self, DeviceError> {
        let parameters = shard.iter().map(Range::len).sum();
        let rule = match spec.kind {
            OptimizerKind::AdamwHf | OptimizerKind::AdamwTorch => Rule::AdamW(AdamW::new(ops, parameters, spec)?),
            OptimizerKind::Sgd(sgd) => Rule::Sgd(Sgd::new(ops, parameters, (sgd, spec.weight_decay))?),
        };
        Ok(Self { parts: parts(layout, tuning, shard), word_width: layout.slots()[0].shape[1], rule })
    }

    /// What it remembers of its shard, in the order of [`OptimizerKind::memory`].
    #[must_use]
    pub fn memory(&self) -> Vec<&O::Buffer> {
        match &self.rule {
            Rule::AdamW(rule) => rule.memory().to_vec(),
            Rule::Sgd(rule) => rule.memory().into_iter().collect(),
        }
    }

    /// Replaces what it remembers.
    pub fn restore(&mut self, memory: Vec<O::Buffer>) {
        let own: Vec<&mut O::Buffer> = match &mut self.rule {
            Rule::AdamW(rule) => rule.memory_mut().into_iter().collect(),
            Rule::Sgd(rule) => rule.memory_mut().into_iter().collect(),
        };
        own.into_iter().zip(memory).for_each(|(own, buffer)| *own = buffer);
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
        for Part { rate, parameters: flat, memory, runs } in &self.parts {
            let size = StepSize { learning_rate: size.learning_rate * rate, ..size };
            for run in runs.iter().filter(|run| run.segment == Segment::Words) {
                let (rows, values) = word_rows(run, gradients, self.word_width);
                let gradient = (run.decays, RowGradients { width: self.word_width, rows: &rows, values });
                let [range, memory] = [flat, memory].map(|of| of.start + run.range.start..of.start + run.range.end);
                let moved = (SliceMut { buffer: &mut *parameters, range }, memory);
                match &mut self.rule {
                    Rule::AdamW(rule) => rule.step_rows(ops, moved, gradient, size)?,
                    Rule::Sgd(rule) => rule.step_rows(ops, moved, gradient, size)?,
                }
            }
            let runs = runs.iter().filter_map(|run| dense(run, gradients)).collect();
            let moved = (SliceMut { buffer: &mut *parameters, range: flat.clone() }, memory.clone());
            match &mut self.rule {
                Rule::AdamW(rule) => rule.step(ops, moved, runs, size)?,
                Rule::Sgd(rule) => rule.step(ops, moved, runs, size)?,
            }
        }
        Ok(())
    }
}

/// The rows of a run of the word embedding that have a gradient, counted from the run's first, and their gradients.
fn word_rows<'a, O: Ops>(run: &Run, gradients: &'a Gradients<O>, width: usize) -> (Vec<u32>, Slice<'a, O::Buffer>) {
    let (rows, buffer) = gradients.words();
    let bound = |element: usize| element.checked_div(width).and_then(|row| u32::try_from(row).ok()).unwrap_or(u32::MAX);
    let (first, end) = (bound(run.within.start), bound(run.within.end));
    let place = |bound: u32| rows.partition_point(|row| *row < bound);
    let (from, to) = (place(first), place(end));
    let rows = rows[from..to].iter().map(|row| row - first).collect();
    (rows, Slice { buffer, range: from * width..to * width })
}

/// A run of a segment whose gradient is dense.
fn dense<'a, O: Ops>(run: &Run, gradients: &'a Gradients<O>) -> Option<StepRun<'a, O>> {
    let (_, buffer) = gradients.segments().iter().find(|(known, _)| *known == run.segment)?;
    let gradient = Slice { buffer, range: run.within.clone() };
    Some(StepRun { range: run.range.clone(), decays: run.decays, gradient })
}

#[cfg(test)]
#[path = "optimizer_test.rs"]
mod tests;
