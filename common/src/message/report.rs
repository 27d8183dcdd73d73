//! What a worker says of an update that it has made.

use crate::identity::{Digest, RowId, Update};

/// What one worker did of one update.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateReport {
    /// The update, from 1.
    pub update: Update,
    /// The learning rate it was made with: the coordinator's own, to the bit.
    pub learning_rate: f64,
    /// L2 norm of the mean gradient before clipping: the same on all ranks.
    pub grad_norm: f64,
    /// Whether the weights stayed as they were, because a gradient overflowed in half precision; its norm then counts as
    /// 0. The same on all ranks.
    pub skipped: bool,
    /// What this worker's lanes held.
    pub lanes: Vec<LaneReport>,
    /// Sum of the losses of each lane of the update, this worker's or not: the same on all ranks.
    pub losses: Vec<f32>,
    /// Tokens this worker computed.
    pub tokens: u64,
    /// Digest of the parameters after it, in layout order; `None` but where one is due ([`digest_every`](super::Welcome::digest_every)).
    pub parameters: Option<Digest>,
    /// Where this worker's time went.
    pub timing: Timing,
}

/// One lane of one update, as it was computed.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneReport {
    /// Index of the lane.
    pub lane: u32,
    /// Its rows, in the order computed.
    pub rows: Vec<RowId>,
}

/// Seconds of one update's phases on one worker.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timing {
    /// Packing the rows and bringing them to the device.
    pub data_seconds: f64,
    /// Forward pass.
    pub forward_seconds: f64,
    /// Backward pass.
    pub backward_seconds: f64,
    /// Waiting for the collective after the backward pass.
    pub wait_seconds: f64,
    /// Clipping and optimizer.
    pub optimizer_seconds: f64,
}
