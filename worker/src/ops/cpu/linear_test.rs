use std::ops::Range;

use super::*;
use crate::batch::LaneSpan;
use crate::ops::buffer_pool::BufferPool;
use crate::ops::cpu::oracle::{assert_close, noise, with_threads};
use crate::ops::cpu::wide::tests::at_each_width;
use crate::ops::sum_order::SumOrder;
use crate::ops::{Slice, SliceMut};

fn product(shape: LinearShape, x: &Vec<f32>, weight: &Vec<f32>, bias: Option<&Vec<f32>>) -> Vec<f32> {
    let mut y = vec![f32::NAN; shape.rows * shape.outputs];
    let bias = bias.map(|buffer| Slice { buffer, range: 0..shape.outputs });
    let weight = Slice { buffer: weight, range: 0..shape.inputs * shape.outputs };
    forward(Linear { shape, x, weight, bias, y: &mut y });
    y
}

fn back(shape: LinearShape, dy: &Vec<f32>, weight: &Vec<f32>, write: Write) -> Vec<f32> {
    let mut dx = noise(shape.rows * shape.inputs, 9);
    let weight = Slice { buffer: weight, range: 0..shape.inputs * shape.outputs };
    input_gradient(LinearInputGradient { shape, dy, weight, dx: &mut dx, write });
    dx
}

/// `Σ_k a(i, k) b(k, j)` in double precision.
fn plain(sizes: [usize; 3], a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let [rows, inner, columns] = sizes;
    let element = |i: usize, j: usize| (0..inner).map(|k| f64::from(a(i, k)) * f64::from(b(k, j))).sum::<f64>() as f32;
    (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
}

#[test]
fn products_are_those_of_the_formulas() {
    for (rows, inputs, outputs) in [(1, 20, 3), (5, 32, 96), (70, 20, 60), (33, 384, 130)] {
        let shape = LinearShape { rows, inputs, outputs };
        let (x, weight) = (noise(rows * inputs, 1), noise(inputs * outputs, 2));
        let (dy, bias) = (noise(rows * outputs, 3), noise(outputs, 4));
        let y = plain([rows, inputs, outputs], |i, k| x[i * inputs + k], |k, j| weight[j * inputs + k]);
        assert_close("y", &product(shape, &x, &weight, None), &y, 1e-6);
        let biased: Vec<f32> = y.iter().zip(bias.iter().cycle()).map(|(y, bias)| y + bias).collect();
        assert_close("y + bias", &product(shape, &x, &weight, Some(&bias)), &biased, 1e-6);
        let dx = plain([rows, outputs, inputs], |i, k| dy[i * outputs + k], |k, j| weight[k * inputs + j]);
        assert_close("dx", &back(shape, &dy, &weight, Write::Set), &dx, 1e-6);
        let added: Vec<f32> = dx.iter().zip(noise(rows * inputs, 9)).map(|(dx, before)| dx + before).collect();
        assert_close("dx added", &back(shape, &dy, &weight, Write::Add), &added, 1e-6);
        let rows = rows / 3..rows;
        let dw = plain(
            [outputs, rows.len(), inputs],
            |i, k| dy[(rows.start + k) * outputs + i],
            |k, j| x[(rows.start + k) * inputs + j],
        );
        let got = with_threads(|| {
            let mut dweight = vec![f32::NAN; inputs * outputs + 1];
            let slice = SliceMut { buffer: &mut dweight, range: 1..inputs * outputs + 1 };
            let lanes = &[LaneSpan { lane: 0, sequences: 0..0, tokens: rows.clone(), blocks: 0..0 }];
            let (order, pool) = (&SumOrder::leaf(0), &mut BufferPool::default());
            weight_gradient(LinearWeightGradient { lanes, order, dy: &dy, x: &x, inputs, dweight: slice, pool });
            dweight.split_off(1)
        });
        assert_close("dweight", &got, &dw, 1e-6);
    }
}

/// What everything rests on: a row has the same bits whatever the number of rows, and of threads.
#[test]
fn rows_have_the_same_bits_in_whatever_company() {
    const ROWS: usize = 300;
    let counts = || (1..=17).chain([31, 63, 64, 65, 66, 85, 86, 128, 129, 257]);
    for outputs in [1, 2, 3, 20, 32, 64, 65, 96, 384, 1152] {
        for inputs in [1, 2, 3, 20, 32, 65, 384, 1536] {
            let (x, weight) = (noise(ROWS * inputs, 1), noise(inputs * outputs, 2));
            let (dy, bias) = (noise(ROWS * outputs, 3), noise(outputs, 4));
            let shape = |rows| LinearShape { rows, inputs, outputs };
            let y = with_threads(|| product(shape(ROWS), &x, &weight, Some(&bias)));
            let dx = with_threads(|| back(shape(ROWS), &dy, &weight, Write::Set));
            for rows in counts() {
                let first = ROWS - rows;
                let some_x = x[first * inputs..].to_vec();
                let some_dy = dy[first * outputs..].to_vec();
                let some_y = product(shape(rows), &some_x, &weight, Some(&bias));
                assert!(some_y == y[first * outputs..], "forward, {rows} rows of {inputs} -> {outputs}");
                let some_dx = back(shape(rows), &some_dy, &weight, Write::Set);
                assert!(some_dx == dx[first * inputs..], "backward, {rows} rows of {inputs} <- {outputs}");
            }
        }
    }
}

/// Layers of one input that stand side by side are each what it is alone; their input has of them what one after the other adds.
#[test]
fn layers_side_by_side_have_the_bits_of_each_alone() {
    for (rows, inputs, first, outputs) in [(1, 3, 1, 3), (37, 40, 20, 60), (70, 33, 31, 100)] {
        let shape = |outputs| LinearShape { rows, inputs, outputs };
        let (x, weight) = (&noise(rows * inputs, 1), &noise(inputs * outputs, 2));
        let (dy, bias) = (&noise(rows * outputs, 3), &noise(outputs, 4));
        let part = |values: &[f32], layer: &Range<usize>| -> Vec<f32> {
            values.chunks_exact(outputs).flat_map(|row| &row[layer.clone()]).copied().collect()
        };
        let y = product(shape(outputs), x, weight, Some(bias));
        let mut expected = noise(rows * inputs, 9);
        for layer in [0..first, first..outputs] {
            let own = &weight[layer.start * inputs..layer.end * inputs].to_vec();
            let alone = product(shape(layer.len()), x, own, Some(&bias[layer.clone()].to_vec()));
            assert!(part(&y, &layer) == alone, "forward, {layer:?} of {rows} x {inputs}");
            let (dy, weight) = (&part(dy, &layer), Slice { buffer: own, range: 0..own.len() });
            let (shape, dx, write) = (shape(layer.len()), &mut expected, Write::Add);
            input_gradient(LinearInputGradient { shape, dy, weight, dx, write });
        }
        let mut dx = noise(rows * inputs, 9);
        let weight = Slice { buffer: weight, range: 0..inputs * outputs };
        shared_input_gradient(SharedInputGradient { shape: shape(outputs), first, dy, weight, dx: &mut dx });
        assert!(dx == expected, "backward, {rows} x {inputs}");
    }
}

/// Each element is a chain of steps in the order of the inner dimension, whatever the width of vectors, and a sum of lanes
/// the chains of its lanes, added as its order says.
#[test]
fn elements_are_chains_of_products_with_vectors_of_any_width() {
    let chain = |a: &dyn Fn(usize) -> f32, b: &dyn Fn(usize) -> f32, inner: std::ops::Range<usize>| {
        inner.fold(0.0_f32, |sum, k| a(k).mul_add(b(k), sum))
    };
    for (rows, inputs, outputs) in [(1, 1, 1), (13, 40, 33), (31, 7, 70), (52, 130, 31)] {
        let shape = LinearShape { rows, inputs, outputs };
        let (x, weight) = (&noise(rows * inputs, 1), &noise(inputs * outputs, 2));
        let (dy, bias) = (&noise(rows * outputs, 3), &noise(outputs, 4));
        let (third, spans) = (rows / 3, [0, rows / 3, rows / 2, rows / 2, rows]);
        let spans =
            spans.windows(2).map(|ends| LaneSpan { lane: 0, sequences: 0..0, tokens: ends[0]..ends[1], blocks: 0..0 });
        let lanes = &spans.collect::<Vec<_>>();
        let order = &SumOrder::leaf(0).plus(SumOrder::leaf(1).plus(SumOrder::leaf(3)));
        for (width, (y, dx, dweight)) in at_each_width(|| {
            let mut dweight = vec![f32::NAN; inputs * outputs];
            let (slice, pool) =
                (SliceMut { buffer: &mut dweight, range: 0..inputs * outputs }, &mut BufferPool::default());
            weight_gradient(LinearWeightGradient { lanes, order, dy, x, inputs, dweight: slice, pool });
            (product(shape, x, weight, Some(bias)), back(shape, dy, weight, Write::Add), dweight)
        }) {
            let before = noise(rows * inputs, 9);
            for (row, column) in (0..rows).flat_map(|row| (0..outputs).map(move |column| (row, column))) {
                let sum = chain(&|k| x[row * inputs + k], &|k| weight[column * inputs + k], 0..inputs);
                assert_eq!(y[row * outputs + column], bias[column] + sum, "y, {width:?}, {shape:?}");
            }
            for (row, column) in (0..rows).flat_map(|row| (0..inputs).map(move |column| (row, column))) {
                let sum = chain(&|k| dy[row * outputs + k], &|k| weight[k * inputs + column], 0..outputs);
                assert_eq!(dx[row * inputs + column], before[row * inputs + column] + sum, "dx, {width:?}, {shape:?}");
            }
            for (row, column) in (0..outputs).flat_map(|row| (0..inputs).map(move |column| (row, column))) {
                let sum = |tokens| chain(&|k| dy[k * outputs + row], &|k| x[k * inputs + column], tokens);
                let expected = sum(0..third) + (sum(third..rows / 2) + sum(rows / 2..rows));
                assert_eq!(dweight[row * inputs + column], expected, "dweight, {width:?}, {shape:?}");
            }
        }
    }
}

/// Lanes in any order, with gaps between them, long ones and none at all, over several pieces of a panel.
#[test]
fn sums_of_lanes_are_added_in_their_order_with_vectors_of_any_width() {
    const CUTS: [(usize, usize); 7] =
        [(1300, 2450), (0, 40), (40, 41), (60, 1290), (2460, 2470), (2470, 2470), (2480, 2500)];
    let (rows, inputs, outputs) = (2500, 5, 130);
    let (x, dy) = (&noise(rows * inputs, 1), &noise(rows * outputs, 2));
    let lanes = &CUTS.map(|(start, end)| LaneSpan { lane: 0, sequences: 0..0, tokens: start..end, blocks: 0..0 });
    let leaf = SumOrder::leaf;
    let order = &leaf(6).plus(leaf(1)).plus(leaf(3)).plus(leaf(0).plus(leaf(5)).plus(leaf(2).plus(leaf(4))));
    let found = at_each_width(|| {
        with_threads(|| {
            let mut dweight = vec![f32::NAN; inputs * outputs];
            let (slice, pool) =
                (SliceMut { buffer: &mut dweight, range: 0..inputs * outputs }, &mut BufferPool::default());
            weight_gradient(LinearWeightGradient { lanes, order, dy, x, inputs, dweight: slice, pool });
            dweight
        })
    });
    for (width, dweight) in found {
        for (place, found) in dweight.iter().enumerate() {
            let (row, column) = (place / inputs, place % inputs);
            let sum = |lane: usize| {
                let tokens = CUTS[lane].0..CUTS[lane].1;
                tokens.fold(0.0_f32, |sum, k| dy[k * outputs + row].mul_add(x[k * inputs + column], sum))
            };
            let expected = ((sum(6) + sum(1)) + sum(3)) + ((sum(0) + sum(5)) + (sum(2) + sum(4)));
            assert_eq!(*found, expected, "{width:?}, row {row}, column {column}");
        }
    }
}

/// What no model has, and what would be no reason to panic.
#[test]
fn products_of_nothing_are_the_bias() {
    let shape = LinearShape { rows: 3, inputs: 0, outputs: 40 };
    let bias = noise(40, 1);
    assert_eq!(product(shape, &Vec::new(), &Vec::new(), Some(&bias)), bias.repeat(3));
    let shape = LinearShape { rows: 0, inputs: 7, outputs: 40 };
    assert_eq!(product(shape, &Vec::new(), &noise(280, 2), Some(&bias)), [0.0_f32; 0]);
}
