//! The trainer computes what `transformers` does, and what candle's own BERT does.

use candle_core::{D, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use medley_common::example::Example;
use medley_common::identity::RowId;
use medley_common::spec::OptimizerKind;

use super::fixture;
use super::fixture::{config, examples, group, json, plan, spec, train, trainer};
use crate::layout::{Layout, Segment};

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The rows of `forward.json`, as `transformers` was given them but without their padding.
fn forward_examples() -> Vec<Example> {
    let json = json("forward.json");
    let row = |row: usize| {
        let [ids, mask, kinds] =
            ["input_ids", "attention_mask", "token_type_ids"].map(|name| numbers(&json[name][row]));
        let length = mask.iter().filter(|mask| **mask == 1.0).count();
        let first_segment = kinds[..length].iter().filter(|kind| **kind == 0.0).count() as u32;
        let tokens = ids[..length].iter().map(|id| *id as u32).collect();
        Example { tokens, first_segment, label: Some(json["labels"][row].as_u64().unwrap() as u32) }
    };
    (0..8).map(row).collect()
}

#[test]
fn rows_are_tokenised_as_in_the_reference() {
    assert_eq!(examples()[..8], forward_examples());
}

#[test]
fn logits_and_losses_are_those_of_transformers() {
    let reference = json("forward.json");
    let examples = forward_examples();
    let rows: Vec<RowId> = (0..8).map(RowId).collect();
    let predictions = trainer(&config(), spec(OptimizerKind::AdamwHf, 1)).predict(&rows, &examples).unwrap();
    for (row, prediction) in predictions.iter().enumerate() {
        let expected = numbers(&reference["logits"][row]);
        let close = |(got, expected): (&f32, &f64)| (f64::from(*got) - expected).abs() < 1e-5;
        assert!(prediction.logits.iter().zip(&expected).all(close), "{prediction:?} {expected:?}");
    }
    let loss = predictions.iter().map(|prediction| prediction.loss.unwrap()).sum::<f64>() / 8.0;
    assert!((loss - reference["loss"].as_f64().unwrap()).abs() < 1e-5);
}

#[test]
fn logits_are_those_of_candles_bert() {
    let model: Config = serde_json::from_value(json("model/config.json")).unwrap();
    let weights = fixture::path("model/model.safetensors");
    let tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let weights = VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
    let bert = BertModel::load(weights.pp("bert"), &model).unwrap();
    let linear = |name: &str, outputs: usize, x: &Tensor| {
        let layer = candle_nn::linear(32, outputs, weights.pp(name)).unwrap();
        candle_nn::Module::forward(&layer, x).unwrap()
    };
    let examples = examples();
    let rows: Vec<RowId> = (0..40).map(RowId).collect();
    let predictions = trainer(&config(), spec(OptimizerKind::AdamwHf, 1)).predict(&rows, &examples).unwrap();
    for (example, prediction) in examples.iter().zip(&predictions) {
        let ids = Tensor::new(example.tokens.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let kinds: Vec<u32> = (0..example.len() as u32).map(|i| u32::from(i >= example.first_segment)).collect();
        let kinds = Tensor::new(kinds, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let hidden = bert.forward(&ids, &kinds, None).unwrap();
        let first = hidden.get(0).unwrap().narrow(0, 0, 1).unwrap();
        let logits = linear("classifier", 3, &linear("bert.pooler.dense", 32, &first).tanh().unwrap());
        let difference = (logits.squeeze(0).unwrap()
            - Tensor::new(prediction.logits.as_slice(), &Device::Cpu).unwrap())
        .unwrap()
        .abs()
        .unwrap()
        .max(D::Minus1)
        .unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-5, "{prediction:?}: {logits}");
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    let layout = Layout::new(&config());
    let examples = forward_examples();
    let mut member = group(1, 4).remove(0);
    let mut trainer = trainer(&config(), spec(OptimizerKind::AdamwHf, 4));
    trainer.step(&plan(1, 0..8, 4), &[0..4], &examples, &mut member).unwrap();
    let mut gradient = vec![0.0; layout.len()];
    for (segment, values) in member.segments.iter().filter(|(segment, _)| *segment != Segment::Losses) {
        gradient[layout.range(*segment)].copy_from_slice(values);
    }
    for (row, values) in member.words.rows.iter().zip(member.words.values.chunks_exact(32)) {
        let start = layout.range(Segment::Words).start + *row as usize * 32;
        gradient[start..start + 32].copy_from_slice(values);
    }
    let expected = fixture::flat(&layout, "gradients.safetensors");
    for slot in layout.slots() {
        let (name, got) = (&slot.name, &gradient[slot.range.clone()]);
        let expected = &expected[slot.range.clone()];
        assert!(got.iter().any(|value| *value != 0.0), "{name} has no gradient");
        // The bias of the keys shifts all scores of a query alike: its gradient is 0 but for rounding.
        let least = if name.ends_with("key.bias") { 1e-3 } else { 0.0 };
        let scale = expected.iter().fold(least, |most: f32, value| most.max(value.abs()));
        for (got, expected) in got.iter().zip(expected) {
            assert!((got / 8.0 - expected).abs() <= 1e-4 * scale, "{name}: {} {expected} of {scale}", got / 8.0);
        }
    }
    let used: std::collections::BTreeSet<u32> = examples.iter().flat_map(|example| example.tokens.clone()).collect();
    assert!(member.words.rows.iter().eq(&used));
}

fn follow(kind: OptimizerKind, name: &str) -> Vec<f32> {
    let reference = json("trajectory.json");
    let plans: Vec<_> = (0..20).map(|update| plan(update + 1, update as u32 * 8..update as u32 * 8 + 8, 4)).collect();
    let (trainer, reports) = train(&|| trainer(&config(), spec(kind, 4)), &plans, (1, 1));
    for (report, expected) in reports.iter().zip(reference[name].as_array().unwrap()) {
        let loss = report.losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / 8.0;
        for (what, got) in [("loss", loss), ("grad_norm", report.grad_norm), ("lr", report.learning_rate)] {
            let expected = expected[what].as_f64().unwrap();
            assert!((got - expected).abs() <= 1e-4 * expected.max(1.0), "{}: {what} {got} {expected}", report.update);
        }
    }
    trainer.parameters().unwrap().to_vec()
}

#[test]
fn training_follows_transformers_adamw() {
    let layout = Layout::new(&config());
    let trained = follow(OptimizerKind::AdamwHf, "adamw_hf");
    let expected = fixture::flat(&layout, "trained_adamw_hf.safetensors");
    for slot in layout.slots() {
        for (got, expected) in trained[slot.range.clone()].iter().zip(&expected[slot.range.clone()]) {
            assert!((got - expected).abs() < 1e-4, "{}: {got} {expected}", slot.name);
        }
    }
}

#[test]
fn training_follows_torchs_adamw() {
    follow(OptimizerKind::AdamwTorch, "adamw_torch");
}
