//! Products with weight matrices, and launches of `linear.cu`.
//!
//! BLAS counts by columns: a row-major matrix is its transpose there, so `y = x weightᵀ` is computed as
//! `yᵀ = weight xᵀ`, the bias's elements go along its rows, and the bias's gradient is the sum of `dy`, the second matrix of
//! `dweightᵀ = xᵀ dy`, over the inner dimension. Where the device does neither with the product, a kernel does.

use std::ops::Range;

use super::driver::{Driver, Epilogue, Grid, Kernel, Matrix, Product};
use super::{Buffer, Cuda, int};
use crate::ops::linear::{
    ColumnSum, Linear, LinearGradients, LinearInputGradient, LinearShape, LinearWeightGradient, SharedInputGradient,
    Write,
};
use crate::ops::{DeviceError, Slice};

const BIAS_ROWS: Kernel = Kernel { module: "linear", name: "bias_rows" };
const COLUMN_SUM: Kernel = Kernel { module: "linear", name: "column_sum" };

const WARP: usize = 32;
/// Rows that are added at the same time, by a warp each.
const WARPS: usize = 16;

pub(super) fn forward<D: Driver>(cuda: &Cuda<D>, op: Linear<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let LinearShape { rows, inputs, outputs } = op.shape;
    let weight = matrix(cuda, op.weight.buffer, op.weight.range.clone(), inputs)?;
    let mut product = Product {
        size: [outputs, rows, inputs],
        a: Matrix { transposed: true, ..weight },
        b: matrix(cuda, op.x, 0..rows * inputs, inputs)?,
        c: matrix(cuda, op.y, 0..rows * outputs, outputs)?,
        add: false,
        epilogue: None,
    };
    if let Some(bias) = &op.bias {
        product.epilogue = cuda.stored_as(bias, outputs, product.c.element)?.map(Epilogue::Bias);
        if fused(cuda, &product)? {
            return Ok(());
        }
        let arguments = [cuda.wide_run(bias)?, cuda.stored(op.y, 0..rows * outputs)?, int(outputs)];
        cuda.enqueue(BIAS_ROWS, product.c.element, Grid::new(rows, 256), &arguments)?;
        (product.add, product.epilogue) = (true, None);
    }
    compute(cuda, &product)
}

pub(super) fn input_gradient<D: Driver>(
    cuda: &Cuda<D>,
    op: LinearInputGradient<'_, Cuda<D>>,
) -> Result<(), DeviceError> {
    let LinearShape { rows, inputs, outputs } = op.shape;
    compute(
        cuda,
        &Product {
            size: [inputs, rows, outputs],
            a: matrix(cuda, op.weight.buffer, op.weight.range.clone(), inputs)?,
            b: matrix(cuda, op.dy, 0..rows * outputs, outputs)?,
            c: matrix(cuda, op.dx, 0..rows * inputs, inputs)?,
            add: op.write == Write::Add,
            epilogue: None,
        },
    )
}

/// One sum in `f32` over the outputs of all layers, rounded once: to the device they are one layer.
pub(super) fn shared_input_gradient<D: Driver>(
    cuda: &Cuda<D>,
    op: SharedInputGradient<'_, Cuda<D>>,
) -> Result<(), DeviceError> {
    let SharedInputGradient { shape, dy, weight, dx, .. } = op;
    input_gradient(cuda, LinearInputGradient { shape, dy, weight, dx, write: Write::Add })
}

pub(super) fn weight_gradient<D: Driver>(
    cuda: &Cuda<D>,
    op: LinearWeightGradient<'_, Cuda<D>>,
) -> Result<(), DeviceError> {
    let LinearWeightGradient { lanes, order, dy, x, inputs, dweight, pool } = op;
    let outputs = dweight.range.len() / inputs.max(1);
    order.run(cuda, pool, dweight, &mut |lane, dweight| {
        let dweight = matrix(cuda, dweight.buffer, dweight.range.clone(), inputs)?;
        compute(cuda, &weight_product(cuda, lanes[lane].tokens.clone(), (dy, outputs), (x, inputs), dweight)?)
    })
}

pub(super) fn gradients<D: Driver>(cuda: &Cuda<D>, op: LinearGradients<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let dweight = matrix(cuda, op.gradients, op.dweight.clone(), op.inputs)?;
    let outputs = op.dweight.len() / op.inputs.max(1);
    let rows = op.lane.tokens.clone();
    let mut product = weight_product(cuda, rows, (op.dy, outputs), (op.x, op.inputs), dweight)?;
    let dbias = Slice { buffer: &*op.gradients, range: op.dbias.clone() };
    product.epilogue = cuda.stored_as(&dbias, outputs, dweight.element)?.map(Epilogue::BiasGradient);
    if fused(cuda, &product)? { Ok(()) } else { op.apart(cuda) }
}

/// `dweightᵀ = xᵀ dy`, of matrices and their columns.
fn weight_product<D: Driver>(
    cuda: &Cuda<D>,
    rows: Range<usize>,
    (dy, outputs): (&Buffer<D::Memory>, usize),
    (x, inputs): (&Buffer<D::Memory>, usize),
    dweight: Matrix,
) -> Result<Product, DeviceError> {
    let dy = matrix(cuda, dy, rows.start * outputs..rows.end * outputs, outputs)?;
    Ok(Product {
        size: [inputs, outputs, rows.len()],
        a: matrix(cuda, x, rows.start * inputs..rows.end * inputs, inputs)?,
        b: Matrix { transposed: true, ..dy },
        c: dweight,
        add: false,
        epilogue: None,
    })
}

pub(super) fn column_sum<D: Driver>(cuda: &Cuda<D>, op: ColumnSum<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (width, rows) = (op.sum.range.len(), op.rows);
    let x = cuda.stored(op.x, rows.start * width..rows.end * width)?;
    let arguments = [x, cuda.wide_mut(&op.sum)?, int(rows.len()), int(width)];
    let shared_bytes = WARPS * WARP * size_of::<f32>();
    let grid = Grid { blocks: [width.div_ceil(WARP), 1], threads: WARPS * WARP, shared_bytes };
    cuda.enqueue(COLUMN_SUM, cuda.element_of(op.x), grid, &arguments)
}

/// A row-major matrix with rows of `leading` elements, as BLAS sees it: its transpose.
fn matrix<D: Driver>(
    cuda: &Cuda<D>,
    buffer: &Buffer<D::Memory>,
    range: Range<usize>,
    leading: usize,
) -> Result<Matrix, DeviceError> {
    let address = cuda.stored_at(buffer, range)?;
    Ok(Matrix { address, leading, transposed: false, element: cuda.element_of(buffer) })
}

/// Computes a product with its epilogue; false, and nothing is done, where it has none, or the device has not.
fn fused<D: Driver>(cuda: &Cuda<D>, product: &Product) -> Result<bool, DeviceError> {
    if product.epilogue.is_none() || product.size.contains(&0) {
        return Ok(false);
    }
    enqueue(cuda, product)
}

/// Computes a product without an epilogue, which every device can.
fn compute<D: Driver>(cuda: &Cuda<D>, product: &Product) -> Result<(), DeviceError> {
    if !product.size.contains(&0) {
        enqueue(cuda, product)?;
    }
    Ok(())
}

fn enqueue<D: Driver>(cuda: &Cuda<D>, product: &Product) -> Result<bool, DeviceError> {
    // SAFETY: the matrices are the elements of buffers that the operation has borrowed, checked to lie inside, and memory
    // is freed in the stream's order.
    unsafe { cuda.driver.product(product) }
}
