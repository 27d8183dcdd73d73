//! The whole trainer on the kernels, run by the host, against the trainer on the CPU.

use medley_common::identity::{RowId, Update};
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, Summation, TrainSpec};

use super::fixture::{config, examples, flat, plan, spec};
use super::recipes_test::recipes;
use super::{StepError, Trainer};
use crate::collective::Solo;
use crate::layout::{Layout, Segment};
use crate::ops::Ops;
use crate::ops::cpu::Cpu;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::drivers_test::{DriverTest, on_each_driver};
use crate::ops::cuda::limited_test::Limited;
use crate::optim::loss_scale::LossScale;

const UPDATES: u64 = 4;

/// Logits before training; each update's norm and loss; the parameters after.
struct Course {
    logits: Vec<f32>,
    norms: Vec<f64>,
    losses: Vec<f64>,
    parameters: Vec<f32>,
}

fn course<O: Ops + Clone>(ops: O, compute: ComputeSpec, length: (f64, u64)) -> Course {
    course_of(ops, TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, 4) }, length)
}

fn course_of<O: Ops + Clone>(ops: O, spec: TrainSpec, (dropout, updates): (f64, u64)) -> Course {
    let mut model = config();
    (model.hidden_dropout, model.attention_dropout, model.classifier_dropout) = (dropout, dropout, dropout);
    let layout = Layout::new(&config());
    let mut collective = Solo::new(ops.clone(), &layout, 4);
    let mut trainer = Trainer::new(ops, model, spec, flat(&layout, "model/model.safetensors")).unwrap();
    let examples = examples();
    let rows: Vec<RowId> = (0..4).map(RowId).collect();
    let predictions = trainer.predict(&rows, &examples).unwrap();
    let logits = predictions.into_iter().flat_map(|prediction| prediction.logits).collect();
    let (mut norms, mut losses) = (Vec::new(), Vec::new());
    for update in 1..=updates {
        let first = 8 * (update as u32 - 1);
        let report = trainer
            .step(&plan(update, first..first + 8, 4), std::slice::from_ref(&(0..4)), &examples, &mut collective)
            .unwrap();
        assert_eq!(report.lanes.len(), 4);
        norms.push(report.grad_norm);
        losses.push(report.losses.iter().map(|loss| f64::from(*loss)).sum());
    }
    Course { logits, norms, losses, parameters: trainer.parameters().unwrap().into_owned() }
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

fn assert_near(name: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    for (got, expected) in got.iter().zip(expected) {
        assert!((got / expected - 1.0).abs() < tolerance, "{name}: {got}, expected {expected}");
    }
}

struct Single;

impl DriverTest for Single {
    fn run<D: Driver + Clone>(&self, driver: D) {
        for dropout in [0.0, 0.1] {
            let expected = course(Cpu, ComputeSpec::default(), (dropout, UPDATES));
            let got = course(Cuda::new(driver.clone(), Precision::Float32), ComputeSpec::default(), (dropout, UPDATES));
            assert!(largest_difference(&got.logits, &expected.logits) < 1e-5);
            assert_near("norm", &got.norms, &expected.norms, 1e-4);
            assert_near("loss", &got.losses, &expected.losses, 1e-5);
            assert!(largest_difference(&got.parameters, &expected.parameters) < 2e-5);
        }
    }
}

/// In `f32` the kernels train as the CPU does; the learning rate of an update is about 1e-3, which bounds a parameter's
/// way.
#[test]
fn in_single_precision_training_is_the_cpus() {
    on_each_driver(&Single);
}

struct Recipes;

impl DriverTest for Recipes {
    fn run<D: Driver + Clone>(&self, driver: D) {
        for (name, mut recipe) in recipes() {
            if matches!(recipe.optimizer.kind, OptimizerKind::Sgd(_)) {
                recipe.schedule.peak = 0.5;
            }
            let expected = course_of(Cpu, recipe.clone(), (0.1, 2));
            let got = course_of(Cuda::new(driver.clone(), Precision::Float32), recipe.clone(), (0.1, 2));
            assert_near(name, &got.norms, &expected.norms, 1e-4);
            assert_near(name, &got.losses, &expected.losses, 1e-5);
            let layout = Layout::new(&config());
            // The gradient of the keys' bias is rounding alone, which AdamW makes steps of.
            for slot in layout.slots().iter().filter(|slot| !slot.name.ends_with("key.bias")) {
                let of = |parameters: &[f32]| parameters[slot.range.clone()].to_vec();
                let differs = largest_difference(&of(&got.parameters), &of(&expected.parameters));
                assert!(differs < 2e-5, "{name}, {}: {differs}", slot.name);
            }
            let start = flat(&Layout::new(&config()), "model/model.safetensors");
            assert!(largest_difference(&expected.parameters, &start) > 1e-5, "{name} moves nothing");
            let half = ComputeSpec { precision: Precision::Bfloat16, ..ComputeSpec::default() };
            let recipe = TrainSpec { compute: half, ..recipe };
            let got = course_of(Cuda::new(driver.clone(), Precision::Bfloat16), recipe, (0.1, 2));
            assert_near(name, &got.losses, &expected.losses, 0.06);
        }
    }
}

/// What else a recipe may ask for, the kernels do as the CPU does.
#[test]
fn recipes_of_all_kinds_are_the_cpus() {
    on_each_driver(&Recipes);
}

struct Half;

impl DriverTest for Half {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let expected = course(Cpu, ComputeSpec::default(), (0.1, UPDATES));
        for (precision, tolerance) in [(Precision::Float16, 0.01), (Precision::Bfloat16, 0.06)] {
            let compute = ComputeSpec { precision, summation: Summation::ByWorker, ..ComputeSpec::default() };
            let got = course(Cuda::new(driver.clone(), precision), compute, (0.1, UPDATES));
            assert!(largest_difference(&got.logits, &expected.logits) < tolerance as f32);
            assert_near("norm", &got.norms, &expected.norms, 5.0 * tolerance);
            assert_near("loss", &got.losses, &expected.losses, tolerance);
        }
    }
}

/// In half precision it goes the same way, roughly; the loss scale shows nowhere.
#[test]
fn in_half_precision_training_goes_the_same_way() {
    on_each_driver(&Half);
}

struct Overflow;

impl DriverTest for Overflow {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let precision = Precision::Float16;
        let compute = ComputeSpec { precision, ..ComputeSpec::default() };
        let spec = TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, 4) };
        let layout = Layout::new(&config());
        let parameters = flat(&layout, "model/model.safetensors");
        let cuda = Cuda::new(driver, precision);
        let solo = || Solo::new(cuda.clone(), &layout, 4);
        let mut trainer = Trainer::new(cuda.clone(), config(), spec.clone(), parameters).unwrap();
        trainer.restore_loss_scale(LossScale { scale: 1e9, good_updates: 5, skipped_updates: 2 });
        let before = trainer.parameters().unwrap().into_owned();
        let report = trainer.step(&plan(1, 0..8, 4), std::slice::from_ref(&(0..4)), &examples(), &mut solo()).unwrap();
        assert_eq!((report.update, report.grad_norm, report.skipped), (Update(1), 0.0, true));
        assert!(trainer.parameters().unwrap()[..] == before[..], "a skipped update moves nothing");
        let lowered = LossScale { scale: 5e8, good_updates: 0, skipped_updates: 3 };
        assert_eq!(trainer.loss_scale(), Some(lowered));
        // The optimizer has made no step yet: its first one moves what has a gradient by the learning rate.
        let mut trainer = Trainer::new(cuda.clone(), config(), spec, before.clone()).unwrap();
        trainer.restore_loss_scale(LossScale { scale: 1024.0, good_updates: 0, skipped_updates: 1 });
        trainer.update = Update(1);
        let report = trainer.step(&plan(2, 0..8, 4), std::slice::from_ref(&(0..4)), &examples(), &mut solo()).unwrap();
        assert!(!report.skipped);
        let moved = f64::from(largest_difference(&trainer.parameters().unwrap(), &before));
        assert!((moved / report.learning_rate - 1.0).abs() < 0.05, "{moved} for {}", report.learning_rate);
    }
}

/// A gradient that overflows in half precision is skipped, and the scale is lowered.
#[test]
fn an_overflow_skips_the_update() {
    on_each_driver(&Overflow);
}

/// Weights that are finite, with which the gradient is so down to the classifier's weight, and not below it.
fn steep(layout: &Layout) -> Vec<f32> {
    let mut parameters = flat(layout, "model/model.safetensors");
    let mut fill = |name: &str, count: usize, value: f32| {
        let slot = layout.slots().iter().find(|slot| slot.name == name).unwrap();
        parameters[slot.range.start..slot.range.start + count].fill(value);
    };
    let hidden = config().hidden_size as usize;
    fill("bert.pooler.dense.weight", hidden * hidden, 0.0);
    fill("bert.pooler.dense.bias", hidden, 1e-3);
    fill("classifier.weight", 3 * hidden, 0.0);
    fill("classifier.weight", hidden, 2e38);
    parameters
}

/// Says where the first update's numbers cease to be finite.
fn divergence<O: Ops + Clone>(ops: O, precision: Precision, parameters: &[f32]) -> String {
    let compute = ComputeSpec { precision, ..ComputeSpec::default() };
    let spec = TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, 4) };
    let mut solo = Solo::new(ops.clone(), &Layout::new(&config()), 4);
    let mut trainer = Trainer::new(ops, config(), spec, parameters.to_vec()).unwrap();
    let lanes = std::slice::from_ref(&(0..4));
    let error = trainer.step(&plan(1, 0..4, 4), lanes, &examples(), &mut solo).unwrap_err();
    assert!(matches!(error, StepError::NonFinite { update: Update(1), .. }), "{error}");
    assert_eq!(trainer.update(), Update(0));
    let same = |(one, other): (&f32, &f32)| one.to_bits() == other.to_bits();
    assert!(trainer.parameters().unwrap().iter().zip(parameters).all(same), "no weight has moved");
    error.to_string()
}

struct Divergence;

impl DriverTest for Divergence {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let layout = Layout::new(&config());
        let (steep, mut spoiled) = (steep(&layout), flat(&layout, "model/model.safetensors"));
        spoiled[layout.layer_slots().output_weight.start + layout.range(Segment::Layer(1)).start] = f32::NAN;
        let gradient = "the first gradient that is not finite is that of bert.pooler.dense.bias";
        let weight = "the weight bert.encoder.layer.1.output.dense.weight is not finite itself";
        for (parameters, expected) in [(&steep, gradient), (&spoiled, weight)] {
            let said = divergence(Cpu, Precision::Float32, parameters);
            assert!(said.contains(expected), "{said}");
            for precision in [Precision::Float32, Precision::Bfloat16] {
                let said = divergence(Cuda::new(driver.clone(), precision), precision, parameters);
                assert!(said.starts_with("update 1: ") && said.contains(expected), "{precision}: {said}");
            }
        }
    }
}

/// The parameter at which numbers cease to be finite is named, on every device.
#[test]
fn a_divergence_names_its_parameter() {
    on_each_driver(&Divergence);
}

/// One update of 8 rows in 4 lanes; the trainer, and what the update came to.
fn one_update<D: Driver + Clone>(
    driver: D,
    auto: bool,
    lanes_a_pass: u32,
) -> (Trainer<Cuda<D>>, Result<(), StepError>) {
    let compute = ComputeSpec { auto_micro_batch: auto, summation: Summation::ByWorker, ..ComputeSpec::default() };
    let spec = TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, 4) };
    let (cuda, layout) = (Cuda::new(driver, Precision::Float32), Layout::new(&config()));
    let mut solo = Solo::new(cuda.clone(), &layout, 4);
    let parameters = flat(&layout, "model/model.safetensors");
    let mut trainer = Trainer::new(cuda, config(), spec, parameters).unwrap();
    trainer.passes.most = lanes_a_pass;
    let lanes = std::slice::from_ref(&(0..4));
    let report = trainer.step(&plan(1, 0..8, 4), lanes, &examples(), &mut solo);
    (trainer, report.map(|report| assert_eq!(report.lanes.len(), 4)))
}

struct Shortage;

impl DriverTest for Shortage {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let plenty = |lanes| {
            let limited = Limited::new(driver.clone(), u64::MAX);
            let (trainer, made) = one_update(limited.clone(), false, lanes);
            made.unwrap();
            (trainer.parameters().unwrap().into_owned(), limited.most())
        };
        let ((_, whole), (expected, halves)) = (plenty(4), plenty(2));
        assert!(halves < whole, "{halves} bytes for half the lanes, {whole} for all");
        let little = || Limited::new(driver.clone(), (halves + whole) / 2);

        let (mut trainer, made) = one_update(little(), true, u32::MAX);
        made.unwrap();
        assert_eq!(trainer.passes.most, 2, "it is remembered");
        assert!(trainer.parameters().unwrap()[..] == expected[..], "what was begun in vain shows nowhere");
        let note = trainer.take_note().unwrap();
        assert!(note.starts_with("update 1: out of memory") && note.ends_with("with 2 lanes a pass"), "{note}");

        let (_, refused) = one_update(little(), false, u32::MAX);
        let message = refused.unwrap_err().to_string();
        for part in ["8 rows of ", " MiB were asked for", "MiB are free", "4 lanes a pass: add --auto_micro_batch"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

/// An update that the memory does not hold is made in smaller passes, and has the weights of one that was made so at once.
#[test]
fn passes_are_halved_where_the_memory_ends() {
    on_each_driver(&Shortage);
}

fn assert_checkpointing_does_not_show<O: Ops + Clone>(ops: impl Fn() -> O, precision: Precision) {
    let kept = ComputeSpec { precision, ..ComputeSpec::default() };
    let again = ComputeSpec { gradient_checkpointing: true, ..kept };
    let (kept, again) = (course(ops(), kept, (0.1, 1)), course(ops(), again, (0.1, 1)));
    assert!(kept.parameters == again.parameters && kept.norms == again.norms && kept.losses == again.losses);
}

struct Checkpointing;

impl DriverTest for Checkpointing {
    fn run<D: Driver + Clone>(&self, driver: D) {
        assert_checkpointing_does_not_show(|| Cuda::new(driver.clone(), Precision::Bfloat16), Precision::Bfloat16);
    }
}

/// Activations that are computed again have the same bits.
#[test]
fn checkpointing_does_not_show() {
    assert_checkpointing_does_not_show(|| Cpu, Precision::Float32);
    on_each_driver(&Checkpointing);
}
