use super::*;
use crate::ops::Slice;
use crate::ops::cpu::oracle;
use crate::ops::cpu::oracle::{assert_close, noise};
use crate::ops::dropout::Site;

struct Run {
    z: Vec<f32>,
    y: Vec<f32>,
    dz: Vec<f32>,
    du: Vec<f32>,
    partials: Vec<f32>,
}

struct Inputs {
    u: Vec<f32>,
    residual: Vec<f32>,
    bias: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    dy: Vec<f32>,
}

fn inputs(tokens: usize, width: usize) -> Inputs {
    Inputs {
        u: noise(tokens * width, 1),
        residual: noise(tokens * width, 2),
        bias: noise(width, 3),
        gamma: noise(width, 4),
        beta: noise(width, 5),
        dy: noise(tokens * width, 6),
    }
}

fn run(batch: &Batch, width: usize, dropout: Option<Dropout>, inputs: &Inputs) -> Run {
    let elements = batch.tokens.len() * width;
    let whole = |buffer| Slice { buffer, range: 0..width };
    let (mut z, mut y, mut stats) = (inputs.u.clone(), vec![0.0; elements], vec![0.0; batch.tokens.len() * 2]);
    forward(ResidualNorm {
        pack: batch,
        dropout,
        bias: whole(&inputs.bias),
        residual: &inputs.residual,
        norm: Norm { gamma: whole(&inputs.gamma), beta: whole(&inputs.beta), epsilon: 1e-12 },
        z: &mut z,
        stats: &mut stats,
        y: &mut y,
    });
    let (mut dz, mut du) = (vec![0.0; elements], vec![0.0; elements]);
    let mut partials = vec![f32::NAN; batch.blocks.len() * 3 * width];
    backward(ResidualNormBackward {
        pack: batch,
        dropout,
        dy: &inputs.dy,
        z: &z,
        stats: &stats,
        gamma: whole(&inputs.gamma),
        dz: &mut dz,
        du: &mut du,
        partials: &mut partials,
    });
    Run { z, y, dz, du, partials }
}

#[test]
fn values_and_gradients_are_those_of_the_plain_formula() {
    let batch = oracle::packed(&[&[0, 5], &[], &[3]]);
    let tokens = batch.tokens.len();
    for (width, dropout) in [
        (20, None),
        (32, Some(oracle::dropout(Site::AttentionOutput(2)))),
        (20, Some(oracle::dropout(Site::AttentionOutput(2)))),
    ] {
        let inputs = inputs(tokens, width);
        let got = run(&batch, width, dropout, &inputs);
        let factors =
            dropout.map_or(vec![1.0; tokens * width], |dropout| oracle::token_factors(&batch, dropout, width));
        let shape = [tokens, width];
        let [u, residual] = [&inputs.u, &inputs.residual].map(|values| oracle::variable(values, &shape));
        let [bias, gamma, beta] =
            [&inputs.bias, &inputs.gamma, &inputs.beta].map(|values| oracle::variable(values, &[width]));
        let dropped = (u.broadcast_add(&bias).unwrap() * oracle::tensor(&factors, &shape)).unwrap();
        let z = (dropped + residual.as_tensor()).unwrap();
        let y = oracle::layer_norm(&z, &gamma, &beta, 1e-12);
        assert_close("z", &got.z, &oracle::flat(&z), 1e-6);
        assert_close("y", &got.y, &oracle::flat(&y), 2e-6);
        let dy = oracle::tensor(&inputs.dy, &shape);
        let [du, dresidual, dbias, dgamma, dbeta] = oracle::gradients(&y, &dy, [&u, &residual, &bias, &gamma, &beta]);
        assert_close("du", &got.du, &du, 1e-5);
        assert_close("dz", &got.dz, &dresidual, 1e-5);
        let sums = oracle::sum_blocks(&got.partials, batch.blocks.len(), 3 * width);
        assert_close("bias, gamma, beta", &sums, &[dbias, dgamma, dbeta].concat(), 1e-5);
    }
}

#[test]
fn a_constant_row_gives_numbers() {
    let batch = oracle::packed(&[&[2]]);
    let width = 20;
    let mut inputs = inputs(1, width);
    inputs.bias.fill(0.1);
    inputs.u.fill(0.3);
    inputs.residual.fill(1e4);
    let run = run(&batch, width, None, &inputs);
    assert!(run.y.iter().chain(&run.dz).chain(&run.partials).all(|value| value.is_finite()), "{:?}", run.y);
}

#[test]
fn a_lane_has_the_same_bits_in_whatever_company() {
    let width = 20;
    let dropout = Some(oracle::dropout(Site::FeedForwardOutput(0)));
    let (alone, together) = (oracle::packed(&[&[3, 1]]), oracle::packed(&[&[5], &[3, 1], &[7]]));
    let span = &together.lanes[1];
    let (tokens, blocks) = (span.tokens.start * width..span.tokens.end * width, span.blocks.clone());
    let all = inputs(together.tokens.len(), width);
    let part = |values: &Vec<f32>| values[tokens.clone()].to_vec();
    let some = Inputs {
        u: part(&all.u),
        residual: part(&all.residual),
        dy: part(&all.dy),
        bias: all.bias.clone(),
        gamma: all.gamma.clone(),
        beta: all.beta.clone(),
    };
    let (one, all) = oracle::with_threads(|| {
        let (one, all) = (run(&alone, width, dropout, &some), run(&together, width, dropout, &all));
        ([one.y, one.dz, one.partials], [all.y, all.dz, all.partials])
    });
    assert!(one[0] == all[0][tokens.clone()] && one[1] == all[1][tokens]);
    assert!(one[2] == all[2][blocks.start * 3 * width..blocks.end * 3 * width]);
}
