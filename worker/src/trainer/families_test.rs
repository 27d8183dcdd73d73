//! RoBERTa and ELECTRA compute what `transformers` does: `tests/peers/families.py` has written down what that is.

use std::path::PathBuf;

use medley_common::example::Example;
use medley_common::identity::RowId;
use medley_common::model::{Family, ModelConfig};
use medley_common::spec::OptimizerKind;

use super::Trainer;
use super::fixture::{fixtures, flat_at, group, plan, spec, train_on};
use crate::layout::{Layout, Segment};
use crate::ops::cpu::Cpu;

const LANES: u32 = 4;

/// A tiny model of a family, and what transformers computes with it.
pub(super) struct Tiny {
    name: &'static str,
    pub(super) config: ModelConfig,
    pub(super) examples: Vec<Example>,
    reference: serde_json::Value,
}

impl Tiny {
    pub(super) fn new(name: &'static str) -> Self {
        let json = |file: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder(name).join(file)).unwrap()).unwrap()
        };
        let (model, reference) = (json("model/config.json"), json("reference.json"));
        let size = |field: &str| model[field].as_u64().unwrap() as u32;
        let config = ModelConfig {
            family: match name {
                "roberta" => Family::Roberta { pad_token_id: size("pad_token_id") },
                _ => Family::Electra { embedding_size: size("embedding_size") },
            },
            vocab_size: size("vocab_size"),
            hidden_size: size("hidden_size"),
            num_hidden_layers: size("num_hidden_layers"),
            num_attention_heads: size("num_attention_heads"),
            intermediate_size: size("intermediate_size"),
            max_position_embeddings: size("max_position_embeddings"),
            type_vocab_size: size("type_vocab_size"),
            layer_norm_eps: model["layer_norm_eps"].as_f64().unwrap(),
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: 0.0,
            initializer_range: 0.02,
            num_labels: 3,
        };
        let example = |row: &serde_json::Value| Example {
            tokens: numbers(&row["input_ids"]).into_iter().map(|id| id as u32).collect(),
            first_segment: row["first_segment"].as_u64().unwrap() as u32,
            label: Some(row["label"].as_u64().unwrap() as u32),
        };
        let examples = reference["rows"].as_array().unwrap().iter().map(example).collect();
        Self { name, config, examples, reference }
    }

    fn both() -> [Self; 2] {
        ["roberta", "electra"].map(Self::new)
    }

    pub(super) fn dropping(mut self) -> Self {
        let config = &mut self.config;
        (config.hidden_dropout, config.attention_dropout, config.classifier_dropout) = (0.1, 0.1, 0.3);
        self
    }

    pub(super) fn parameters(&self, file: &str) -> Vec<f32> {
        flat_at(&Layout::new(&self.config), &folder(self.name).join(file))
    }

    fn trainer(&self, parameters: Vec<f32>) -> Trainer {
        Trainer::new(Cpu, self.config.clone(), spec(OptimizerKind::AdamwTorch, LANES), parameters).unwrap()
    }

    fn start(&self) -> Trainer {
        self.trainer(self.parameters("model/model.safetensors"))
    }

    /// The summed loss of the first 8 rows in update 1, and its gradient in the order of the layout.
    fn differentiate(&self, parameters: Vec<f32>) -> (f64, Vec<f32>) {
        let layout = Layout::new(&self.config);
        let mut member = group(1, LANES).remove(0);
        let lanes = std::slice::from_ref(&(0..LANES));
        let report = self.trainer(parameters).step(&plan(1, 0..8, LANES), lanes, &self.examples, &mut member).unwrap();
        let mut gradient = vec![0.0; layout.len()];
        for (segment, values) in member.segments.iter().filter(|(segment, _)| *segment != Segment::Losses) {
            gradient[layout.range(*segment)].copy_from_slice(values);
        }
        let width = self.config.embedding_size() as usize;
        for (row, values) in member.words.rows.iter().zip(member.words.values.chunks_exact(width)) {
            gradient[*row as usize * width..][..width].copy_from_slice(values);
        }
        (report.losses.iter().map(|loss| f64::from(*loss)).sum(), gradient)
    }
}

fn folder(name: &str) -> PathBuf {
    fixtures().join(format!("tiny-{name}"))
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn assert_predicts(trainer: &mut Trainer, examples: &[Example], expected: &serde_json::Value) {
    let rows: Vec<RowId> = (0..8).map(RowId).collect();
    let predictions = trainer.predict(&rows, examples).unwrap();
    for (prediction, expected) in predictions.iter().zip(expected["logits"].as_array().unwrap()) {
        let expected = numbers(expected);
        let close = |(got, expected): (&f32, &f64)| (f64::from(*got) - expected).abs() < 1e-5;
        assert!(prediction.logits.iter().zip(&expected).all(close), "{prediction:?} {expected:?}");
    }
    let loss = predictions.iter().map(|prediction| prediction.loss.unwrap()).sum::<f64>() / 8.0;
    assert!((loss - expected["loss"].as_f64().unwrap()).abs() < 1e-5);
}

#[test]
fn logits_and_losses_are_those_of_transformers() {
    for tiny in Tiny::both() {
        assert_predicts(&mut tiny.start(), &tiny.examples, &tiny.reference);
    }
}

/// Where embeddings are as wide as the encoder, as in ELECTRA's large models, nothing is projected. Its weights are a formula
/// that both sides compute.
#[test]
fn an_electra_without_projection_is_that_of_transformers() {
    let mut tiny = Tiny::new("electra");
    let expected = tiny.reference["formula"].clone();
    tiny.config.family = Family::Electra { embedding_size: expected["embedding_size"].as_u64().unwrap() as u32 };
    let layout = Layout::new(&tiny.config);
    let value = |name: &str, i: usize| 0.2 * (0.7 * i as f64 + name.len() as f64).sin();
    let mut parameters = Vec::new();
    for slot in layout.slots() {
        let norm = if slot.name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        parameters.extend((0..slot.range.len()).map(|i| value(&slot.name, i) as f32 + norm));
    }
    assert_predicts(&mut tiny.trainer(parameters), &tiny.examples, &expected);
}

#[test]
fn gradients_are_those_of_transformers() {
    for tiny in Tiny::both() {
        let (_, gradient) = tiny.differentiate(tiny.parameters("model/model.safetensors"));
        let expected = tiny.parameters("gradients.safetensors");
        for slot in Layout::new(&tiny.config).slots() {
            let (name, got) = (&slot.name, &gradient[slot.range.clone()]);
            let expected = &expected[slot.range.clone()];
            assert!(got.iter().any(|value| *value != 0.0), "{name} has no gradient");
            // The bias of the keys shifts all scores of a query alike: its gradient is 0 but for rounding.
            let least = if name.ends_with("key.bias") { 1e-2 } else { 0.0 };
            let scale = expected.iter().fold(least, |most: f32, value| most.max(value.abs()));
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() <= 1e-4 * scale, "{name}: {got} {expected} of {scale}");
            }
        }
    }
}

/// Dropout is not transformers': what backward drops is what forward dropped, as the loss along the gradient shows.
#[test]
fn gradients_are_those_of_the_loss_with_dropout() {
    for tiny in Tiny::both().map(Tiny::dropping) {
        let start = tiny.parameters("model/model.safetensors");
        let (_, gradient) = tiny.differentiate(start.clone());
        // Of the classifier and the embeddings: what lies between is the same for all families.
        let layout = Layout::new(&tiny.config);
        for segment in [Segment::Head, Segment::Embeddings] {
            let range = layout.range(segment);
            let square: f64 = gradient[range.clone()].iter().map(|value| f64::from(*value).powi(2)).sum();
            let step = 0.02 / square;
            let moved = |step: f64| {
                let mut moved = start.clone();
                let pairs = moved[range.clone()].iter_mut().zip(&gradient[range.clone()]);
                pairs.for_each(|(value, slope)| *value += (step * f64::from(*slope)) as f32);
                tiny.differentiate(moved).0
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope / square - 1.0).abs() < 5e-3, "{} {segment:?}: {slope} {square}", tiny.name);
        }
    }
}

#[test]
fn training_follows_transformers() {
    for tiny in Tiny::both() {
        let plans: Vec<_> = (0..10).map(|u| plan(u + 1, u as u32 * 8..u as u32 * 8 + 8, LANES)).collect();
        let (trainer, reports) = train_on(&tiny.examples, &|| tiny.start(), &plans, (1, 1));
        for (report, expected) in reports.iter().zip(tiny.reference["updates"].as_array().unwrap()) {
            let loss = report.losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / 8.0;
            for (what, got) in [("loss", loss), ("grad_norm", report.grad_norm), ("lr", report.learning_rate)] {
                let expected = expected[what].as_f64().unwrap();
                let (name, update) = (tiny.name, report.update);
                assert!((got - expected).abs() <= 1e-4 * expected.max(1.0), "{name} {update}: {what} {got} {expected}");
            }
        }
        let (trained, expected) = (trainer.parameters().unwrap(), tiny.parameters("trained.safetensors"));
        for slot in trainer.layout().slots() {
            // The bias of the keys has no gradient but rounding, which AdamW makes as large as any: all rates' sum is 9e-3.
            let tolerance = if slot.name.ends_with("key.bias") { 1e-2 } else { 1e-4 };
            for (got, expected) in trained[slot.range.clone()].iter().zip(&expected[slot.range.clone()]) {
                assert!((got - expected).abs() < tolerance, "{}: {got} {expected}", slot.name);
            }
        }
    }
}

/// INV-8: the same bits at every number of workers and threads.
#[test]
fn every_number_of_ranks_makes_the_same_weights() {
    for tiny in Tiny::both().map(Tiny::dropping) {
        let plans: Vec<_> = (0..4).map(|u| plan(u + 1, u as u32 * 8..u as u32 * 8 + 8, LANES)).collect();
        let weights = |size| {
            let (trainer, _) = train_on(&tiny.examples, &|| tiny.start(), &plans, size);
            trainer.parameters().unwrap().to_vec()
        };
        let one = weights((1, 1));
        assert_ne!(one, tiny.parameters("model/model.safetensors"));
        for size in [(1, 3), (2, 1), (3, 2), (4, 1)] {
            assert!(weights(size) == one, "{}: {size:?}", tiny.name);
        }
    }
}
