//! Which elements a step of an optimizer moves, and by which gradient: `kernels/step.cuh`.

use super::driver::{Argument, Driver};
use super::runs::Runs;
use super::{Buffer, Cuda};
use crate::ops::step::StepRun;
use crate::ops::{DeviceError, SliceMut};

pub(super) const THREADS: usize = 256;
/// Elements of a block of threads.
const BLOCK: usize = 8192;

impl<D: Driver> Cuda<D> {
    /// One table for all runs: most are a bias or a norm, which alone would not be worth a launch.
    pub(super) fn step_table(
        &self,
        runs: &[StepRun<'_, Self>],
        parameters: &SliceMut<'_, Buffer<D::Memory>>,
    ) -> Result<Runs, DeviceError> {
        let mut table = Runs::default();
        for StepRun { range, decays, gradient } in runs {
            if gradient.range.len() != range.len() || range.end > parameters.range.len() {
                let (elements, room) = (gradient.range.len(), parameters.range.len());
                let problem = format!("elements {range:?} of {room} with a gradient of {elements}");
                return Err(DeviceError::Failed { doing: "make a step", problem });
            }
            let flags = (range.start as u64) << 1 | u64::from(*decays);
            table.push(self.address_of(gradient)?, range.len(), (range.len().div_ceil(BLOCK), flags));
        }
        Ok(table)
    }

    /// The rows of a matrix that have a gradient, for the time of an operation.
    pub(super) fn step_rows(&self, rows: &[u32]) -> Result<D::Memory, DeviceError> {
        let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
        self.scratch(bytemuck::cast_slice(&rows))
    }

    /// Where the half-precision copy of parameters lies; none in `f32`.
    pub(super) fn copy_of(&self, parameters: &SliceMut<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
        match parameters.buffer.narrow {
            Some(_) => self.stored(parameters.buffer, parameters.range.clone()),
            None => Ok(Argument::Address(0)),
        }
    }
}
