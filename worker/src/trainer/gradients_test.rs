//! Every parameter's gradient, computed by the kernels, against the CPU's: of the fixture, and of layers of BERT-large's
//! widths. A norm or a loss would hide one small tensor that is wrong.

use medley_common::example::Example;
use medley_common::identity::Rank;
use medley_common::lane::Node;
use medley_common::model::ModelConfig;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, Summation, TrainSpec};

use super::Trainer;
use super::families_test::Tiny;
use super::fixture::{config, examples, flat, plan, random_parameters, spec};
use crate::collective::{Collective, CollectiveError, Parts, Shard, Solo, SparseRows, Summed, Traffic};
use crate::layout::{Layout, Segment};
use crate::ops::cpu::Cpu;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::drivers_test::{DriverTest, checked, is_fast, on_each_driver};
use crate::ops::{Ops, Slice};
use crate::optim::loss_scale::LossScale;

pub(super) const LANES: u32 = 4;
/// In `f16`: as large as the gradients of these models bear.
const SCALE: f64 = 1024.0;

/// A group of one that keeps a copy of the gradient that it sums.
struct Witness<O: Ops> {
    solo: Solo<O>,
    ops: O,
    layout: Layout,
    gradient: Vec<f32>,
}

impl<O: Ops> Witness<O> {
    fn see(&mut self, summed: &Summed<O::Buffer>) {
        let read = |buffer, count| self.ops.read(Slice { buffer, range: 0..count }).unwrap();
        for (segment, buffer) in summed.segments.iter().filter(|(segment, _)| *segment != Segment::Losses) {
            let range = self.layout.range(*segment);
            self.gradient[range.clone()].copy_from_slice(&read(buffer, range.len()));
        }
        let (words, width) = (self.layout.range(Segment::Words), self.layout.slots()[0].shape[1]);
        let values = read(&summed.words.values, summed.words.rows.len() * width);
        for (row, values) in summed.words.rows.iter().zip(values.chunks_exact(width)) {
            self.gradient[words.start + *row as usize * width..][..width].copy_from_slice(values);
        }
    }
}

impl<O: Ops> Collective<O::Buffer> for Witness<O> {
    fn rank(&self) -> Rank {
        self.solo.rank()
    }

    fn world(&self) -> u32 {
        self.solo.world()
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), CollectiveError> {
        self.solo.launch(segment, sums)
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), CollectiveError> {
        self.solo.launch_words(sums)
    }

    fn fence(&mut self) -> Result<Summed<O::Buffer>, CollectiveError> {
        let summed = self.solo.fence()?;
        self.see(&summed);
        Ok(summed)
    }

    fn all_gather(&mut self, buffer: &mut O::Buffer, shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        self.solo.all_gather(buffer, shards)
    }

    fn reuse(&mut self, sums: Vec<O::Buffer>) -> Vec<O::Buffer> {
        self.solo.reuse(sums)
    }

    fn salvage(&mut self) -> Parts<O::Buffer> {
        self.solo.salvage()
    }
}

/// A model to differentiate, and the rows of one update.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) model: ModelConfig,
    pub(super) parameters: Vec<f32>,
    pub(super) examples: Vec<Example>,
}

impl Case {
    pub(super) fn fixture() -> Self {
        let parameters = flat(&Layout::new(&config()), "model/model.safetensors");
        Self { name: "the fixture", model: config(), parameters, examples: examples() }
    }

    fn family(name: &'static str) -> Self {
        let tiny = Tiny::new(name);
        Self {
            name,
            parameters: tiny.parameters("model/model.safetensors"),
            model: tiny.config,
            examples: tiny.examples,
        }
    }

    /// As wide as BERT-large, over rows up to 128 tokens long where they cost nothing: a layer of all tokens, and the last one,
    /// which computes the first tokens alone; where they cost much, that one alone.
    pub(super) fn large() -> Self {
        let model = ModelConfig {
            vocab_size: 512,
            hidden_size: 1024,
            num_hidden_layers: if is_fast() { 2 } else { 1 },
            num_attention_heads: 16,
            intermediate_size: 4096,
            max_position_embeddings: 128,
            ..config()
        };
        let mut parameters = random_parameters(&Layout::new(&model));
        // As wide sums as these want smaller weights; those near 1 are of norms.
        parameters.iter_mut().filter(|value| value.abs() < 0.5).for_each(|value| *value *= 0.35);
        let lengths: &[u32] = if is_fast() { &[128, 45, 7, 90, 17, 33, 64, 2] } else { &[3, 1, 1, 2, 1, 1, 1, 1] };
        let token = |row: usize, place: u32| (place * place * 37 + 101 * row as u32) % model.vocab_size;
        let example = |(row, length): (usize, &u32)| Example {
            tokens: (0..*length).map(|place| token(row, place)).collect(),
            first_segment: length.div_ceil(2),
            label: Some(row as u32 % 3),
        };
        Self { name: "BERT-large", examples: lengths.iter().enumerate().map(example).collect(), model, parameters }
    }

    /// The gradient of the summed loss of 8 rows, in the order of the layout.
    fn gradient<O: Ops + Clone>(&self, ops: O, precision: Precision) -> Vec<f32> {
        let mut model = self.model.clone();
        (model.hidden_dropout, model.attention_dropout, model.classifier_dropout) = (0.1, 0.1, 0.1);
        let compute = ComputeSpec { precision, summation: Summation::ByWorker, ..ComputeSpec::default() };
        let (spec, layout) = (TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, LANES) }, Layout::new(&model));
        let (solo, gradient) = (Solo::new(ops.clone(), &layout, LANES), vec![0.0; layout.len()]);
        let mut witness = Witness { solo, ops: ops.clone(), layout, gradient };
        let mut trainer = Trainer::new(ops, model, spec, self.parameters.clone()).unwrap();
        trainer.restore_loss_scale(LossScale { scale: SCALE, good_updates: 0, skipped_updates: 0 });
        // The mean's is scaled.
        let scale = trainer.loss_scale().map_or(1.0, |scale| scale.scale / 8.0);
        let lanes = std::slice::from_ref(&(0..LANES));
        let report = trainer.step(&plan(1, 0..8, LANES), lanes, &self.examples, &mut witness).unwrap();
        assert!(!report.skipped && report.grad_norm > 0.0, "{report:?}");
        witness.gradient.into_iter().map(|value| (f64::from(value) / scale) as f32).collect()
    }

    /// Compares each parameter by the norm of the difference, as a part of the norm of what is expected.
    fn compare(&self, got: &[f32], precision: Precision, tolerance: f64) {
        let expected = self.gradient(Cpu, Precision::Float32);
        let layout = Layout::new(&self.model);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let norm_of = |name: &str| {
            let slot = layout.slots().iter().find(|slot| slot.name == name).unwrap();
            norm(&mut expected[slot.range.clone()].iter().map(|value| f64::from(*value)))
        };
        let mut largest = (0.0, "");
        for slot in layout.slots() {
            let pairs = got[slot.range.clone()].iter().zip(&expected[slot.range.clone()]);
            let difference = norm(&mut pairs.map(|(got, expected)| f64::from(*got) - f64::from(*expected)));
            // The bias of the keys shifts all scores of a query alike: its gradient is 0 but for rounding.
            let size = norm_of(&slot.name.replace("key.bias", "query.bias"));
            assert!(size > 0.0, "{} has no gradient", slot.name);
            let part = difference / size;
            // What is not a number is no small difference.
            largest = if part.is_nan() || part > largest.0 { (part, &slot.name) } else { largest };
        }
        let (name, (part, place)) = (self.name, largest);
        checked(&format!("every gradient of {name} in {precision}"), tolerance, part, place);
        assert!(part < tolerance, "{name}, {precision}: {place}: {part:.1e}");
    }
}

/// The gradients of all models, in these precisions, each with the largest difference that it may have.
struct Gradients(&'static [(Precision, f64)]);

impl DriverTest for Gradients {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let cases = [Case::fixture(), Case::family("roberta"), Case::family("electra"), Case::large()];
        for case in cases {
            for (precision, tolerance) in self.0 {
                let got = case.gradient(Cuda::new(driver.clone(), *precision), *precision);
                case.compare(&got, *precision, *tolerance);
            }
        }
    }
}

#[test]
fn in_single_precision_every_gradient_is_the_cpus() {
    on_each_driver(&Gradients(&[(Precision::Float32, 2e-5)]));
}

#[test]
fn in_half_precision_every_gradient_is_near_the_cpus() {
    on_each_driver(&Gradients(&[(Precision::Bfloat16, 0.04), (Precision::Float16, 0.01)]));
}

/// Rounded only where the GPU is told to, as `deploy/cuda/check` does for this test alone.
#[test]
fn in_tf32_every_gradient_is_near_the_cpus() {
    on_each_driver(&Gradients(&[(Precision::Tf32, 0.01)]));
}
