//! A state that was written and read again goes on with the same bits, wherever it is taken.

use medley_common::identity::Update;
use medley_common::model::ModelConfig;
use medley_common::plan::Plan;
use medley_common::spec::{OptimizerKind, TrainSpec};

use super::Trainer;
use super::fixture::{config, examples, spec, trainer};
use super::recipes_test::recipes;
use crate::collective::Solo;
use crate::ops::cpu::Cpu;
use crate::weights;

/// Updates after which a run stops and goes on; they cross several ends of an epoch.
const STOPS: u64 = 50;

/// A trainer made of another's files, as a newcomer makes one.
fn restarted(trainer: &Trainer, config: &ModelConfig, spec: &TrainSpec) -> Trainer {
    let (layout, parameters) = (trainer.layout(), trainer.parameters().unwrap());
    let (kind, memory) = (spec.optimizer.kind, trainer.memory().unwrap());
    let memory: Vec<&[f32]> = memory.iter().map(|buffer| &**buffer).collect();
    let model = weights::write_model(&parameters, layout).unwrap().to_vec();
    let position = (trainer.update(), trainer.loss_scale());
    let state = weights::write_optimizer(&kind, &memory, position, layout).unwrap().to_vec();
    let loaded = weights::read("model.safetensors", model, layout, config, spec.seed).unwrap();
    let mut restarted = Trainer::new(Cpu, config.clone(), spec.clone(), loaded.parameters).unwrap();
    let state = weights::read_optimizer(&state, &kind, layout).unwrap();
    restarted.restore(state.memory, state.update).unwrap();
    restarted
}

/// Goes on after each update of a run by this recipe.
fn go_on_after_each(mut spec: TrainSpec, stops: u64) {
    let config = ModelConfig { hidden_dropout: 0.1, attention_dropout: 0.1, classifier_dropout: 0.1, ..config() };
    spec.rows_per_update = 5;
    spec.schedule.total_updates = stops + 1;
    let examples = &examples()[..33];
    let lengths = examples.iter().map(|example| example.len() as u32).collect();
    let mut plan = Plan::new(&spec, lengths);
    let mut straight = trainer(&config, spec.clone());
    let step = |trainer: &mut Trainer, plan: &mut Plan| {
        let mut solo = Solo::new(Cpu, trainer.layout(), 4);
        let planned = plan.update(trainer.update().next());
        trainer.step(&planned, &[0..4], examples, &mut solo).unwrap();
    };
    for stop in 0..=stops {
        let mut resumed = restarted(&straight, &config, &spec);
        assert_eq!(resumed.update(), Update(stop));
        step(&mut straight, &mut plan);
        step(&mut resumed, &mut plan);
        assert!(resumed.parameters().unwrap() == straight.parameters().unwrap(), "stopped after update {stop}");
        assert!(resumed.memory().unwrap() == straight.memory().unwrap(), "stopped after update {stop}");
    }
}

#[test]
fn a_run_goes_on_with_the_same_bits_after_each_of_its_updates() {
    go_on_after_each(spec(OptimizerKind::AdamwHf, 4), STOPS);
}

/// What else a recipe may ask for.
#[test]
fn a_run_of_any_recipe_goes_on_with_the_same_bits() {
    recipes().into_iter().for_each(|(_, recipe)| go_on_after_each(recipe, 4));
}
