//! Launches of `adamw.cu`.

use std::ops::Range;

use super::driver::{Argument, Driver, Grid, Kernel};
use super::runs::Runs;
use super::{Buffer, Cuda, int};
use crate::ops::DeviceError;
use crate::ops::adamw::{AdamW, AdamWRows, AdamWRun, Coefficients};

const DENSE: Kernel = Kernel { module: "adamw", name: "adamw" };
const ROWS: Kernel = Kernel { module: "adamw", name: "adamw_rows" };

const THREADS: usize = 256;
/// Elements of a block of threads.
const BLOCK: usize = 8192;

/// One launch for all runs: most are a bias or a norm, which alone would not be worth one.
pub(super) fn step<D: Driver>(cuda: &Cuda<D>, op: AdamW<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let AdamW { coefficients: numbers, parameters, first, second, runs } = op;
    let mut table = Runs::default();
    for AdamWRun { range, decays, gradient } in &runs {
        if gradient.range.len() != range.len() || range.end > parameters.room {
            let (elements, room) = (gradient.range.len(), parameters.room);
            let problem = format!("elements {range:?} of {room} with a gradient of {elements}");
            return Err(DeviceError::Failed { doing: "make a step", problem });
        }
        let flags = (range.start as u64) << 1 | u64::from(*decays);
        table.push(cuda.address_of(gradient)?, range.len(), (range.len().div_ceil(BLOCK), flags));
    }
    let runs = cuda.scratch(table.bytes())?;
    let whole = 0..parameters.room;
    let arguments = [
        cuda.wide(parameters, whole.clone())?,
        cuda.wide(first, whole.clone())?,
        cuda.wide(second, whole.clone())?,
        copy(cuda, parameters, whole)?,
        Argument::Address(cuda.driver.address(&runs)),
        int(table.len()),
        coefficients(&numbers),
    ];
    cuda.enqueue(DENSE, cuda.element, Grid::new(table.blocks(), THREADS), &arguments)
}

pub(super) fn step_rows<D: Driver>(cuda: &Cuda<D>, op: AdamWRows<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let rows: Vec<i32> = op.rows.iter().map(|row| *row as i32).collect();
    let places = cuda.scratch(bytemuck::cast_slice(&rows))?;
    let arguments = [
        cuda.wide_mut(&op.parameters)?,
        cuda.wide_mut(&op.first)?,
        cuda.wide_mut(&op.second)?,
        copy(cuda, op.parameters.buffer, op.parameters.range.clone())?,
        cuda.wide(op.gradient, 0..op.rows.len() * op.width)?,
        coefficients(&op.coefficients),
        Argument::Address(cuda.driver.address(&places)),
        int(op.rows.len()),
        int(op.width),
    ];
    let matrix_rows = op.parameters.range.len() / op.width.max(1);
    cuda.enqueue(ROWS, cuda.element, Grid::new(matrix_rows, THREADS), &arguments)
}

/// Where the half-precision copy of parameters lies; none in `f32`.
fn copy<D: Driver>(
    cuda: &Cuda<D>,
    parameters: &Buffer<D::Memory>,
    range: Range<usize>,
) -> Result<Argument, DeviceError> {
    if parameters.narrow.is_some() { cuda.stored(parameters, range) } else { Ok(Argument::Address(0)) }
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
