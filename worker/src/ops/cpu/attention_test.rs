use candle_core::{D, Tensor};

use super::*;
use crate::ops::cpu::oracle;
use crate::ops::cpu::oracle::{assert_close, noise};
use crate::ops::dropout::Site;

const SHAPE: HeadShape = HeadShape { heads: 4, head_size: 5 };
const HIDDEN: usize = 20;

fn run(batch: &Batch, dropout: Option<Dropout>, qkv: &Vec<f32>, dcontext: &Vec<f32>) -> [Vec<f32>; 2] {
    let tokens = batch.tokens.len();
    let (mut context, mut stats) = (vec![f32::NAN; tokens * HIDDEN], vec![0.0; tokens * SHAPE.heads * 2 + 3]);
    let mut dqkv = vec![f32::NAN; tokens * 3 * HIDDEN];
    forward(Attention { pack: batch, shape: SHAPE, dropout, qkv, context: &mut context, stats: &mut stats });
    let (shape, stats, dqkv_ref) = (SHAPE, &stats, &mut dqkv);
    backward(AttentionBackward { pack: batch, shape, dropout, qkv, stats, dcontext, dqkv: dqkv_ref });
    [context, dqkv]
}

/// The attention of one sequence, `[tokens, 3 H]` to `[tokens, H]`.
fn plain(qkv: &Tensor, factors: Option<&Tensor>) -> Tensor {
    let tokens = qkv.dim(0).unwrap();
    let parts = qkv.reshape((tokens, 3, SHAPE.heads, SHAPE.head_size)).unwrap().permute((1, 2, 0, 3)).unwrap();
    let [q, k, v] = [0, 1, 2].map(|which| parts.get(which).unwrap().contiguous().unwrap());
    let scores = (q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap() / (SHAPE.head_size as f64).sqrt()).unwrap();
    let mut probabilities = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
    if let Some(factors) = factors {
        probabilities = (probabilities * factors).unwrap();
    }
    probabilities.matmul(&v).unwrap().transpose(0, 1).unwrap().contiguous().unwrap().reshape((tokens, HIDDEN)).unwrap()
}

#[test]
fn values_and_gradients_are_those_of_the_plain_formula() {
    let batch = oracle::packed(&[&[0, 2, 4], &[], &[3, 6]]);
    let tokens = batch.tokens.len();
    let qkv: Vec<f32> = noise(tokens * 3 * HIDDEN, 1).iter().map(|value| value * 3.0).collect();
    let dcontext = noise(tokens * HIDDEN, 2);
    for dropout in [None, Some(oracle::dropout(Site::Attention(1)))] {
        let [context, dqkv] = oracle::with_threads(|| run(&batch, dropout, &qkv, &dcontext));
        for (sequence, row) in batch.rows.iter().enumerate() {
            let range = batch.sequence(sequence);
            let count = range.len();
            let part = |values: &[f32], width: usize| values[range.start * width..range.end * width].to_vec();
            let factors = dropout.map(|dropout| {
                let mask = dropout.row(*row);
                let factors: Vec<f32> = (0..(SHAPE.heads * count * count) as u32).map(|i| mask.factor(i)).collect();
                oracle::tensor(&factors, &[SHAPE.heads, count, count])
            });
            let variable = oracle::variable(&part(&qkv, 3 * HIDDEN), &[count, 3 * HIDDEN]);
            let y = plain(&variable, factors.as_ref());
            assert_close("context", &part(&context, HIDDEN), &oracle::flat(&y), 2e-6);
            let dy = oracle::tensor(&part(&dcontext, HIDDEN), &[count, HIDDEN]);
            let [expected] = oracle::gradients(&y, &dy, [&variable]);
            assert_close("dqkv", &part(&dqkv, 3 * HIDDEN), &expected, 1e-5);
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_whatever_company() {
    let dropout = Some(oracle::dropout(Site::Attention(0)));
    let (alone, together) = (oracle::packed(&[&[3]]), oracle::packed(&[&[9], &[3, 1]]));
    let (qkv, dcontext) = (noise(together.tokens.len() * 3 * HIDDEN, 1), noise(together.tokens.len() * HIDDEN, 2));
    let range = together.sequence(1);
    let part = |values: &[f32], width: usize| values[range.start * width..range.end * width].to_vec();
    let [context, dqkv] = run(&together, dropout, &qkv, &dcontext);
    let one = run(&alone, dropout, &part(&qkv, 3 * HIDDEN), &part(&dcontext, HIDDEN));
    assert!(one == [part(&context, HIDDEN), part(&dqkv, 3 * HIDDEN)]);
}
