//! The recipe of a run: everything that decides its result, and that every worker follows.

use serde::{Deserialize, Serialize};

use crate::schedule::LrSchedule;

/// What an update is made of. Equal recipes on equal data give equal weights, whatever the number of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Seeds the row order, the dropout masks and newly initialised weights.
    pub seed: u64,
    /// Rows of the global batch, shared by all workers; the last update of an epoch may have fewer.
    pub rows_per_update: u32,
    /// Canonical micro-batches an update is cut into.
    pub lanes: u32,
    /// The learning rate of every update, and how many updates there are.
    pub schedule: LrSchedule,
    /// How gradients become weights.
    pub optimizer: OptimizerSpec,
    /// Probability mass spread evenly over all labels.
    pub label_smoothing: f64,
}

/// The numbers that products and activations are computed in. Master weights, moments, softmax, norms, losses and sums
/// are `f32` in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// `f32`.
    #[default]
    Fp32,
    /// `f32`, its products rounded to 10 bits of fraction by the tensor cores that do so.
    Tf32,
    /// `bfloat16`.
    Bf16,
    /// IEEE half precision, with a loss scale.
    Fp16,
}

/// AdamW and its clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// Which AdamW.
    pub kind: OptimizerKind,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of all but biases and layer norms.
    pub weight_decay: f64,
    /// Bound of the gradient's global L2 norm; `None` clips nothing.
    pub max_grad_norm: Option<f64>,
}

/// The two AdamW of Hugging Face's `--optim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// `transformers.AdamW` of 4.22: epsilon is added before the bias correction, decay comes after the step.
    AdamwHf,
    /// `torch.optim.AdamW`: epsilon is added after the bias correction, decay comes before the step.
    AdamwTorch,
}
