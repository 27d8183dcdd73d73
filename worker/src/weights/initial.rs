//! New parameters, a pure function of the seed and their names.

use medley_common::model::{Family, ModelConfig};
use medley_common::plan::mix;
use rayon::prelude::*;

use crate::layout::{Layout, Slot};

/// Elements that one task draws.
const BLOCK: usize = 1 << 16;

/// All parameters of a new model, in the order of the layout, as Hugging Face initialises BERT and its like: weights normal
/// with standard deviation `initializer_range`, biases 0, layer norms 1 and 0, the padding's word and position 0.
#[must_use]
pub fn initialise(layout: &Layout, config: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut parameters = vec![0.0; layout.len()];
    for slot in layout.slots() {
        initialise_slot(slot, config, seed, &mut parameters[slot.range.clone()]);
    }
    parameters
}

/// One tensor of a new model; `out` has its elements.
pub(super) fn initialise_slot(slot: &Slot, config: &ModelConfig, seed: u64, out: &mut [f32]) {
    if slot.name.ends_with("LayerNorm.weight") {
        out.fill(1.0);
    } else if slot.name.ends_with(".bias") {
        out.fill(0.0);
    } else {
        normal(stream(seed, &slot.name), config.initializer_range, out);
        if let Some(row) = padding_row(&slot.name, config.family) {
            let width = config.embedding_size() as usize;
            out[row * width..][..width].fill(0.0);
        }
    }
}

/// The row of an embedding that is the padding's; BERT and ELECTRA have one of words alone.
fn padding_row(name: &str, family: Family) -> Option<usize> {
    let padding = match family {
        Family::Roberta { pad_token_id } => pad_token_id as usize,
        Family::Bert | Family::Electra { .. } => 0,
    };
    let has_one = name.ends_with("word_embeddings.weight")
        || (matches!(family, Family::Roberta { .. }) && name.ends_with("position_embeddings.weight"));
    has_one.then_some(padding)
}

/// The stream of random numbers that belongs to one tensor.
fn stream(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mix(seed), |state, byte| mix(state.wrapping_mul(257).wrapping_add(u64::from(byte) + 1)))
}

/// Normal numbers by Box and Muller's method (1958) over SplitMix64 as a counter-based generator: element `i` depends
/// on the stream and on `i` alone.
///
/// The logarithm and the trigonometric functions come from `libm`, not from the system: the same bits on every
/// machine, whatever its C library and processor.
fn normal(stream: u64, deviation: f64, out: &mut [f32]) {
    out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
        for (pair, out) in out.chunks_mut(2).enumerate() {
            let index = (block * BLOCK / 2 + pair) as u64;
            let radius = deviation * libm::sqrt(-2.0 * libm::log(1.0 - uniform(stream, 2 * index)));
            let (sine, cosine) = libm::sincos(std::f64::consts::TAU * uniform(stream, 2 * index + 1));
            for (out, part) in out.iter_mut().zip([cosine, sine]) {
                *out = (radius * part) as f32;
            }
        }
    });
}

/// Uniform in `[0, 1)` with 53 bits.
fn uniform(stream: u64, index: u64) -> f64 {
    (mix(stream.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 11) as f64 * 2f64.powi(-53)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal() {
        let mut out = vec![0.0; 1_000_001];
        normal(stream(7, "bert.pooler.dense.weight"), 0.02, &mut out);
        let count = out.len() as f64;
        let moment = |power: i32| out.iter().map(|value| (f64::from(*value) / 0.02).powi(power)).sum::<f64>() / count;
        assert!(moment(1).abs() < 4e-3, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 6e-3, "{}", moment(2));
        assert!(moment(3).abs() < 2e-2, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 5e-2, "{}", moment(4));
        let beyond = out.iter().filter(|value| value.abs() > 0.02 * 1.96).count() as f64 / count;
        assert!((beyond - 0.05).abs() < 2e-3, "{beyond}");
        let neighbours = out.windows(2).map(|pair| f64::from(pair[0] * pair[1])).sum::<f64>() / count / 4e-4;
        assert!(neighbours.abs() < 4e-3, "{neighbours}");
    }

    /// Golden bits, as Python computes them from the same formula: a change here would give new heads to old seeds.
    #[test]
    fn numbers_depend_on_seed_and_name_alone() {
        let draw = |seed, name: &str, count| {
            let mut out = vec![0.0; count];
            normal(stream(seed, name), 0.02, &mut out);
            out
        };
        let one = draw(42, "classifier.weight", 200_000);
        assert_eq!(one, draw(42, "classifier.weight", 200_000));
        assert_eq!(one[..1000], draw(42, "classifier.weight", 1000));
        assert_ne!(one[..10], draw(43, "classifier.weight", 10));
        assert_ne!(one[..10], draw(42, "classifier.weighu", 10));
        assert_eq!(one[..4].iter().map(|value| value.to_bits()).collect::<Vec<_>>(), GOLDEN);
    }

    const GOLDEN: [u32; 4] = [1_013_771_241, 3_156_030_264, 1_006_487_641, 3_151_509_891];
}
