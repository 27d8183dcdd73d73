//! The recipe whose plan is timed and counted: 32 rows an update, in 8 lanes.

use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec, TuningSpec};

/// That of a run of so many updates.
pub(crate) fn of(updates: u64) -> TrainSpec {
    TrainSpec {
        seed: 42,
        data_seed: None,
        rows_per_update: 32,
        lanes: 8,
        schedule: LrSchedule { decay: Decay::linear(), peak: 1e-5, warmup_updates: 0, total_updates: updates },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwTorch,
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
