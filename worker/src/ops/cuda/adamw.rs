//! Launches of `adamw.cu`.

use super::driver::{Argument, Driver, Grid, Kernel};
use super::step::{StepPlaces, THREADS};
use super::{Cuda, int};
use crate::ops::adamw::{AdamW, AdamWRows, Coefficients};
use crate::ops::{DeviceError, SliceMut};

const DENSE: Kernel = Kernel { module: "adamw", name: "adamw" };
const ROWS: Kernel = Kernel { module: "adamw", name: "adamw_rows" };

pub(super) fn step<D: Driver>(cuda: &Cuda<D>, op: AdamW<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let AdamW { coefficients: numbers, parameters, first, second, runs } = op;
    let moved = [&parameters, &first, &second].map(SliceMut::as_slice);
    cuda.step_beside(DENSE, &moved, &runs, |StepPlaces { buffers, copy, runs }| {
        [&buffers[..], &[copy], &runs, &[coefficients(&numbers)]].concat()
    })
}

pub(super) fn step_rows<D: Driver>(cuda: &Cuda<D>, op: AdamWRows<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (rows, width) = (op.gradient.rows.len(), op.gradient.width);
    let places = cuda.step_rows(op.gradient.rows)?;
    let arguments = [
        cuda.wide_mut(&op.parameters)?,
        cuda.wide_mut(&op.first)?,
        cuda.wide_mut(&op.second)?,
        cuda.copy_of(&op.parameters)?,
        cuda.wide_run(&op.gradient.values)?,
        coefficients(&op.coefficients),
        Argument::Address(cuda.driver.address(&places)),
        int(rows),
        int(width),
    ];
    let matrix_rows = op.parameters.range.len() / width.max(1);
    cuda.enqueue(ROWS, cuda.element, Grid::new(matrix_rows, THREADS), &arguments)
}

fn coefficients(c: &Coefficients) -> Argument {
    Argument::Coefficients([
        c.gradient_scale,
        c.beta1,
        c.one_minus_beta1,
        c.beta2,
        c.one_minus_beta2,
        c.step_size,
        c.root_scale,
        c.epsilon,
        c.decay_before,
        c.decay_after,
    ])
}
