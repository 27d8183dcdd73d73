//! The recipe of a run: everything that decides its result, and that every worker follows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::schedule::LrSchedule;

/// What an update is made of. Equal recipes on equal data give equal weights, whatever the number of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Seeds the row order, unless that has a seed of its own, the dropout masks and newly initialised weights.
    pub seed: u64,
    /// Seeds the row order; `None` where `seed` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_seed: Option<u64>,
    /// Rows of the global batch, shared by all workers; the last update of an epoch may have fewer.
    pub rows_per_update: u32,
    /// Canonical micro-batches an update is cut into.
    pub lanes: u32,
    /// The learning rate of every update, and how many updates there are.
    pub schedule: LrSchedule,
    /// How gradients become weights.
    pub optimizer: OptimizerSpec,
    /// Which parameters are trained, and how fast.
    #[serde(default, skip_serializing_if = "TuningSpec::is_usual")]
    pub tuning: TuningSpec,
    /// Probability mass spread evenly over all labels.
    pub label_smoothing: f64,
    /// How much each class counts in the loss, by label, all above 0; empty: all alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_weights: Vec<f64>,
    /// How devices compute it.
    pub compute: ComputeSpec,
}

/// Which parameters are trained, and how fast; by default, all of them alike.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TuningSpec {
    /// The embeddings and so many of the lowest encoder layers stay as they are; `None`: nothing does.
    pub frozen_layers: Option<u32>,
    /// What the learning rate is multiplied by from the head down, once for each layer and once for the embeddings below
    /// them; `None`: all have the same.
    pub layer_lr_decay: Option<f64>,
}

impl TuningSpec {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How devices compute: the precision of a result, and what it costs, but not what is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ComputeSpec {
    /// The numbers of products and activations.
    pub precision: Precision,
    /// The numbers in which gradients travel between GPUs.
    pub gradient_dtype: GradientDtype,
    /// Whether backward computes a layer's activations again instead of keeping those of all layers.
    pub gradient_checkpointing: bool,
    /// Whether a worker whose memory does not hold its lanes at once computes them in several passes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_micro_batch: bool,
    /// In which order sums over rows are added.
    #[serde(default)]
    pub summation: Summation,
}

/// In which order sums over rows are added (`--reproducible`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summation {
    /// Lane by lane, in one tree: the same bits at any number of workers, and through any fault.
    #[default]
    ByLane,
    /// All lanes of a worker at once, then the workers': the bits depend on who computes what.
    ByWorker,
}

/// The format of the matrix products and activations; weights, moments, softmax, norms, losses and sums are `float32` in
/// all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE 754 single precision.
    #[default]
    Float32,
    /// Single precision with 10 bits of mantissa in matrix products.
    Tf32,
    /// Half precision (`--fp16`), with a loss scale.
    Float16,
    /// Brain floating point (`--bf16`).
    Bfloat16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        })
    }
}

/// The format in which NCCL sums gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientDtype {
    /// IEEE 754 single precision.
    #[default]
    Float32,
    /// Brain floating point: half the bytes, sums rounded on their way.
    Bfloat16,
}

/// The optimizer and its clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Decay of the first moment; of AdamW.
    pub beta1: f64,
    /// Decay of the second moment; of AdamW.
    pub beta2: f64,
    /// Added to the root of the second moment; of AdamW.
    pub epsilon: f64,
    /// Weight decay of all but biases and layer norms: decoupled in AdamW, added to the gradient in SGD.
    pub weight_decay: f64,
    /// Bound of the gradient's global L2 norm; `None` clips nothing.
    pub max_grad_norm: Option<f64>,
}

/// An optimizer of Hugging Face's `--optim`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// `transformers.AdamW` of 4.22: epsilon is added before the bias correction, decay comes after the step.
    AdamwHf,
    /// `torch.optim.AdamW`: epsilon is added after the bias correction, decay comes before the step.
    AdamwTorch,
    /// `torch.optim.SGD`.
    Sgd(SgdSpec),
}

impl OptimizerKind {
    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AdamwHf => "adamw_hf",
            Self::AdamwTorch => "adamw_torch",
            Self::Sgd(_) => "sgd",
        }
    }

    /// What it remembers of each parameter, a number each, by torch's names.
    #[must_use]
    pub fn memory(&self) -> &'static [&'static str] {
        match self {
            Self::AdamwHf | Self::AdamwTorch => &["exp_avg", "exp_avg_sq"],
            Self::Sgd(SgdSpec { momentum, .. }) if *momentum > 0.0 => &["momentum_buffer"],
            Self::Sgd(_) => &[],
        }
    }
}

/// What is set about `torch.optim.SGD` (`--optim_args`).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct SgdSpec {
    /// Share of the momentum that stays, in [0, 1); 0 for none.
    pub momentum: f64,
    /// Share of a gradient that the momentum does not take, in [0, 1]; not of the first.
    pub dampening: f64,
    /// Whether a step looks ahead by the momentum (Nesterov).
    pub nesterov: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Decay;

    fn spec() -> TrainSpec {
        TrainSpec {
            seed: 42,
            data_seed: None,
            rows_per_update: 8,
            lanes: 4,
            schedule: LrSchedule { decay: Decay::linear(), peak: 1.0, warmup_updates: 0, total_updates: 1 },
            optimizer: OptimizerSpec {
                kind: OptimizerKind::AdamwHf,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                max_grad_norm: None,
            },
            tuning: TuningSpec::default(),
            label_smoothing: 0.0,
            class_weights: Vec::new(),
            compute: ComputeSpec::default(),
        }
    }

    /// Ledgers of earlier versions have no such fields, and none are written where nothing is asked for.
    #[test]
    fn a_usual_recipe_is_written_and_read_as_before() {
        let text = serde_json::to_string(&spec()).unwrap();
        assert!(text.contains(r#""kind":"adamw_hf""#), "{text}");
        assert!(!text.contains("tuning") && !text.contains("class_weights"), "{text}");
        assert_eq!(serde_json::from_str::<TrainSpec>(&text).unwrap(), spec());
    }

    #[test]
    fn any_recipe_is_read_back() {
        let mut recipe = spec();
        recipe.optimizer.kind = OptimizerKind::Sgd(SgdSpec { momentum: 0.9, dampening: 0.0, nesterov: true });
        recipe.tuning = TuningSpec { frozen_layers: Some(0), layer_lr_decay: Some(0.95) };
        recipe.class_weights = vec![0.1, 3.0];
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<TrainSpec>(&text).unwrap(), recipe);
    }
}
