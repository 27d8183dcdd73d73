//! Passes that are replayed come to the bits of passes whose operations are launched one by one: whatever rows they have.

use medley_common::example::Example;
use medley_common::identity::{RowId, Update};
use medley_common::model::ModelConfig;
use medley_common::plan::{UpdatePlan, mix};
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, Summation, TrainSpec, TuningSpec};

use super::Trainer;
use super::families_test::Tiny;
use super::fixture::{config, plan, random_parameters, spec};
use crate::collective::Solo;
use crate::layout::Layout;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::drivers_test::{DriverTest, has_gpu, host, on_each_driver};
use crate::ops::cuda::emulator::replays;
use crate::ops::cuda::limited_test::Limited;

const LANES: u32 = 2;
const UPDATES: u64 = 8;
const ROWS: u32 = 40;
const SHORT: u32 = 9;
const LONG: u32 = 22;

/// As small as it can be: every update is made many times.
fn model() -> ModelConfig {
    let [hidden_dropout, attention_dropout, classifier_dropout] = [0.1, 0.2, 0.1];
    ModelConfig {
        vocab_size: 40,
        hidden_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        max_position_embeddings: 32,
        hidden_dropout,
        attention_dropout,
        classifier_dropout,
        ..config()
    }
}

fn random(seed: u64, below: u32) -> u32 {
    (mix(seed) % u64::from(below)) as u32
}

/// Rows of 4 tokens or more, the first half of less than [`SHORT`], the others of less than [`LONG`].
fn examples() -> Vec<Example> {
    let example = |row: u32| {
        let most = if row < ROWS / 2 { SHORT } else { LONG };
        let length = 4 + random(u64::from(row), most - 4);
        let tokens = (0..length).map(|place| random(u64::from(1000 * row + place), 40)).collect();
        Example { tokens, first_segment: 2, label: Some(random(u64::from(7 * row), 3)) }
    };
    (0..ROWS).map(example).collect()
}

/// Two rows in each lane, one more in the second of every third update; long ones from the fourth on, so that buffers grow
/// where something has been recorded.
fn planned(update: u64) -> UpdatePlan {
    let (first, count) = if update < 4 { (0, ROWS / 2) } else { (0, ROWS) };
    let row = |place: u64| RowId(first + random(100 * update + place, count));
    let more = u64::from(update.is_multiple_of(3));
    UpdatePlan { update: Update(update), lanes: vec![(0..2).map(row).collect(), (2..4 + more).map(row).collect()] }
}

/// All that decides what a pass is made of.
fn recipes() -> Vec<(&'static str, Precision, TrainSpec)> {
    let of = |gradient_checkpointing| {
        let compute = ComputeSpec { summation: Summation::ByLane, gradient_checkpointing, ..ComputeSpec::default() };
        TrainSpec { compute, ..spec(OptimizerKind::AdamwTorch, LANES) }
    };
    let tuning = TuningSpec { frozen_layers: Some(1), layer_lr_decay: None };
    let weighted = TrainSpec { class_weights: vec![0.5, 1.0, 2.0], label_smoothing: 0.1, ..of(false) };
    vec![
        ("plain", Precision::Float32, of(false)),
        ("half", Precision::Bfloat16, of(false)),
        ("scaled", Precision::Float16, of(false)),
        ("computed again", Precision::Bfloat16, of(true)),
        ("frozen", Precision::Float32, TrainSpec { tuning, ..of(false) }),
        ("weighted", Precision::Bfloat16, weighted),
    ]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What updates come to.
#[derive(Debug, PartialEq)]
struct Course {
    updates: Vec<(Vec<u32>, u64, u64)>,
    /// In between, of rows that are more and longer than those of a lane: in buffers of which recordings know.
    logits: Vec<Vec<u32>>,
    parameters: Vec<u32>,
}

/// The updates of `plans` by a trainer that computes all lanes.
fn course<D: Driver>(cuda: Cuda<D>, model: &ModelConfig, spec: &TrainSpec, plans: &[UpdatePlan]) -> Course {
    let (layout, examples) = (Layout::new(model), examples());
    let mut solo = Solo::new(cuda.clone(), &layout, spec.lanes);
    let mut trainer = Trainer::new(cuda, model.clone(), spec.clone(), random_parameters(&layout)).unwrap();
    let (mut updates, mut logits) = (Vec::new(), Vec::new());
    for plan in plans {
        let report = trainer.step(plan, std::slice::from_ref(&(0..spec.lanes)), &examples, &mut solo).unwrap();
        updates.push((bits(&report.losses), report.grad_norm.to_bits(), report.tokens));
        if plan.update == Update(6) {
            let predictions = trainer.predict(&(20..30).map(RowId).collect::<Vec<_>>(), &examples).unwrap();
            logits.extend(predictions.iter().map(|prediction| bits(&prediction.logits)));
        }
    }
    Course { updates, logits, parameters: bits(&trainer.parameters().unwrap()) }
}

struct Passes;

impl DriverTest for Passes {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let plans: Vec<UpdatePlan> = (1..=UPDATES).map(planned).collect();
        let families =
            ["roberta", "electra"].map(|name| ModelConfig { type_vocab_size: 2, ..Tiny::new(name).dropping().config });
        for (name, precision, spec) in recipes() {
            let spec = TrainSpec { compute: ComputeSpec { precision, ..spec.compute }, ..spec };
            let models = if name == "half" { [&[model()], &families[..]].concat() } else { vec![model()] };
            for model in models {
                let cuda = || Cuda::new(driver.clone(), precision);
                let expected = course(cuda().without_graphs(), &model, &spec, &plans);
                let before = replays();
                let got = course(cuda(), &model, &spec, &plans);
                assert!(has_gpu() || replays() > before + 30, "{name}: {} replays", replays() - before);
                assert!(got == expected, "{name}, {:?}", model.family);
            }
        }
    }
}

#[test]
fn replayed_passes_have_the_bits_of_launched_ones() {
    on_each_driver(&Passes);
}

/// A lane whose rows are filled up comes to what its rows alone come to, to the bit where products add in an order that does
/// not depend on how many there are.
#[test]
fn what_fills_a_lane_up_changes_nothing() {
    let Some(device) = host() else { return };
    let mut plans: Vec<UpdatePlan> = (1..=3).map(|update| plan(update, 0..3, 1)).collect();
    plans[1].lanes[0].extend([RowId(30), RowId(31)]);
    for precision in [Precision::Float32, Precision::Bfloat16] {
        let of = |summation| {
            let compute = ComputeSpec { summation, precision, ..ComputeSpec::default() };
            let spec = TrainSpec { compute, label_smoothing: 0.1, ..spec(OptimizerKind::AdamwTorch, 1) };
            course(Cuda::new(device, precision), &model(), &spec, &plans)
        };
        assert!(of(Summation::ByLane) == of(Summation::ByWorker), "{precision}");
    }
}

/// Where the memory ends, graphs are given up before anything else is, and updates go on without them.
#[test]
fn graphs_make_room() {
    let Some(device) = host() else { return };
    let (_, precision, spec) = recipes().swap_remove(0);
    let (model, layout, examples) = (model(), Layout::new(&model()), examples());
    let plans =
        [planned(1), planned(2), planned(3), plan(4, 20..40, LANES), UpdatePlan { update: Update(5), ..planned(3) }];
    let plain = Limited::new(device, u64::MAX);
    let expected = course(Cuda::new(plain.clone(), precision).without_graphs(), &model, &spec, &plans);

    let cuda = Cuda::new(Limited::new(device, plain.most()), precision);
    let mut solo = Solo::new(cuda.clone(), &layout, LANES);
    let mut trainer = Trainer::new(cuda, model, spec, random_parameters(&layout)).unwrap();
    let mut seen = Vec::new();
    for plan in &plans {
        let before = replays();
        trainer.step(plan, std::slice::from_ref(&(0..LANES)), &examples, &mut solo).unwrap();
        seen.push((replays() > before, trainer.take_note().is_some_and(|note| note.contains("without CUDA graphs"))));
    }
    assert_eq!(seen, [(true, false), (true, false), (true, false), (false, true), (false, false)]);
    assert!(bits(&trainer.parameters().unwrap()) == expected.parameters);
}
