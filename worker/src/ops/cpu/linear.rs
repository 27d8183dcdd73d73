//! Products with weight matrices.

use std::ops::Range;

use super::Cpu;
use super::matrix::{Matrix, MatrixMut};
use super::product::{Onto, Product, Step, SummedProduct, Threads};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, LinearWeightGradient, Write};
use crate::ops::sum_order::SumStep;

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

pub(super) fn weight_gradient(op: LinearWeightGradient<'_, Cpu>) {
    let LinearWeightGradient { lanes, order, dy, x, inputs, dweight, .. } = op;
    let dweight = dweight.into_values();
    let outputs = dweight.len() / inputs;
    let summed = || order.leaves().map(|lane| &lanes[lane].tokens);
    let first = summed().map(|tokens| tokens.start).min().unwrap_or(0);
    let rows = summed().map(|tokens| tokens.end).max().unwrap_or(first) - first;
    let a = Matrix::new(&dy[first * outputs..][..rows * outputs], rows, outputs).transposed();
    let b = Matrix::new(&x[first * inputs..][..rows * inputs], rows, inputs);
    let c = MatrixMut::new(dweight, outputs, inputs);
    let steps = order.steps().iter().map(|step| match *step {
        SumStep::Leaf { leaf, slot, write } => {
            let Range { start, end } = lanes[leaf].tokens;
            Step::Part { part: start - first..end - first, slot, write }
        }
        SumStep::Add { slot } => Step::Add { slot },
    });
    SummedProduct { a, b, c, steps: &steps.collect::<Vec<_>>(), slots: order.slots() }.compute();
}

#[cfg(test)]
#[path = "linear_test.rs"]
mod tests;
