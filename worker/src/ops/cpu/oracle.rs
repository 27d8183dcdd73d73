//! What the operations are checked against: the same formulas written plainly in candle, with its automatic gradients.
//!
//! Only primitive candle operations: its fused layer norm and softmax drop their gradients without a word.

use candle_core::{D, Device, Tensor, Var};
use medley_common::example::Example;
use medley_common::identity::{RowId, Update};
use medley_common::model::{Family, ModelConfig};

use crate::batch::{Batch, Labels, Source};
use crate::ops::dropout::{Dropout, Masks, Site};

/// Tokens of row 0, 1, 2 ..
const LENGTHS: [usize; 10] = [5, 17, 1, 40, 2, 33, 3, 24, 8, 64];

pub(in crate::ops) fn config(hidden: u32) -> ModelConfig {
    ModelConfig {
        family: Family::Bert,
        vocab_size: 13,
        hidden_size: hidden,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 70,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.2,
        attention_dropout: 0.3,
        classifier_dropout: 0.25,
        initializer_range: 0.02,
        num_labels: 3,
    }
}

/// Lanes of the rows whose lengths are above.
pub(in crate::ops) fn packed(lanes: &[&[u32]]) -> Batch {
    let examples: Vec<Example> = (0..)
        .zip(LENGTHS)
        .map(|(row, length)| Example {
            tokens: (0..length as u32).map(|token| (token * token + 3 * row) % 13).collect(),
            first_segment: length as u32 / 2 + 1,
            label: Some(row % 3),
        })
        .collect();
    let lanes: Vec<Vec<RowId>> = lanes.iter().map(|lane| lane.iter().map(|row| RowId(*row)).collect()).collect();
    let lanes = (0..).zip(lanes.iter().map(Vec::as_slice));
    Batch::pack(lanes, Source { model: &config(32), examples: &examples, labels: Labels::Required }).unwrap()
}

pub(super) fn dropout(site: Site) -> Dropout {
    Masks::new(&config(32), 42, Update(3)).at(site).unwrap()
}

/// Values around 0 without a pattern, the same for the same `seed`.
pub(in crate::ops) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let hash = |i: u64| medley_common::plan::mix(i ^ medley_common::plan::mix(seed));
    (0..count as u64).map(|i| (hash(i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

pub(super) fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(&values[..shape.iter().product()], shape, &Device::Cpu).unwrap()
}

pub(super) fn variable(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&tensor(values, shape)).unwrap()
}

pub(super) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The gradients of `Σ y dy`.
pub(super) fn gradients<const N: usize>(y: &Tensor, dy: &Tensor, variables: [&Var; N]) -> [Vec<f32>; N] {
    let store = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    variables.map(|variable| flat(store.get(variable.as_tensor()).unwrap()))
}

pub(super) fn layer_norm(z: &Tensor, gamma: &Tensor, beta: &Tensor, epsilon: f64) -> Tensor {
    let centred = z.broadcast_sub(&z.mean_keepdim(D::Minus1).unwrap()).unwrap();
    let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
    let normal = centred.broadcast_div(&(variance + epsilon).unwrap().sqrt().unwrap()).unwrap();
    normal.broadcast_mul(gamma).unwrap().broadcast_add(beta).unwrap()
}

/// The dropout factors of all tokens, `[tokens, width]`.
pub(super) fn token_factors(batch: &Batch, dropout: Dropout, width: usize) -> Vec<f32> {
    let token = |token: usize| {
        let mask = dropout.row(batch.rows[batch.sequences[token] as usize]);
        let first = batch.positions[token] * width as u32;
        (0..width as u32).map(move |column| mask.factor(first + column))
    };
    (0..batch.tokens.len()).flat_map(token).collect()
}

/// The sums over all blocks of what an operation has left for each.
pub(super) fn sum_blocks(partials: &[f32], blocks: usize, width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for block in partials.chunks_exact(width).take(blocks) {
        sum.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
    }
    sum
}

/// `got` and `expected` differ by at most `tolerance` of the largest expected value.
pub(in crate::ops) fn assert_close(name: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= tolerance * scale, "{name}[{i}]: {got}, expected {expected} of {scale}");
    }
}

/// The result of `work` with 1, 2 and 3 threads, which must be the same.
pub(super) fn with_threads<R: PartialEq + Send>(work: impl Fn() -> R + Sync) -> R {
    let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&work);
    let result = run(1);
    assert!((2..4).all(|threads| run(threads) == result), "the number of threads shows");
    result
}
