//! Products, the head, sums and the optimizer against the CPU's: the second half of [`super::kernels_test`].

use medley_common::spec::Precision;

use super::Cuda;
use super::choosy_test::Choosy;
use super::driver::Driver;
use super::drivers_test::{DriverTest, on_each_driver};
use super::kernels_test::{Case, Comparison, LANES, Outputs, Scenario, compare, masks};
use crate::batch::LaneSpan;
use crate::ops::adamw::{AdamW, AdamWRows, Coefficients};
use crate::ops::buffer_pool::BufferPool;
use crate::ops::cpu::Cpu;
use crate::ops::cpu::oracle::{noise, packed};
use crate::ops::dropout::Site;
use crate::ops::head::{CrossEntropy, FirstTokens, FirstTokensBackward, LaneLosses, TanhDropout, TanhDropoutBackward};
use crate::ops::linear::{
    ColumnSum, Linear, LinearGradients, LinearInputGradient, LinearShape, LinearWeightGradient, SharedInputGradient,
    Write,
};
use crate::ops::sgd::{self, Sgd};
use crate::ops::step::{RowGradients, StepRun};
use crate::ops::sum_order::SumOrder;
use crate::ops::{Ops, Slice, SliceMut};

struct Head;

impl Scenario for Head {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (batch, hidden, labels) = (packed(&LANES), 40, 3);
        let (tokens, sequences) = (batch.tokens.len(), batch.rows.len());
        let (ops, pack) = (case.ops, &case.ops.load(batch, &masks()).unwrap());
        let mut firsts = case.activation_room(sequences * hidden);
        let x = &case.activations(tokens * hidden, 1);
        ops.first_tokens(FirstTokens { pack, hidden, x, y: &mut firsts }).unwrap();
        let mut dx = case.taken(tokens * hidden, 2);
        let dy = &case.activations(sequences * hidden, 3);
        ops.first_tokens_backward(FirstTokensBackward { pack, hidden, dy, dx: &mut dx }).unwrap();

        let dropout = case.dropout(Site::Pooled);
        let (mut pooled, mut dropped) = (case.taken(sequences * hidden, 4), case.activation_room(sequences * hidden));
        ops.tanh_dropout(TanhDropout { pack, hidden, dropout, x: &mut pooled, y: &mut dropped }).unwrap();
        let mut gradient = case.taken(sequences * hidden, 5);
        let backward = TanhDropoutBackward { pack, hidden, dropout, x: &pooled, gradient: &mut gradient };
        ops.tanh_dropout_backward(backward).unwrap();

        let logits = &case.wide(sequences * labels, 6);
        let (mut dlogits, mut losses) = (case.activation_room(sequences * labels), case.room(sequences));
        let (lanes, mut by_lane) = (40, case.room(40));
        ops.cross_entropy(CrossEntropy {
            pack,
            labels,
            smoothing: 0.125,
            class_weights: &[],
            gradient_scale: 16.0,
            logits,
            dlogits: &mut dlogits,
            losses: &mut losses,
        })
        .unwrap();
        let sums = SliceMut { buffer: &mut by_lane, range: 0..lanes };
        ops.lane_losses(LaneLosses { pack, lanes: 1..3, losses: &losses, sums }).unwrap();
        vec![
            ("firsts", case.values(&firsts, sequences * hidden)),
            ("dx", case.values(&dx, tokens * hidden)),
            ("pooled", case.values(&pooled, sequences * hidden)),
            ("dropped", case.values(&dropped, sequences * hidden)),
            ("dpooled", case.values(&gradient, sequences * hidden)),
            ("dlogits", case.values(&dlogits, sequences * labels)),
            ("losses", case.values(&losses, sequences)),
            ("losses of lanes", case.values(&by_lane, lanes)),
        ]
    }
}

#[test]
fn the_head_is_the_cpus() {
    compare(Head);
}

struct Products {
    rows: usize,
    outputs: usize,
}

impl Scenario for Products {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (rows, inputs, outputs) = (self.rows, 24, self.outputs);
        let (ops, shape) = (case.ops, LinearShape { rows, inputs, outputs });
        let parameters = case.activations(outputs * inputs + 8, 1);
        let weight = || Slice { buffer: &parameters, range: 8..8 + outputs * inputs };
        let biases = case.wide(outputs, 2);
        let (x, dy) = (&case.activations(rows * inputs, 3), &case.activations(rows * outputs, 4));
        let (mut y, mut with_bias) = (case.activation_room(rows * outputs), case.room(rows * outputs));
        ops.linear(Linear { shape, x, weight: weight(), bias: None, y: &mut y }).unwrap();
        let bias = Some(Slice { buffer: &biases, range: 0..outputs });
        ops.linear(Linear { shape, x, weight: weight(), bias, y: &mut with_bias }).unwrap();
        let mut dx = case.taken(rows * inputs, 5);
        for write in [Write::Add, Write::Set, Write::Add] {
            let input_gradient = LinearInputGradient { shape, dy, weight: weight(), dx: &mut dx, write };
            ops.linear_input_gradient(input_gradient).unwrap();
        }
        let mut shared = case.taken(rows * inputs, 6);
        let (first, dx_of_all) = (outputs / 3, &mut shared);
        ops.shared_input_gradient(SharedInputGradient { shape, first, dy, weight: weight(), dx: dx_of_all }).unwrap();
        let (mut gradient, mut sums) = (case.room(outputs * inputs + 3), case.room(outputs + 3));
        let dweight = SliceMut { buffer: &mut gradient, range: 3..3 + outputs * inputs };
        let span = |tokens| LaneSpan { lane: 0, sequences: 0..0, tokens, blocks: 0..0 };
        let lanes = &[span(0..1), span(1..2), span(2..rows - 1), span(rows - 1..rows)];
        let leaf = SumOrder::leaf;
        let order = &if rows > 3 { leaf(1).plus(leaf(2).plus(leaf(3))) } else { leaf(1) };
        let pool = &mut BufferPool::default();
        ops.linear_weight_gradient(LinearWeightGradient { lanes, order, dy, x, inputs, dweight, pool }).unwrap();
        let sum = SliceMut { buffer: &mut sums, range: 3..3 + outputs };
        ops.column_sum(ColumnSum { rows: 1..rows, x: dy, sum }).unwrap();
        let from = |buffer, count: usize| ops.read(Slice { buffer, range: 3..3 + count }).unwrap();
        vec![
            ("y", case.values(&y, rows * outputs)),
            ("y with bias", case.values(&with_bias, rows * outputs)),
            ("dx", case.values(&dx, rows * inputs)),
            ("dx of several layers", case.values(&shared, rows * inputs)),
            ("dweight", from(&gradient, outputs * inputs)),
            ("column sums", from(&sums, outputs)),
        ]
    }
}

#[test]
fn products_and_sums_over_rows_are_the_cpus() {
    for (rows, outputs) in [(2, 3), (37, 40), (70, 3), (130, 8)] {
        compare(Products { rows, outputs });
    }
}

/// A layer's product with its bias, and the gradients of both, for which a device may need no more than a launch each.
struct Biased {
    rows: usize,
    outputs: usize,
}

impl Scenario for Biased {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (rows, inputs, outputs) = (self.rows, 24, self.outputs);
        let (ops, weights) = (case.ops, inputs * outputs);
        let parameters = case.activations(weights + outputs, 1);
        let part = |range| Slice { buffer: &parameters, range };
        let (x, dy) = (&case.activations(rows * inputs, 2), &case.activations(rows * outputs, 3));
        let mut y = case.activation_room(rows * outputs);
        let (weight, bias) = (part(0..weights), Some(part(weights..weights + outputs)));
        let shape = LinearShape { rows, inputs, outputs };
        ops.linear(Linear { shape, x, weight, bias, y: &mut y }).unwrap();
        let mut partials = case.room(2 * outputs);
        for (i, rows) in [1..4, 4..rows].into_iter().enumerate() {
            let sum = SliceMut { buffer: &mut partials, range: i * outputs..(i + 1) * outputs };
            ops.column_sum(ColumnSum { rows, x: dy, sum }).unwrap();
        }
        let gradients = |partials| {
            let mut both = case.room(8 + weights + outputs);
            let (dweight, dbias) = (8..8 + weights, 8 + weights..8 + weights + outputs);
            let lane = &LaneSpan { lane: 0, sequences: 0..0, tokens: 1..rows, blocks: 0..2 };
            ops.linear_gradients(LinearGradients {
                lane,
                dy,
                x,
                inputs,
                partials,
                gradients: &mut both,
                dweight,
                dbias,
                pool: &mut BufferPool::default(),
            })
            .unwrap();
            ops.read(Slice { buffer: &both, range: 8..8 + weights + outputs }).unwrap()
        };
        vec![
            ("y", case.values(&y, rows * outputs)),
            ("gradients", gradients(None)),
            ("gradients by partial sums", gradients(Some(&partials))),
        ]
    }
}

const BIASED: [(usize, usize); 5] = [(5, 3), (37, 40), (33, 120), (66, 24), (130, 8)];

#[test]
fn layers_with_a_bias_are_the_cpus() {
    for (rows, outputs) in BIASED {
        compare(Biased { rows, outputs });
    }
}

struct Refused;

impl DriverTest for Refused {
    fn run<D: Driver + Clone>(&self, driver: D) {
        for (rows, outputs) in BIASED {
            Comparison(Biased { rows, outputs }).run(Choosy(driver.clone()));
        }
    }
}

/// What a device does not do in one launch with some of the products, it does in launches of its own.
#[test]
fn layers_with_a_bias_are_the_cpus_where_epilogues_are_refused() {
    on_each_driver(&Refused);
}

pub(super) const STEP: Coefficients = Coefficients {
    gradient_scale: 0.25,
    beta1: 0.9,
    one_minus_beta1: 0.1,
    beta2: 0.999,
    one_minus_beta2: 0.001,
    step_size: 0.02,
    root_scale: 1.5,
    epsilon: 1e-3,
    decay_before: 0.01,
    decay_after: 0.02,
};

/// Parameters, moments and the parameters that products read, after a dense step and one of rows.
struct Steps;

impl Scenario for Steps {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (ops, width, count) = (case.ops, 10, 700);
        let mut parameters = ops.upload_parameters(noise(count, 1)).unwrap();
        let mut first = case.wide(count, 2);
        let mut second = ops.upload(noise(count, 3).iter().map(|value| value * value).collect()).unwrap();
        let gradient = case.wide(count, 4);
        let rows: &[u32] = &[0, 3, 4, 29];
        let run = |range: std::ops::Range<usize>, decays| StepRun {
            gradient: Slice { buffer: &gradient, range: range.start - 301..range.end - 301 },
            range,
            decays,
        };
        ops.adamw(AdamW {
            coefficients: STEP,
            parameters: SliceMut { buffer: &mut parameters, range: 0..count },
            first: SliceMut { buffer: &mut first, range: 0..count },
            second: SliceMut { buffer: &mut second, range: 0..count },
            runs: vec![run(301..350, false), run(350..350, true), run(350..650, true), run(690..count, false)],
        })
        .unwrap();
        ops.adamw_rows(AdamWRows {
            coefficients: STEP,
            parameters: SliceMut { buffer: &mut parameters, range: 0..300 },
            first: SliceMut { buffer: &mut first, range: 0..300 },
            second: SliceMut { buffer: &mut second, range: 0..300 },
            gradient: RowGradients { width, rows, values: Slice { buffer: &gradient, range: 0..rows.len() * width } },
        })
        .unwrap();
        let squares = ops
            .square_sum(&[Slice { buffer: &gradient, range: 3..count }, Slice { buffer: &first, range: 0..10 }])
            .unwrap();
        let into = SliceMut { buffer: &mut first, range: 1..count };
        ops.add(into, Slice { buffer: &second, range: 0..count - 1 }).unwrap();
        // A product with one row of ones reads the copy that products read.
        let mut copied = case.room(count / 10);
        let ones = case.stored(vec![1.0; 10]);
        let shape = LinearShape { rows: 1, inputs: 10, outputs: count / 10 };
        let weight = Slice { buffer: &parameters, range: 0..count };
        ops.linear(Linear { shape, x: &ones, weight, bias: None, y: &mut copied }).unwrap();
        vec![
            ("parameters", case.values(&parameters, count)),
            ("second", case.values(&second, count)),
            ("first + second", case.values(&first, count)),
            ("squares", vec![squares as f32]),
            ("copy", case.values(&copied, count / 10)),
        ]
    }
}

#[test]
fn steps_of_the_optimizer_are_the_cpus() {
    compare(Steps);
}

const DESCENT: sgd::Coefficients = sgd::Coefficients {
    gradient_scale: 0.25,
    decay: 0.01,
    momentum: 0.9,
    taken: 0.8,
    direct: 0.7,
    through: 0.6,
    step_size: 0.02,
};

/// The bits of what steps leave where parameters begin `shift` elements, and gradients `gradient_shift`, after a place that
/// four are read at in one access.
fn bits_of_steps<O: Ops>(ops: &O, shift: usize, gradient_shift: usize) -> Vec<Vec<u32>> {
    let (width, count) = (12, 12 * 800);
    let moved = |seed, shift| ops.upload([vec![9.0; shift], noise(count, seed)].concat()).unwrap();
    let mut parameters = ops.upload_parameters([vec![9.0; shift], noise(count, 1)].concat()).unwrap();
    let (mut first, mut second) = (moved(2, shift), ops.upload(vec![0.5; shift + count]).unwrap());
    let (gradient, of_rows) = (moved(4, gradient_shift), moved(5, 0));
    let run = |start: usize, length, decays| StepRun {
        gradient: Slice { buffer: &gradient, range: gradient_shift + start..gradient_shift + start + length },
        range: shift + start..shift + start + length,
        decays,
    };
    let runs = || vec![run(0, 8200, true), run(8203, 2, false), run(8207, 1300, true)];
    let coefficients = STEP;
    let whole = 0..ops.room(&parameters);
    let [of_parameters, of_first, of_second] =
        [&mut parameters, &mut first, &mut second].map(|buffer| SliceMut { buffer, range: whole.clone() });
    ops.adamw(AdamW { coefficients, parameters: of_parameters, first: of_first, second: of_second, runs: runs() })
        .unwrap();
    let range = shift..shift + 30 * width;
    ops.adamw_rows(AdamWRows {
        coefficients: STEP,
        parameters: SliceMut { buffer: &mut parameters, range: range.clone() },
        first: SliceMut { buffer: &mut first, range: range.clone() },
        second: SliceMut { buffer: &mut second, range },
        gradient: RowGradients { width, rows: &[0, 3, 4, 29], values: Slice { buffer: &of_rows, range: 0..4 * width } },
    })
    .unwrap();
    for momentum in [None, Some(&mut second)] {
        let parameters = SliceMut { buffer: &mut parameters, range: whole.clone() };
        let momentum = momentum.map(|buffer| SliceMut { buffer, range: whole.clone() });
        ops.sgd(Sgd { coefficients: DESCENT, parameters, momentum, runs: runs() }).unwrap();
    }
    let squares = ops.square_sum(&[Slice { buffer: &gradient, range: gradient_shift..gradient_shift + 7003 }]).unwrap();
    let read = |buffer| ops.read(Slice { buffer, range: shift..shift + count }).unwrap();
    let values = [read(&parameters), read(&first), read(&second)];
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    let sum = squares.to_bits();
    values.into_iter().map(bits).chain([vec![sum as u32, (sum >> 32) as u32]]).collect()
}

struct Places;

impl DriverTest for Places {
    fn run<D: Driver + Clone>(&self, driver: D) {
        for precision in [Precision::Float32, Precision::Bfloat16] {
            let cuda = Cuda::new(driver.clone(), precision);
            let expected = bits_of_steps(&cuda, 0, 0);
            if precision == Precision::Float32 {
                let mut of_cpu = bits_of_steps(&Cpu, 0, 0);
                // The squares are added in another order there.
                of_cpu.truncate(3);
                assert!(expected[..3] == of_cpu, "a step has other bits than on the CPU");
            }
            for (shift, gradient_shift) in [(1, 1), (0, 1), (2, 2), (3, 1), (3, 3)] {
                assert!(bits_of_steps(&cuda, shift, gradient_shift) == expected, "{shift} {gradient_shift}");
            }
        }
    }
}

/// Four elements are read and written at once where they lie so: that has nothing to do with the result, which is the CPU's.
#[test]
fn an_element_has_the_same_bits_wherever_it_lies() {
    on_each_driver(&Places);
}
