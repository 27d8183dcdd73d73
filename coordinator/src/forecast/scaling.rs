//! How long an update takes on many GPUs, on paper.
//!
//! The model is that of data parallelism with sums that overlap with backward: a sum of `S` bytes over `N` nodes of `g` GPUs
//! takes the longer of the ring within a node, `2 (g-1)/g S / NVLINK`, and that between nodes, `2 (N-1)/N S/g / NETWORK`, and
//! what NCCL's tuner counts for each bucket (`src/graph/tuning.cc` of NCCL 2.30): the ring's start, its steps over NVLink, and
//! twice the depth of the tree over the network. Backward hides all but its last bucket; what is hidden costs a share of the
//! GPU all the same. Products reach a share of the peak that grows with the tokens of a pass.
//!
//! The constants are published ones and estimates of an H200 with eight to a node and a port of 400 Gb/s each. **None is
//! fitted to a measurement yet.**

use medley_common::model::ModelConfig;
use medley_common::spec::{ComputeSpec, GradientDtype, OptimizerKind, Precision, TrainSpec};
use serde::Serialize;

/// GPUs of a node.
const NODE_GPUS: u32 = 8;
/// Bytes a second of a ring within a node (NCCL's bus bandwidth of 2 to 8 H100).
const NVLINK: f64 = 370e9;
/// Bytes a second of a GPU's port.
const NETWORK: f64 = 45e9;
/// Bytes a second of a GPU's memory, and the share of it that an optimizer's pass reaches.
const MEMORY: (f64, f64) = (4.3e12, 0.92);
/// Seconds before a ring begins, of a step over NVLink, and of one over the network.
const RING_START: f64 = 8.4e-6;
const NVLINK_STEP: f64 = 3.4e-6;
const NETWORK_STEP: f64 = 14e-6;
/// What a hidden sum takes of the computation beside it.
const INTERFERENCE: f64 = 0.04;
/// The share of forward and backward during which gradients come out.
const BACKWARD: f64 = 0.66;
/// Tokens of a pass, and the share of the peak that forward and backward reach then.
const UTILISATION: [(f64, f64); 5] = [(180.0, 0.2), (720.0, 0.44), (1440.0, 0.53), (2880.0, 0.6), (8192.0, 0.71)];

/// Launches of an encoder layer and of all else in an update, which `worker/kernels/NOTES.md` counts, and seconds of each: the
/// host needs them, however little there is to compute.
const LAUNCHES: (f64, f64, f64) = (31.0, 24.0, 2.5e-6);

/// An update on so many GPUs. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scaling {
    /// The GPUs.
    pub gpus: u32,
    /// Rows of an update, of all GPUs.
    pub rows_per_update: u64,
    /// Lanes that it must have at least, `--lanes`: no worker has less than one.
    pub lanes: u32,
    /// Rows that the busiest GPU has of them.
    pub rows_of_one: u64,
    /// The whole update.
    pub update_ms: f64,
    /// Forward and backward.
    pub compute_ms: f64,
    /// The optimizer.
    pub optimizer_ms: f64,
    /// The sum of gradients.
    pub sum_ms: f64,
    /// What backward does not hide of it.
    pub exposed_ms: f64,
    /// Rows a second of all GPUs.
    pub rows_per_second: f64,
    /// That by so many times the rows a second of a single GPU.
    pub efficiency: f64,
}

/// A run, as far as its speed goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    pub model: &'a ModelConfig,
    pub train: &'a TrainSpec,
    /// What GPUs compute in.
    pub compute: ComputeSpec,
    /// Tokens of a row, on average.
    pub row_tokens: f64,
    pub batch: Batch,
}

/// The rows of an update.
#[derive(Debug, Clone, Copy)]
pub(super) enum Batch {
    /// So many, which all GPUs share.
    Shared(u64),
    /// So many for each GPU.
    Each(u64),
}

/// What an update takes on one GPU by itself, in seconds.
#[derive(Debug, Clone, Copy)]
struct Alone {
    compute: f64,
    optimizer: f64,
}

impl Work<'_> {
    /// What updates on so many GPUs come to.
    pub(super) fn on(&self, gpus: u32) -> Scaling {
        let single = self.rows_per_second(1);
        let (rows_per_update, rows_of_one, alone, (sum, exposed)) = self.parts(gpus);
        let lanes = self.train.lanes.max(gpus);
        let rows_per_second = self.rows_per_second(gpus);
        let update = rows_per_update as f64 / rows_per_second;
        let [update_ms, compute_ms, optimizer_ms, sum_ms, exposed_ms] =
            [update, alone.compute, alone.optimizer, sum, exposed].map(|seconds| seconds * 1e3);
        Scaling {
            gpus,
            rows_per_update,
            lanes,
            rows_of_one,
            update_ms,
            compute_ms,
            optimizer_ms,
            sum_ms,
            exposed_ms,
            rows_per_second,
            efficiency: rows_per_second / (f64::from(gpus) * single),
        }
    }

    fn rows_per_second(&self, gpus: u32) -> f64 {
        let (rows, _, alone, (sum, exposed)) = self.parts(gpus);
        rows as f64 / (alone.compute + alone.optimizer + exposed + INTERFERENCE * (sum - exposed))
    }

    /// Rows of an update and of the busiest GPU, what that takes by itself, and the sum with what is not hidden of it.
    fn parts(&self, gpus: u32) -> (u64, u64, Alone, (f64, f64)) {
        let rows = match self.batch {
            Batch::Shared(rows) => rows,
            Batch::Each(rows) => rows * u64::from(gpus),
        };
        // Rows are dealt to lanes, and lanes to workers.
        let lanes = u64::from(self.train.lanes.max(gpus));
        let rows_of_one = lanes.div_ceil(u64::from(gpus)) * rows.div_ceil(lanes);
        let alone = self.alone(rows_of_one as f64);
        let bytes = self.gradients()
            * match self.compute.gradient_dtype {
                GradientDtype::Float32 => 4.0,
                GradientDtype::Bfloat16 => 2.0,
            };
        // Each layer's, and those of embeddings and head.
        let buckets = f64::from(self.model.num_hidden_layers) + 2.0;
        (rows, rows_of_one, alone, summed(alone.compute * BACKWARD, bytes, gpus, buckets))
    }

    fn alone(&self, rows: f64) -> Alone {
        let tokens = rows * self.row_tokens;
        let model = self.model;
        let (hidden, inner) = (f64::from(model.hidden_size), f64::from(model.intermediate_size));
        let layers = f64::from(model.num_hidden_layers);
        // Products of a layer for each token, attention's with the tokens of its row; backward is twice forward.
        let layer = 2.0 * (4.0 * hidden * hidden + 2.0 * hidden * inner) + 4.0 * hidden * self.row_tokens;
        let peak = match self.compute.precision {
            Precision::Float16 | Precision::Bfloat16 => 790e12,
            Precision::Tf32 => 395e12,
            Precision::Float32 => 60e12,
        };
        let again = if self.compute.gradient_checkpointing { 4.0 } else { 3.0 };
        let operations = again * layers * layer * tokens;
        let parameters = model.parameters() as f64;
        // Parameters and what the optimizer remembers, read and written; gradients read; the narrow copy written.
        let remembered = match self.train.optimizer.kind {
            OptimizerKind::AdamwHf | OptimizerKind::AdamwTorch => 2.0,
            OptimizerKind::Sgd(sgd) => f64::from(u8::from(sgd.momentum > 0.0)),
        };
        let bytes = parameters * (8.0 * (1.0 + remembered) + 4.0 + 2.0);
        let (of_layer, others, launch) = LAUNCHES;
        let launches = (of_layer * layers + others) * launch;
        Alone {
            compute: (operations / (peak * utilisation(tokens))).max(launches),
            optimizer: bytes / (MEMORY.0 * MEMORY.1),
        }
    }

    /// Numbers of the gradients that are sent.
    fn gradients(&self) -> f64 {
        self.model.trained_parameters(self.train.tuning.frozen_layers) as f64
    }
}

/// Seconds of a sum of `bytes` in `buckets` over `gpus`, and those of them that a `backward` of so many seconds does not hide.
fn summed(backward: f64, bytes: f64, gpus: u32, buckets: f64) -> (f64, f64) {
    if gpus < 2 {
        return (0.0, 0.0);
    }
    let node = f64::from(gpus.min(NODE_GPUS));
    let nodes = (f64::from(gpus) / f64::from(NODE_GPUS)).ceil();
    let within = 2.0 * (node - 1.0) / node * bytes / NVLINK;
    let between = 2.0 * (nodes - 1.0) / nodes * (bytes / node) / NETWORK;
    let steps = RING_START + 2.0 * (node - 1.0) * NVLINK_STEP + 2.0 * nodes.log2().ceil() * NETWORK_STEP;
    let sum = within.max(between) + buckets * steps;
    let exposed = (sum - backward * (1.0 - 1.0 / buckets)).max(0.0) + sum / buckets;
    (sum, exposed.min(sum))
}

/// The share of the peak at so many tokens a pass: between those that are known, by the logarithm of the tokens.
fn utilisation(tokens: f64) -> f64 {
    let [(fewest, least), .., (_, most)] = UTILISATION;
    if tokens <= fewest {
        // A product of few rows takes as long as one of some.
        return (least * tokens / fewest).max(1e-3);
    }
    let between = UTILISATION.windows(2).find_map(|pair| match pair {
        [(from, low), (to, high)] if tokens <= *to => {
            Some(low + (high - low) * (tokens / from).ln() / (to / from).ln())
        }
        _ => None,
    });
    between.unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published model's own table: 11 buckets of 0.67 GB, 5 ms of forward and backward, of which gradients come out in
    /// 3.3, an optimizer of 2.35 ms.
    #[test]
    fn efficiencies_are_those_of_the_model() {
        let efficiency = |gpus, bytes| {
            let (sum, exposed) = summed(3.3e-3, bytes, gpus, 11.0);
            7.35e-3 / (7.35e-3 + exposed + INTERFERENCE * (sum - exposed))
        };
        for (gpus, bf16) in [(2, 0.97), (8, 0.86), (16, 0.82), (64, 0.76), (256, 0.68), (1024, 0.64)] {
            let found = efficiency(gpus, 0.667e9);
            assert!((found - bf16).abs() < 0.01, "{gpus}: {found}");
        }
        // Of twice the bytes, as far as that table's optimizer is the same.
        assert!((efficiency(2, 1.334e9) - 0.87).abs() < 0.03 && (efficiency(8, 1.334e9) - 0.6).abs() < 0.03);
    }

    #[test]
    fn products_of_more_tokens_come_closer_to_the_peak() {
        let shares = [1.0, 100.0, 180.0, 500.0, 720.0, 1440.0, 5000.0, 8192.0, 1e6].map(utilisation);
        assert!(shares.is_sorted() && shares[8] == 0.71 && (shares[5] - 0.53).abs() < 1e-12, "{shares:?}");
    }
}
