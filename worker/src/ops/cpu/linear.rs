//! Products with weight matrices.

use super::Cpu;
use super::matrix::{Matrix, MatrixMut};
use super::product::{Onto, Product, Threads};
use super::summed_product::SummedProduct;
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, LinearWeightGradient, SharedInputGradient, Write};

pub(super) fn forward(op: Linear<'_, Cpu>) {
    let LinearShape { rows, inputs, outputs } = op.shape;
    let a = Matrix::new(&op.x[..rows * inputs], rows, inputs);
    let b = Matrix::new(op.weight.values(), outputs, inputs).transposed();
    let c = MatrixMut::new(&mut op.y[..rows * outputs], rows, outputs);
    let onto = op.bias.map_or(Onto::Nothing, |bias| Onto::Row(bias.values()));
    Product { a, b, c, scale: 1.0, onto, threads: Threads::All }.compute();
}

pub(super) fn input_gradient(op: LinearInputGradient<'_, Cpu>) {
    let LinearShape { rows, inputs, outputs } = op.shape;
    let a = Matrix::new(&op.dy[..rows * outputs], rows, outputs);
    let b = Matrix::new(op.weight.values(), outputs, inputs);
    let c = MatrixMut::new(&mut op.dx[..rows * inputs], rows, inputs);
    let onto = match op.write {
        Write::Set => Onto::Nothing,
        Write::Add => Onto::Target,
    };
    Product { a, b, c, scale: 1.0, onto, threads: Threads::All }.compute();
}

/// One layer's after the other's: what is there is rounded twice.
pub(super) fn shared_input_gradient(op: SharedInputGradient<'_, Cpu>) {
    let LinearShape { rows, inputs, outputs } = op.shape;
    let (dy, weight) = (&op.dy[..rows * outputs], op.weight.values());
    for layer in [0..op.first, op.first..outputs] {
        let a = Matrix::strided(dy.get(layer.start..).unwrap_or_default(), rows, layer.len(), outputs);
        let b = Matrix::new(&weight[layer.start * inputs..], layer.len(), inputs);
        let c = MatrixMut::new(&mut op.dx[..rows * inputs], rows, inputs);
        Product { a, b, c, scale: 1.0, onto: Onto::Target, threads: Threads::All }.compute();
    }
}

pub(super) fn weight_gradient(op: LinearWeightGradient<'_, Cpu>) {
    let LinearWeightGradient { lanes, order, dy, x, inputs, dweight, .. } = op;
    let dweight = dweight.into_values();
    let outputs = dweight.len() / inputs.max(1);
    let summed = || order.leaves().map(|lane| &lanes[lane].tokens);
    let first = summed().map(|tokens| tokens.start).min().unwrap_or(0);
    let rows = summed().map(|tokens| tokens.end).max().unwrap_or(first) - first;
    let a = Matrix::new(&dy[first * outputs..][..rows * outputs], rows, outputs).transposed();
    let b = Matrix::new(&x[first * inputs..][..rows * inputs], rows, inputs);
    let c = MatrixMut::new(dweight, outputs, inputs);
    let part = |lane: usize| lanes[lane].tokens.start - first..lanes[lane].tokens.end - first;
    SummedProduct { a, b, c, order, part: &part }.compute();
}

#[cfg(test)]
#[path = "linear_test.rs"]
mod tests;
