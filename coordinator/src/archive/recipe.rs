//! What a checkpoint must share with the run that resumes it.

use std::fmt;

use medley_common::identity::Digest;
use medley_common::model::ModelConfig;
use medley_common::schedule::{LrSchedule, Setting};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, SgdSpec, Summation, TrainSpec, TuningSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json_text::{JsonObject, number};

/// All that decides the weights after an update, by name: settings, shape of the model and training rows.
///
/// Workers, threads, logging, saving and the other splits are not in it: they may change between two parts of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipe(JsonObject);

/// A setting that differs between a checkpoint and the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The setting, by its flag where it has one.
    pub name: String,
    /// Its value in the checkpoint; `null` where it was not set.
    pub was: Value,
    /// Its value now; `null` where it is not set.
    pub now: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {}, now {}", self.name, shown(&self.was), shown(&self.now))
    }
}

impl Recipe {
    /// The recipe of a run of `spec` on `model`; `train_rows` is a digest of the training rows as they are encoded.
    #[must_use]
    pub fn new(spec: &TrainSpec, model: &ModelConfig, train_rows: Digest) -> Self {
        // Taken apart field by field: a new setting does not compile until it is decided here.
        let TrainSpec {
            seed,
            rows_per_update,
            lanes,
            schedule,
            optimizer,
            tuning,
            label_smoothing,
            class_weights,
            data_seed,
            compute,
        } = spec;
        // Activations that are computed again have the same bits, and so have lanes in whatever passes, as far as a device
        // keeps them apart at all.
        let ComputeSpec { precision, gradient_dtype, gradient_checkpointing: _, auto_micro_batch: _, summation } =
            compute;
        let LrSchedule { decay, peak, warmup_updates, total_updates } = schedule;
        let OptimizerSpec { kind, beta1: _, beta2: _, epsilon: _, weight_decay, max_grad_norm } = optimizer;
        let mut fields: JsonObject = [
            ("seed", Value::from(*seed)),
            ("rows_per_update", Value::from(*rows_per_update)),
            ("lanes", Value::from(*lanes)),
            ("lr_scheduler_type", Value::from(decay.name())),
            ("learning_rate", number(*peak)),
            ("warmup_steps", Value::from(*warmup_updates)),
            ("max_steps", Value::from(*total_updates)),
            ("optim", Value::from(kind.name())),
            ("weight_decay", number(*weight_decay)),
            ("max_grad_norm", max_grad_norm.map_or(Value::Null, number)),
            ("label_smoothing_factor", number(*label_smoothing)),
            ("precision", value(precision)),
            ("gradient_dtype", value(gradient_dtype)),
            ("reproducible", Value::from(*summation == Summation::ByLane)),
            ("train_rows_sha256", Value::from(train_rows.to_string())),
        ]
        .into_iter()
        .chain(settings(optimizer))
        .chain(tuned(tuning))
        .chain(data_seed.map(|seed| ("data_seed", Value::from(seed))))
        .chain((!class_weights.is_empty()).then(|| ("class_weights", value(class_weights))))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let set: JsonObject = decay.settings().map(|(name, setting)| (name.to_owned(), set(&setting))).collect();
        if !set.is_empty() {
            fields.insert("lr_scheduler_kwargs".to_owned(), value(&set));
        }
        if let Value::Object(shape) = value(model) {
            fields.extend(shape.into_iter().map(|(name, value)| (format!("model.{name}"), value)));
        }
        Self(fields)
    }

    /// Adds a setting that decides the weights as well, such as the precision.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The settings by name.
    #[must_use]
    pub fn fields(&self) -> &JsonObject {
        &self.0
    }

    /// What differs between a stored recipe and this one, by name; nothing if they are the same.
    #[must_use]
    pub fn differences(&self, stored: &Self) -> Vec<Difference> {
        let mut names: Vec<&String> = self.0.keys().chain(stored.0.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let field = |recipe: &Self, name: &str| recipe.0.get(name).cloned().unwrap_or(Value::Null);
        names
            .into_iter()
            .map(|name| Difference { name: name.clone(), was: field(stored, name), now: field(self, name) })
            .filter(|difference| difference.was != difference.now)
            .collect()
    }
}

/// What is set about an optimizer, and is of no effect in another.
fn settings(optimizer: &OptimizerSpec) -> Vec<(&'static str, Value)> {
    let OptimizerSpec { kind, beta1, beta2, epsilon, .. } = optimizer;
    match kind {
        OptimizerKind::AdamwHf | OptimizerKind::AdamwTorch => {
            vec![("adam_beta1", number(*beta1)), ("adam_beta2", number(*beta2)), ("adam_epsilon", number(*epsilon))]
        }
        OptimizerKind::Sgd(SgdSpec { momentum, dampening, nesterov }) => {
            let set = format!("momentum={momentum},dampening={dampening},nesterov={nesterov}");
            vec![("optim_args", Value::from(set))]
        }
    }
}

/// What is frozen and slowed down; nothing of it is said where nothing is, as before there was such a thing.
fn tuned(tuning: &TuningSpec) -> impl Iterator<Item = (&'static str, Value)> {
    let TuningSpec { frozen_layers, layer_lr_decay } = tuning;
    let frozen = frozen_layers.map(|layers| match layers {
        0 => ("freeze_embeddings", Value::from(true)),
        layers => ("freeze_layers", Value::from(layers)),
    });
    frozen.into_iter().chain(layer_lr_decay.map(|decay| ("layer_lr_decay", number(decay))))
}

/// Rates as they are typed: `3e-5`, where JSON prints `0.00003`.
fn shown(value: &Value) -> String {
    match value.as_f64() {
        None if value.is_null() => "not set".to_owned(),
        Some(rate) if value.is_f64() => format!("{rate:?}"),
        _ => value.to_string(),
    }
}

/// A parameter of the schedule, as it is typed.
fn set(setting: &Setting) -> Value {
    match setting {
        Setting::Number(value) => number(*value),
        Setting::Word(word) => Value::from(word.as_str()),
    }
}

fn value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
