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
    /// Where this worker's time went: of the try that was applied, where it took several.
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

/// When one update was made on one worker, how long its phases took, and what its sums cost.
///
/// Where its rows are computed in several passes, each phase is the sum over them. On a GPU, forward and backward are
/// only enqueued: forward is then the time to enqueue it, and backward that and the wait until the device has done both. So
/// is the optimizer's step, which the device makes beside the next forward pass: what that does not hide of it is in the next
/// update's backward. A CPU computes each in its own time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timing {
    /// When it began, in microseconds of the worker's own clock, which begins with its process.
    pub started_us: u64,
    /// Packing the rows and bringing them to the device.
    pub data_seconds: f64,
    /// Forward pass.
    pub forward_seconds: f64,
    /// Backward pass.
    pub backward_seconds: f64,
    /// Waiting for the collective after the backward pass: what computing did not hide of it.
    pub wait_seconds: f64,
    /// Clipping and optimizer; on a GPU: the wait for the gradient's norm, and the time to enqueue the step.
    pub optimizer_seconds: f64,
    /// How long the collective was at work, while the worker computed or waited for it. On a GPU: from the first sum that
    /// was handed over to the last one's end.
    pub exchange_seconds: f64,
    /// Bytes that it sent to other workers; where NCCL adds, the least that such a sum takes.
    pub sent_bytes: u64,
}

impl Timing {
    /// Seconds of all phases; the exchange goes on beside them.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.data_seconds + self.forward_seconds + self.backward_seconds + self.wait_seconds + self.optimizer_seconds
    }
}
