//! Every kernel, launched as on a GPU, against the CPU's operation of the same name.
//!
//! Both compute the same pass of random numbers, forward and backward. In half precision the CPU is given the same
//! rounded inputs, so that what remains is the rounding of results.

use medley_common::identity::{RowId, Update};
use medley_common::spec::Precision;

use super::Cuda;
use super::driver::Driver;
use super::drivers_test::{DriverTest, checked, distance, is_tf32, on_each_driver};
use crate::batch::Batch;
use crate::ops::cpu::Cpu;
use crate::ops::cpu::oracle::{assert_close, config, noise, packed};
use crate::ops::dropout::{Masks, Site};
use crate::ops::embedding::{Embedding, EmbeddingBackward, PositionGradient, WordGradient};
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};
use crate::ops::head::FirstTokens;
use crate::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};
use crate::ops::{Ops, Slice, SliceMut};

pub(super) const LANES: [&[u32]; 3] = [&[0, 3, 2], &[], &[5, 1, 9, 7]];
/// One group of lanes of a warp, and more than one.
const WIDTHS: [usize; 3] = [32, 136, 264];

/// A device under test: what it computes with, and its buffers.
pub(super) struct Case<'a, O: Ops> {
    pub(super) ops: &'a O,
    precision: Precision,
    /// Whether the pass has dropout.
    drops: bool,
}

impl<O: Ops> Case<'_, O> {
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        let round = |value: &f32| match self.precision {
            Precision::Float32 | Precision::Tf32 => *value,
            Precision::Bfloat16 => half::bf16::from_f32(*value).to_f32(),
            Precision::Float16 => half::f16::from_f32(*value).to_f32(),
        };
        values.iter().map(round).collect()
    }

    /// Noise in `f32`.
    pub(super) fn wide(&self, count: usize, seed: u64) -> O::Buffer {
        self.ops.upload(noise(count, seed)).unwrap()
    }

    /// Noise as activations are kept.
    pub(super) fn activations(&self, count: usize, seed: u64) -> O::Buffer {
        self.stored(self.rounded(&noise(count, seed)))
    }

    /// Values in both precisions: operations take the one that they compute with.
    pub(super) fn stored(&self, values: Vec<f32>) -> O::Buffer {
        self.ops.upload_parameters(values).unwrap()
    }

    pub(super) fn room(&self, count: usize) -> O::Buffer {
        let mut buffer = O::Buffer::default();
        self.ops.grow(&mut buffer, count).unwrap();
        buffer
    }

    pub(super) fn activation_room(&self, count: usize) -> O::Buffer {
        let mut buffer = O::Buffer::default();
        self.ops.grow_activations(&mut buffer, count).unwrap();
        buffer
    }

    /// Noise in a buffer of activations alone.
    pub(super) fn taken(&self, count: usize, seed: u64) -> O::Buffer {
        let mut buffer = self.activation_room(count);
        // The first tokens of sequences of one token are all tokens: a copy.
        let pack = self.ops.load(singles(count / 8), &masks()).unwrap();
        let x = &self.activations(count, seed);
        self.ops.first_tokens(FirstTokens { pack: &pack, hidden: 8, x, y: &mut buffer }).unwrap();
        buffer
    }

    pub(super) fn values(&self, buffer: &O::Buffer, count: usize) -> Vec<f32> {
        self.ops.read(Slice { buffer, range: 0..count }).unwrap()
    }

    pub(super) fn dropout(&self, site: Site) -> Option<crate::ops::dropout::Dropout> {
        if self.drops { masks().at(site) } else { None }
    }
}

/// The masks of all tests.
pub(super) fn masks() -> Masks {
    Masks::new(&config(32), 42, Update(3))
}

/// `rows` sequences of one token.
fn singles(rows: usize) -> Batch {
    Batch {
        rows: vec![RowId(0); rows],
        offsets: (0..=rows).collect(),
        tokens: vec![0; rows],
        positions: vec![0; rows],
        segments: vec![0; rows],
        sequences: (0..rows as u32).collect(),
        labels: vec![None; rows],
        ..Batch::default()
    }
}

/// What an operation has written, by name.
pub(super) type Outputs = Vec<(&'static str, Vec<f32>)>;

/// Computes `scenario` on the CPU and by the kernels, in every precision, with and without dropout.
pub(super) fn compare(scenario: impl Scenario) {
    on_each_driver(&Comparison(scenario));
}

pub(super) struct Comparison<S>(pub(super) S);

impl<S: Scenario> DriverTest for Comparison<S> {
    fn run<D: Driver + Clone>(&self, driver: D) {
        // With TF32, factors of products have the fraction of float16.
        let rounded: &[(Precision, f32)] = &[(Precision::Tf32, 4e-3)];
        let all: &[_] = &[(Precision::Float32, 1e-5), (Precision::Float16, 4e-3), (Precision::Bfloat16, 2e-2)];
        for &(precision, tolerance) in if is_tf32() { rounded } else { all } {
            let cuda = Cuda::new(driver.clone(), precision);
            let (mut largest, mut pairs) = ((0.0, ""), Vec::new());
            for drops in [false, true] {
                let expected = self.0.run(&Case { ops: &Cpu, precision, drops });
                let got = self.0.run(&Case { ops: &cuda, precision, drops });
                for ((name, expected), (_, got)) in expected.into_iter().zip(got) {
                    let part = distance(&got, &expected);
                    largest = if part.is_nan() || part > largest.0 { (part, name) } else { largest };
                    pairs.push((format!("{name} {precision:?} {drops}"), got, expected));
                }
            }
            checked(&format!("kernels in {precision}"), tolerance.into(), largest.0.into(), largest.1);
            pairs.iter().for_each(|(name, got, expected)| assert_close(name, got, expected, tolerance));
        }
    }
}

/// Operations to compute on any device.
pub(super) trait Scenario {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs;
}

struct Gelu(usize);

impl Scenario for Gelu {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (width, batch) = (self.0, packed(&LANES));
        let (tokens, blocks) = (batch.tokens.len(), batch.blocks.len());
        let pack = &case.ops.load(batch, &masks()).unwrap();
        let u = &case.activations(tokens * width, 1);
        let parameters = case.wide(width + 8, 2);
        let bias = || Slice { buffer: &parameters, range: 8..width + 8 };
        let (mut a, mut partials) = (case.activation_room(tokens * width), case.room(blocks * width));
        let mut gradient = case.taken(tokens * width, 3);
        case.ops.bias_gelu(BiasGelu { pack, u, bias: bias(), a: &mut a }).unwrap();
        let backward = BiasGeluBackward { pack, u, bias: bias(), gradient: &mut gradient, partials: &mut partials };
        case.ops.bias_gelu_backward(backward).unwrap();
        let du = case.values(&gradient, tokens * width);
        vec![("a", case.values(&a, tokens * width)), ("du", du), ("partials", case.values(&partials, blocks * width))]
    }
}

#[test]
fn gelu_is_the_cpus() {
    WIDTHS.into_iter().for_each(|width| compare(Gelu(width)));
}

struct ResidualRows(usize);

impl Scenario for ResidualRows {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (width, batch) = (self.0, packed(&LANES));
        let (tokens, blocks) = (batch.tokens.len(), batch.blocks.len());
        let (ops, elements, pack) = (case.ops, tokens * width, &case.ops.load(batch, &masks()).unwrap());
        let parameters = case.wide(3 * width + 8, 1);
        let run = |i: usize| Slice { buffer: &parameters, range: 8 + i * width..8 + (i + 1) * width };
        let dropout = case.dropout(Site::AttentionOutput(1));
        let residual = &case.activations(elements, 2);
        let (mut z, mut stats, mut y) =
            (case.taken(elements, 3), case.room(2 * tokens), case.activation_room(elements));
        ops.residual_norm(ResidualNorm {
            pack,
            dropout,
            bias: run(0),
            residual,
            norm: Norm { gamma: run(1), beta: run(2), epsilon: 1e-12 },
            z: &mut z,
            stats: &mut stats,
            y: &mut y,
        })
        .unwrap();
        let (mut dz, mut du) = (case.activation_room(elements), case.activation_room(elements));
        let mut partials = case.room(blocks * 3 * width);
        ops.residual_norm_backward(ResidualNormBackward {
            pack,
            dropout,
            dy: &case.activations(elements, 4),
            z: &z,
            stats: &stats,
            gamma: run(1),
            dz: &mut dz,
            du: &mut du,
            partials: &mut partials,
        })
        .unwrap();
        let rows = [("z", &z), ("y", &y), ("dz", &dz), ("du", &du)].map(|(name, b)| (name, case.values(b, elements)));
        let sums = [("stats", case.values(&stats, 2 * tokens)), ("sums", case.values(&partials, blocks * 3 * width))];
        rows.into_iter().chain(sums).collect()
    }
}

#[test]
fn residual_norms_are_the_cpus() {
    WIDTHS.into_iter().for_each(|width| compare(ResidualRows(width)));
}

struct EmbeddedRows(usize);

impl Scenario for EmbeddedRows {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (width, batch) = (self.0, packed(&LANES));
        let (tokens, blocks) = (batch.tokens.len(), batch.blocks.len());
        let (ops, elements, pack) = (case.ops, tokens * width, &case.ops.load(batch, &masks()).unwrap());
        let [words, positions, types] = [case.wide(13 * width, 1), case.wide(70 * width, 2), case.wide(2 * width, 3)];
        let table = |buffer, rows: usize| Slice { buffer, range: 0..rows * width };
        let parameters = case.wide(2 * width, 4);
        let run = |i: usize| Slice { buffer: &parameters, range: i * width..(i + 1) * width };
        let dropout = case.dropout(Site::Embedding);
        let (mut z, mut y, mut stats) =
            (case.activation_room(elements), case.activation_room(elements), case.room(2 * tokens));
        ops.embedding(Embedding {
            pack,
            dropout,
            words: table(&words, 13),
            positions: table(&positions, 70),
            types: table(&types, 2),
            norm: Norm { gamma: run(0), beta: run(1), epsilon: 1e-12 },
            z: &mut z,
            stats: &mut stats,
            y: &mut y,
        })
        .unwrap();
        let (mut dz, mut partials) = (case.activation_room(elements), case.room(blocks * 4 * width));
        ops.embedding_backward(EmbeddingBackward {
            pack,
            dropout,
            dy: &case.activations(elements, 5),
            z: &z,
            stats: &stats,
            gamma: run(0),
            types: 2,
            dz: &mut dz,
            partials: &mut partials,
        })
        .unwrap();
        let mut outputs: Outputs =
            [("z", &z), ("y", &y), ("dz", &dz)].map(|(name, b)| (name, case.values(b, elements))).into();
        outputs.push(("sums", case.values(&partials, blocks * 4 * width)));
        outputs.extend(case.embedding_sums(pack, &dz, width));
        outputs
    }
}

#[test]
fn embeddings_are_the_cpus() {
    WIDTHS.into_iter().for_each(|width| compare(EmbeddedRows(width)));
}

impl<O: Ops> Case<'_, O> {
    /// The gradients of positions and words over the last lane, and of words over both lanes that have rows.
    fn embedding_sums(&self, pack: &O::Pack, dz: &O::Buffer, hidden: usize) -> Outputs {
        let lanes = &pack.as_ref().lanes;
        let mut positions = self.room(70 * hidden);
        let dpositions = SliceMut { buffer: &mut positions, range: 0..70 * hidden };
        self.ops.position_gradient(PositionGradient { pack, lane: &lanes[2], hidden, dz, dpositions }).unwrap();
        let words =
            |lane: usize| self.ops.word_gradient(WordGradient { pack, lane: &lanes[lane], hidden, dz }).unwrap();
        let last = words(2);
        let both = self.ops.add_rows(words(0), words(2), hidden).unwrap();
        let spread = self.ops.spread_rows(&last, &both.rows, hidden).unwrap();
        let rows = |rows: &[u32]| rows.iter().map(|row| *row as f32).collect::<Vec<_>>();
        vec![
            ("dpositions", self.values(&positions, 70 * hidden)),
            ("words", rows(&last.rows)),
            ("dwords", self.values(&last.values, last.rows.len() * hidden)),
            ("words of both", rows(&both.rows)),
            ("dwords of both", self.values(&both.values, both.rows.len() * hidden)),
            ("dwords spread", self.values(&spread, both.rows.len() * hidden)),
        ]
    }
}
