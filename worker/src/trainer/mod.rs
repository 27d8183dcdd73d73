//! The trainer: model, parameters and optimizer of one worker, and the two things it does with them.
//!
//! [`Trainer::step`] makes one update together with all other workers, [`Trainer::predict`] computes logits. What a
//! trainer holds after an update depends on the recipe and the data alone: not on the number of workers or threads.

use std::borrow::Cow;

use medley_common::identity::{Rank, Update};
use medley_common::lane::LaneTree;
use medley_common::message::Lanes;
use medley_common::model::{ModelConfig, ModelError};
use medley_common::spec::{Precision, Summation, TrainSpec};

use crate::layout::Layout;
use crate::model::bert::{Bert, Keep};
use crate::ops::buffer_pool::BufferPool;
use crate::ops::cpu::Cpu;
use crate::ops::{DeviceError, Ops};
use crate::optim::loss_scale::LossScale;
use crate::optim::optimizer::Optimizer;
use crate::trainer::kept::Kept;
use crate::trainer::passes::Passes;
use crate::trainer::seat::Seat;
use crate::trainer::sharding::Sharding;

mod computer;
mod handover;
mod kept;
mod launch;
mod passes;
mod predict;
mod seat;
mod sharding;
mod step;

#[cfg(test)]
mod beside_test;
#[cfg(test)]
mod courses_test;
#[cfg(test)]
mod cuda_test;
#[cfg(test)]
mod families_test;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod gradients_test;
#[cfg(test)]
mod graphs_test;
#[cfg(test)]
mod launches_test;
#[cfg(test)]
mod parity_test;
#[cfg(test)]
mod recipes_test;
#[cfg(test)]
mod reproducible_test;
#[cfg(test)]
mod resume_test;
#[cfg(test)]
mod settled_test;

pub use handover::{Handover, HandoverError};
pub use predict::{BLOCK_ROWS, PredictError};
pub use sharding::GatherError;
pub use step::StepError;

/// Trains one replica of the model.
pub struct Trainer<O: Ops = Cpu> {
    ops: O,
    config: ModelConfig,
    spec: TrainSpec,
    layout: Layout,
    model: Bert<O>,
    parameters: O::Buffer,
    optimizer: Optimizer<O>,
    sharding: Sharding,
    pool: BufferPool<O>,
    update: Update,
    /// The highest learning rate of the schedule, as evaluations have left it.
    peak: f64,
    /// In half precision alone.
    scale: Option<LossScale>,
    /// The next update's partial sums, where its sums did not come about.
    kept: Option<Kept<O::Buffer>>,
    /// How this rank's lanes are divided into passes.
    passes: Passes,
    /// What a person should know of the last update.
    note: Option<String>,
}

/// Why a trainer cannot be made or restored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainerError {
    /// The model's shape is impossible.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A flat buffer has another length than the model.
    #[error("{name}: {elements} numbers; the model has {expected} parameters")]
    Length {
        /// What the buffer holds.
        name: &'static str,
        /// Its elements.
        elements: usize,
        /// Parameters of the model.
        expected: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<O: Ops> Trainer<O> {
    /// A trainer that has made no update, with `parameters` in the order of the model's [`Layout`].
    ///
    /// # Errors
    /// The model is impossible, the parameters are not its own, or the device's memory is exhausted.
    pub fn new(ops: O, config: ModelConfig, spec: TrainSpec, parameters: Vec<f32>) -> Result<Self, TrainerError> {
        Self::of(ops, config, spec, (parameters, Sharding::Off))
    }

    /// The same, of which every rank is to keep a shard of what the optimizer remembers ([`Trainer::cut`]).
    ///
    /// # Errors
    /// As for [`Trainer::new`].
    pub fn sharded(ops: O, config: ModelConfig, spec: TrainSpec, parameters: Vec<f32>) -> Result<Self, TrainerError> {
        Self::of(ops, config, spec, (parameters, Sharding::Due(Vec::new())))
    }

    fn of(
        ops: O,
        config: ModelConfig,
        spec: TrainSpec,
        (parameters, sharding): (Vec<f32>, Sharding),
    ) -> Result<Self, TrainerError> {
        config.validate()?;
        ops.check(&config)?;
        let layout = Layout::new(&config);
        check_length("parameters", parameters.len(), &layout)?;
        // Nothing is remembered before it is known whose part of it.
        let stepped = if matches!(sharding, Sharding::Off) { 0..layout.len() } else { 0..0 };
        let scale = (spec.compute.precision == Precision::Float16).then(LossScale::default);
        Ok(Self {
            model: new_model(&config, &spec, &layout),
            parameters: ops.upload_parameters(parameters)?,
            optimizer: Optimizer::new(&ops, &layout, (spec.optimizer, &spec.tuning), std::slice::from_ref(&stepped))?,
            sharding,
            pool: BufferPool::default(),
            update: Update(0),
            peak: spec.schedule.peak,
            scale,
            kept: None,
            passes: Passes::new(ops.lane_keeping(), spec.compute.summation),
            note: None,
            ops,
            config,
            spec,
            layout,
        })
    }

    /// Waits for what the device has to do.
    ///
    /// # Errors
    /// The device has failed.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.ops.wait()
    }

    /// Goes on after `update`, with what the optimizer remembered then ([`OptimizerKind::memory`]).
    ///
    /// # Errors
    /// That is not of this optimizer and this model, or the device's memory is exhausted.
    ///
    /// [`OptimizerKind::memory`]: medley_common::spec::OptimizerKind::memory
    pub fn restore(&mut self, memory: Vec<Vec<f32>>, update: Update) -> Result<(), TrainerError> {
        for (place, name) in self.spec.optimizer.kind.memory().iter().enumerate() {
            check_length(name, memory.get(place).map_or(0, Vec::len), &self.layout)?;
        }
        if self.is_sharded() {
            self.sharding = Sharding::Due(memory);
        } else {
            let memory = memory.into_iter().map(|buffer| self.ops.upload(buffer)).collect::<Result<_, _>>()?;
            self.optimizer.restore(memory);
        }
        self.update = update;
        self.kept = None;
        Ok(())
    }

    /// The loss scale and its course so far; none but in half precision.
    #[must_use]
    pub fn loss_scale(&self) -> Option<LossScale> {
        self.scale
    }

    /// Goes on with a loss scale as it was; without effect but in half precision.
    pub fn restore_loss_scale(&mut self, scale: LossScale) {
        self.scale = self.scale.map(|_| scale);
    }

    /// Makes the next updates with a schedule of that peak, as evaluations have left it.
    pub fn set_peak(&mut self, peak: f64) {
        self.peak = peak;
    }

    /// The lanes of the next update that need not be computed again: those whose sums a lost peer prevented.
    #[must_use]
    pub fn kept(&self) -> Lanes {
        self.kept.as_ref().map_or_else(Lanes::new, |kept| kept.lanes.clone())
    }

    /// What a person should know of the last update: that it was computed in smaller passes than the one before.
    pub fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// Whether lanes are summed apart: what comes out has the same bits whoever computes which lanes.
    fn keeps_lanes(&self) -> bool {
        self.spec.compute.summation == Summation::ByLane
    }

    /// Where this rank's sums stand in the tree.
    fn seat(&self, lanes: u32, rank: Rank, world: u32) -> Seat {
        if self.keeps_lanes() { Seat::Lanes(LaneTree::new(lanes)) } else { Seat::of(rank, world, lanes) }
    }

    /// The number of updates made.
    #[must_use]
    pub fn update(&self) -> Update {
        self.update
    }

    /// The most bytes that buffers have taken at a time, where the device counts them.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        self.ops.peak_bytes()
    }

    /// The recipe.
    #[must_use]
    pub fn spec(&self) -> &TrainSpec {
        &self.spec
    }

    /// Where each parameter lies in the flat buffers.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl<O: Ops> Trainer<O> {
    /// All parameters on the host, in the order of the layout.
    ///
    /// # Errors
    /// The device failed.
    pub fn parameters(&self) -> Result<Cow<'_, [f32]>, DeviceError> {
        self.ops.host(&self.parameters)
    }

    /// What the optimizer remembers, of its shard where it has but one, on the host: in the order of
    /// [`OptimizerKind::memory`], each in that of the layout.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// [`OptimizerKind::memory`]: medley_common::spec::OptimizerKind::memory
    pub fn memory(&self) -> Result<Vec<Cow<'_, [f32]>>, DeviceError> {
        self.optimizer.memory().into_iter().map(|buffer| self.ops.host(buffer)).collect()
    }
}

/// The model, without room for any batch yet.
fn new_model<O: Ops>(config: &ModelConfig, spec: &TrainSpec, layout: &Layout) -> Bert<O> {
    let keep = if spec.compute.gradient_checkpointing { Keep::Nothing } else { Keep::Everything };
    Bert::new(config, layout, keep, spec.tuning.frozen_layers)
}

fn check_length(name: &'static str, elements: usize, layout: &Layout) -> Result<(), TrainerError> {
    let expected = layout.len();
    if elements == expected { Ok(()) } else { Err(TrainerError::Length { name, elements, expected }) }
}
