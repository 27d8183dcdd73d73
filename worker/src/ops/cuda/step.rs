//! Which elements a step of an optimizer moves, and by which gradient: `kernels/step.cuh`.

use std::ops::Range;
use std::rc::Rc;

use super::beside::Touched;
use super::driver::{Argument, Driver, Grid, Kernel};
use super::runs::Runs;
use super::{Buffer, Cuda, int};
use crate::ops::step::StepRun;
use crate::ops::{DeviceError, Slice};

pub(super) const THREADS: usize = 256;
/// Elements of a block of threads.
const BLOCK: usize = 8192;

/// Where a step's kernel finds all that it needs beside its numbers.
pub(super) struct StepPlaces {
    /// Of each of the runs of buffers that the step moves: its elements in `f32`.
    pub(super) buffers: Vec<Argument>,
    /// The half-precision copy of the first; 0 where there is none.
    pub(super) copy: Argument,
    /// A table of runs, and their number.
    pub(super) runs: [Argument; 2],
}

impl<D: Driver> Cuda<D> {
    /// Enqueues a step beside the stream: a launch for each segment, which has a gradient of its own. Most of a segment's
    /// runs are a bias or a norm, which alone would not be worth a launch. `moved` are the parameters, and what the
    /// optimizer remembers of them.
    pub(super) fn step_beside(
        &self,
        kernel: Kernel,
        moved: &[Slice<'_, Buffer<D::Memory>>],
        runs: &[StepRun<'_, Self>],
        arguments: impl Fn(StepPlaces) -> Vec<Argument>,
    ) -> Result<(), DeviceError> {
        let room = moved.iter().map(|run| run.range.len()).min().unwrap_or(0);
        let segments = runs.chunk_by(|one, next| std::ptr::eq(one.gradient.buffer, next.gradient.buffer));
        let segments: Vec<_> =
            segments.map(|runs| Ok((runs, self.step_table(runs, room)?))).collect::<Result<_, _>>()?;
        let bytes: Vec<u8> = segments.iter().flat_map(|(_, table)| table.bytes()).copied().collect();
        let tables = Rc::new(self.scratch(&bytes)?);
        let mut at = self.driver.address(&tables);
        for (runs, table) in segments {
            let bytes = at..at + table.bytes().len() as u64;
            at = bytes.end;
            let places = self.step_places(moved, [Argument::Address(bytes.start), int(table.len())])?;
            let mut touched = self.touched(moved, runs)?;
            touched.push(Touched::new(&tables, bytes));
            self.enqueue_beside(kernel, Grid::new(table.blocks(), THREADS), &arguments(places), touched)?;
        }
        Ok(())
    }

    fn step_table(&self, runs: &[StepRun<'_, Self>], room: usize) -> Result<Runs, DeviceError> {
        let mut table = Runs::default();
        for StepRun { range, decays, gradient } in runs {
            if gradient.range.len() != range.len() || range.end > room {
                let elements = gradient.range.len();
                let problem = format!("elements {range:?} of {room} with a gradient of {elements}");
                return Err(DeviceError::Failed { doing: "make a step", problem });
            }
            let flags = (range.start as u64) << 1 | u64::from(*decays);
            table.push(self.address_of(gradient)?, range.len(), (range.len().div_ceil(BLOCK), flags));
        }
        Ok(table)
    }

    fn step_places(
        &self,
        moved: &[Slice<'_, Buffer<D::Memory>>],
        runs: [Argument; 2],
    ) -> Result<StepPlaces, DeviceError> {
        let (mut buffers, mut copies) = (Vec::new(), Vec::new());
        let address = |touched: Option<Touched<_>>| Argument::Address(touched.map_or(0, |touched| touched.bytes.start));
        for Slice { buffer, range } in moved {
            let [wide, narrow] = self.touch(buffer, range)?;
            buffers.push(address(wide));
            copies.push(address(narrow));
        }
        Ok(StepPlaces { buffers, copy: copies.first().copied().unwrap_or(Argument::Address(0)), runs })
    }

    /// What a step of these runs reads and writes.
    fn touched(
        &self,
        moved: &[Slice<'_, Buffer<D::Memory>>],
        runs: &[StepRun<'_, Self>],
    ) -> Result<Vec<Touched<D::Memory>>, DeviceError> {
        let within = hull(runs.iter().map(|run| &run.range));
        let gradients = hull(runs.iter().map(|run| &run.gradient.range));
        let mut touched = Vec::new();
        for Slice { buffer, range } in moved {
            let within = range.start + within.start..range.start + within.end;
            touched.extend(self.touch(buffer, &within)?.into_iter().flatten());
        }
        if let Some(run) = runs.first() {
            touched.extend(self.touch(run.gradient.buffer, &gradients)?.into_iter().flatten());
        }
        Ok(touched)
    }

    /// The rows of a matrix that have a gradient, for the time of an operation.
    pub(super) fn step_rows(&self, rows: &[u32]) -> Result<D::Memory, DeviceError> {
        let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
        self.scratch(bytemuck::cast_slice(&rows))
    }
}

/// From the first element of all runs to the last.
fn hull<'a>(runs: impl Iterator<Item = &'a Range<usize>>) -> Range<usize> {
    let all = runs.cloned().reduce(|one, next| one.start.min(next.start)..one.end.max(next.end));
    all.unwrap_or(0..0)
}
