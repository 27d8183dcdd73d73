//! Recipes beside the usual one: they are what torch makes of them, at any number of ranks and through a handover.

use medley_common::example::Example;
use medley_common::identity::Update;
use medley_common::message::UpdateReport;
use medley_common::model::ModelConfig;
use medley_common::plan::UpdatePlan;
use medley_common::spec::{ComputeSpec, OptimizerKind, SgdSpec, TrainSpec, TuningSpec};

use super::Trainer;
use super::fixture::{Member, config, examples, group, json, plan, spec, train, trainer};
use super::handover::Handover;
use crate::layout::Layout;

const UPDATES: u64 = 20;

fn sgd(momentum: f64, dampening: f64, nesterov: bool) -> TrainSpec {
    spec(OptimizerKind::Sgd(SgdSpec { momentum, dampening, nesterov }), 4)
}

fn tuned(kind: OptimizerKind, frozen_layers: Option<u32>, layer_lr_decay: Option<f64>) -> TrainSpec {
    TrainSpec { tuning: TuningSpec { frozen_layers, layer_lr_decay }, ..spec(kind, 4) }
}

fn weighted(weights: [f64; 3], label_smoothing: f64) -> TrainSpec {
    TrainSpec { class_weights: weights.to_vec(), label_smoothing, ..spec(OptimizerKind::AdamwTorch, 4) }
}

/// The cases of `optimizers.json`, which `tests/peers/optimizers.py` writes.
pub(super) fn recipes() -> Vec<(&'static str, TrainSpec)> {
    vec![
        ("sgd", sgd(0.0, 0.0, false)),
        ("sgd_momentum", sgd(0.9, 0.0, false)),
        ("sgd_dampened", sgd(0.9, 0.5, false)),
        ("sgd_nesterov", sgd(0.9, 0.0, true)),
        ("layer_lr_decay", tuned(OptimizerKind::AdamwTorch, None, Some(0.75))),
        ("freeze_embeddings", tuned(OptimizerKind::AdamwTorch, Some(0), None)),
        ("freeze_layers", tuned(OptimizerKind::AdamwTorch, Some(1), Some(0.9))),
        ("class_weights", weighted([0.5, 1.0, 2.5], 0.0)),
        ("class_weights_smoothed", weighted([2.0, 0.25, 1.0], 0.1)),
        ("freeze_all_layers", tuned(OptimizerKind::Sgd(SgdSpec::default()), Some(2), None)),
    ]
}

fn with_dropout() -> ModelConfig {
    ModelConfig { hidden_dropout: 0.1, attention_dropout: 0.1, classifier_dropout: 0.1, ..config() }
}

/// The update takes 8 rows in the order of the file.
fn planned(update: u64) -> UpdatePlan {
    let first = 8 * (update as u32 - 1);
    plan(update, first..first + 8, 4)
}

/// The mean loss, as the coordinator divides.
fn loss(report: &UpdateReport, recipe: &TrainSpec, examples: &[Example]) -> f64 {
    let divisor = planned(report.update.0).divisor(&recipe.class_weights, |row| examples[row.0 as usize].label);
    report.losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / divisor
}

#[test]
fn training_follows_torch() {
    let (reference, layout, examples) = (json("optimizers.json"), Layout::new(&config()), examples());
    for (name, mut recipe) in recipes() {
        let case = &reference["cases"][name];
        recipe.schedule.peak = case["peak"].as_f64().unwrap();
        let plans: Vec<_> = (1..=UPDATES).map(planned).collect();
        let (trainer, reports) = train(&|| trainer(&config(), recipe.clone()), &plans, (1, 1));
        for (report, expected) in reports.iter().zip(case["updates"].as_array().unwrap()) {
            for (what, got) in [("loss", loss(report, &recipe, &examples)), ("grad_norm", report.grad_norm)] {
                let expected = expected[what].as_f64().unwrap();
                let is_near = (got - expected).abs() <= 1e-4 * expected.max(1.0);
                assert!(is_near, "{name}, {}: {what} {got} {expected}", report.update);
            }
        }
        let trained = config().trained_parameters(recipe.tuning.frozen_layers);
        assert_eq!(Some(trained), case["parameters"].as_u64(), "{name}");
        let parameters = trainer.parameters().unwrap();
        // The gradient of the keys' bias is rounding alone, which AdamW makes steps of.
        for slot in layout.slots().iter().filter(|slot| !slot.name.ends_with("key.bias")) {
            let values = &parameters[slot.range.clone()];
            let places = [0, values.len() / 2, values.len() - 1];
            for (place, expected) in places.into_iter().zip(case["trained"][&slot.name].as_array().unwrap()) {
                let (got, expected) = (f64::from(values[place]), expected.as_f64().unwrap());
                assert!((got - expected).abs() < 1e-4, "{name}, {} at {place}: {got} {expected}", slot.name);
            }
        }
    }
}

/// Neither gradient nor decay moves them, and nothing is sent of them.
#[test]
fn what_is_frozen_stays_as_it_is_to_the_bit() {
    let layout = Layout::new(&config());
    let is_zero = |values: &[f32]| values.iter().all(|value| *value == 0.0);
    for (name, recipe) in recipes() {
        let mut member = group(1, 4).remove(0);
        let mut trainer = trainer(&with_dropout(), recipe.clone());
        let start = trainer.parameters().unwrap().to_vec();
        for plan in (1..=2).map(planned) {
            trainer.step(&plan, std::slice::from_ref(&(0..4)), &examples(), &mut member).unwrap();
        }
        for (segment, range) in layout.segments() {
            let is_trained = segment.is_trained(&recipe.tuning);
            let moved = trainer.parameters().unwrap()[range.clone()] != start[range.clone()];
            assert_eq!(moved, is_trained, "{name}: {segment:?}");
            for memory in trainer.memory().unwrap() {
                assert_eq!(!is_zero(&memory[range.clone()]), is_trained, "{name}: what is remembered of {segment:?}");
            }
        }
        assert_eq!(member.words.rows.is_empty(), recipe.tuning.frozen_layers.is_some(), "{name}");
        let dense = layout.dense_segments(&recipe.tuning).count();
        assert_eq!(member.segments.len(), dense + 1, "{name}: and the losses");
    }
}

#[test]
fn every_number_of_ranks_makes_the_same_bits() {
    let plans: Vec<_> = (1..=3).map(planned).collect();
    for (name, recipe) in recipes() {
        let make = || trainer(&with_dropout(), recipe.clone());
        let (alone, expected) = train(&make, &plans, (1, 1));
        for world in [2, 3] {
            let (one, reports) = train(&make, &plans, (world, 1));
            assert!(one.parameters().unwrap() == alone.parameters().unwrap(), "{name} with {world}");
            assert!(one.memory().unwrap() == alone.memory().unwrap(), "{name} with {world}");
            let numbers = |report: &UpdateReport| (report.losses.clone(), report.grad_norm);
            assert!(reports.iter().map(numbers).eq(expected.iter().map(numbers)), "{name} with {world}");
        }
    }
}

/// A newcomer takes a state over and both go on, as if nothing had happened.
#[test]
fn a_state_of_any_recipe_is_handed_over_to_the_bit() {
    let plans: Vec<_> = (1..=3).map(planned).collect();
    for (name, recipe) in recipes() {
        let make = &|| trainer(&with_dropout(), recipe.clone());
        let (expected, _) = train(make, &plans, (1, 1));
        let plans = &plans;
        let run = |(rank, mut member): (usize, Member)| -> Trainer {
            let (mut trainer, lanes) = (make(), 2 * rank as u32..2 * rank as u32 + 2);
            if rank == 0 {
                trainer = train(make, &plans[..2], (1, 1)).0;
            }
            let handover = Handover { is_source: rank == 0, lanes: std::slice::from_ref(&lanes), update: Update(2) };
            trainer.hand_over(handover, &mut member).unwrap();
            trainer.step(&plans[2], std::slice::from_ref(&lanes), &examples(), &mut member).unwrap();
            trainer
        };
        std::thread::scope(|scope| {
            let ranks: Vec<_> =
                group(2, 4).into_iter().enumerate().map(|rank| scope.spawn(move || run(rank))).collect();
            for rank in ranks {
                let trainer = rank.join().unwrap();
                assert!(trainer.parameters().unwrap() == expected.parameters().unwrap(), "{name}");
                assert!(trainer.memory().unwrap() == expected.memory().unwrap(), "{name}");
            }
        });
    }
}

#[test]
fn activations_computed_again_change_no_bit() {
    let plans: Vec<_> = (1..=2).map(planned).collect();
    for (name, recipe) in recipes() {
        let (usual, _) = train(&|| trainer(&with_dropout(), recipe.clone()), &plans, (1, 1));
        let compute = ComputeSpec { gradient_checkpointing: true, ..recipe.compute };
        let again = TrainSpec { compute, ..recipe };
        let (other, _) = train(&|| trainer(&with_dropout(), again.clone()), &plans, (2, 1));
        assert!(other.parameters().unwrap() == usual.parameters().unwrap(), "{name}");
    }
}
