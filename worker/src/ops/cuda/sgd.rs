//! Launches of `sgd.cu`.

use super::driver::{Argument, Driver, Grid, Kernel};
use super::step::{StepPlaces, THREADS};
use super::{Buffer, Cuda, int};
use crate::ops::sgd::{Coefficients, Sgd, SgdRows};
use crate::ops::{DeviceError, SliceMut};

const DENSE: Kernel = Kernel { module: "sgd", name: "sgd" };
const ROWS: Kernel = Kernel { module: "sgd", name: "sgd_rows" };

pub(super) fn step<D: Driver>(cuda: &Cuda<D>, op: Sgd<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let Sgd { coefficients, parameters, momentum, runs } = op;
    let moved: Vec<_> = std::iter::once(&parameters).chain(&momentum).map(SliceMut::as_slice).collect();
    cuda.step_beside(DENSE, &moved, &runs, |StepPlaces { buffers, copy, runs }| {
        // Without momentum there is none to point to.
        let momentum = buffers.get(1).copied().unwrap_or(Argument::Address(0));
        [&[buffers[0], momentum, copy][..], &runs, &numbers(&coefficients)].concat()
    })
}

pub(super) fn step_rows<D: Driver>(cuda: &Cuda<D>, op: SgdRows<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let SgdRows { coefficients, parameters, momentum, gradient } = op;
    let (rows, width) = (gradient.rows.len(), gradient.width);
    let places = cuda.step_rows(gradient.rows)?;
    let gradient_at =
        [cuda.wide_run(&gradient.values)?, Argument::Address(cuda.driver.address(&places)), int(rows), int(width)];
    let arguments = [&state(cuda, &parameters, momentum)?[..], &gradient_at, &numbers(&coefficients)].concat();
    let matrix_rows = parameters.range.len() / width.max(1);
    cuda.enqueue(ROWS, cuda.element, Grid::new(matrix_rows, THREADS), &arguments)
}

/// Parameters, momentum and the half-precision copy; of the latter two, there may be none.
fn state<D: Driver>(
    cuda: &Cuda<D>,
    parameters: &SliceMut<'_, Buffer<D::Memory>>,
    momentum: Option<SliceMut<'_, Buffer<D::Memory>>>,
) -> Result<[Argument; 3], DeviceError> {
    let momentum = momentum.map_or(Ok(Argument::Address(0)), |momentum| cuda.wide_mut(&momentum))?;
    Ok([cuda.wide_mut(parameters)?, momentum, cuda.copy_of(parameters)?])
}

fn numbers(c: &Coefficients) -> [Argument; 7] {
    [c.gradient_scale, c.decay, c.momentum, c.taken, c.direct, c.through, c.step_size].map(Argument::Float)
}
