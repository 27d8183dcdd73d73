//! Products with weight matrices.

use std::borrow::Cow;

use super::matrix::{Matrix, MatrixMut, Product, Threads};
use super::{Cpu, in_chunks, rows_per_task};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, LinearWeightGradient, Write};

pub(super) fn forward(op: Linear<'_, Cpu>) {
    let LinearShape { rows, inputs, outputs } = op.shape;
    let y = &mut op.y[..rows * outputs];
    let mut write = Write::Set;
    if let Some(bias) = op.bias {
        let bias = bias.values();
        in_chunks(y, rows_per_task(rows) * outputs, |_, y| {
            y.chunks_exact_mut(outputs).for_each(|y| y.copy_from_slice(bias));
        });
        write = Write::Add;
    }
    let weight = Matrix::new(op.weight.values(), outputs, inputs).transposed();
    by_rows(&op.x[..rows * inputs], weight, y, RowProduct { rows, inner: inputs, columns: outputs, write });
}

pub(super) fn input_gradient(op: LinearInputGradient<'_, Cpu>) {
    let LinearShape { rows, inputs, outputs } = op.shape;
    let weight = Matrix::new(op.weight.values(), outputs, inputs);
    let shape = RowProduct { rows, inner: outputs, columns: inputs, write: op.write };
    by_rows(&op.dy[..rows * outputs], weight, &mut op.dx[..rows * inputs], shape);
}

pub(super) fn weight_gradient(op: LinearWeightGradient<'_, Cpu>) {
    let (rows, inputs) = (op.rows, op.inputs);
    let dweight = op.dweight.into_values();
    let outputs = dweight.len() / inputs;
    let dy = Matrix::new(&op.dy[rows.start * outputs..rows.end * outputs], rows.len(), outputs);
    let x = Matrix::new(&op.x[rows.start * inputs..rows.end * inputs], rows.len(), inputs);
    let c = MatrixMut::new(dweight, outputs, inputs);
    Product { a: dy.transposed(), b: x, c, scale: 1.0, write: Write::Set, threads: Threads::All }.compute();
}

#[derive(Clone, Copy)]
struct RowProduct {
    rows: usize,
    inner: usize,
    columns: usize,
    write: Write,
}

/// The fewest rows from which on `gemm` 0.19 computes every row alike.
///
/// It has other ways for one row, for at most 256 elements of a result, and for at most 64 rows and 64 columns, and
/// with them the bits change. Beyond that a row's bits do not depend on the number of rows.
fn least_rows(columns: usize) -> usize {
    if columns > 64 { 4 } else { 65.max(257_usize.div_ceil(columns.max(1))) }
}

/// `c (+)= a b`, where a row of `c` has the same bits whatever the number of rows.
fn by_rows(a: &[f32], b: Matrix<'_>, c: &mut [f32], shape: RowProduct) {
    let RowProduct { rows, inner, columns, write } = shape;
    if rows == 0 {
        return;
    }
    let computed = rows.max(least_rows(columns));
    let mut padded_c = (computed > rows).then(|| padded(c, computed * columns));
    let padded_a = if computed > rows { Cow::Owned(padded(a, computed * inner)) } else { Cow::Borrowed(a) };
    Product {
        a: Matrix::new(&padded_a, computed, inner),
        b,
        c: MatrixMut::new(padded_c.as_deref_mut().unwrap_or(c), computed, columns),
        scale: 1.0,
        write,
        threads: Threads::All,
    }
    .compute();
    if let Some(padded_c) = padded_c {
        c.copy_from_slice(&padded_c[..rows * columns]);
    }
}

fn padded(values: &[f32], length: usize) -> Vec<f32> {
    let mut longer = values.to_vec();
    longer.resize(length, 0.0);
    longer
}

#[cfg(test)]
#[path = "linear_test.rs"]
mod tests;
