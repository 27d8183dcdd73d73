//! Launches of `adamw.cu`.

use super::driver::{Argument, Driver, Grid, Kernel};
use super::reduce::element_grid;
use super::{Buffer, Cuda, int, long};
use crate::ops::adamw::{AdamW, AdamWRows, Coefficients};
use crate::ops::{DeviceError, SliceMut};

const DENSE: Kernel = Kernel { module: "adamw", name: "adamw" };
const ROWS: Kernel = Kernel { module: "adamw", name: "adamw_rows" };

pub(super) fn step<D: Driver>(cuda: &Cuda<D>, op: AdamW<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let count = op.parameters.range.len();
    let arguments = [
        cuda.wide_mut(&op.parameters)?,
        cuda.wide_mut(&op.first)?,
        cuda.wide_mut(&op.second)?,
        copy(cuda, &op.parameters)?,
        cuda.wide_run(&op.gradient)?,
        coefficients(&op.coefficients),
        long(count),
    ];
    cuda.enqueue(DENSE, cuda.element, element_grid(count), &arguments)
}

pub(super) fn step_rows<D: Driver>(cuda: &Cuda<D>, op: AdamWRows<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let rows: Vec<i32> = op.rows.iter().map(|row| *row as i32).collect();
    let places = cuda.scratch(bytemuck::cast_slice(&rows))?;
    let arguments = [
        cuda.wide_mut(&op.parameters)?,
        cuda.wide_mut(&op.first)?,
        cuda.wide_mut(&op.second)?,
        copy(cuda, &op.parameters)?,
        cuda.wide(op.gradient, 0..op.rows.len() * op.width)?,
        coefficients(&op.coefficients),
        Argument::Address(cuda.driver.address(&places)),
        int(op.rows.len()),
        int(op.width),
    ];
    let matrix_rows = op.parameters.range.len() / op.width.max(1);
    cuda.enqueue(ROWS, cuda.element, Grid::new(matrix_rows, 256), &arguments)
}

/// Where the half-precision copy of parameters lies; none in `f32`.
fn copy<D: Driver>(cuda: &Cuda<D>, run: &SliceMut<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
    if run.buffer.narrow.is_some() { cuda.stored(run.buffer, run.range.clone()) } else { Ok(Argument::Address(0)) }
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
