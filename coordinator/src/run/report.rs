//! What a run has to say: the values that the archive writes and the status shows.

use medley_common::evaluation::{Prediction, Tally};
use medley_common::identity::{Digest, Generation, RowId, Split, Update, WorkerId};
use medley_common::message::{Failure, Lanes};
use serde::{Deserialize, Serialize};

/// One applied update: a record of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// The update, from 1.
    pub update: Update,
    /// From 1: one more each time that workers were lost while it was made.
    pub attempt: u32,
    /// Epochs done after it.
    pub epoch: f64,
    /// The learning rate it was made with.
    pub learning_rate: f64,
    /// Mean loss over its rows, by the weights of their classes where those have some.
    pub loss: f64,
    /// L2 norm of its gradient before clipping.
    pub grad_norm: f64,
    /// Whether it moved no weight, because a gradient overflowed in half precision; its norm is then 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// The rows of each lane, as the workers computed them.
    pub lanes: Vec<Vec<RowId>>,
    /// The worker that computed each lane, empty lanes included.
    pub workers: Vec<WorkerId>,
    /// Tokens computed.
    pub tokens: u64,
    /// Digest of the parameters after it, in layout order; `None` where it was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Digest>,
}

/// A group of workers that is connected: who computes which lanes from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its number.
    pub generation: Generation,
    /// Its members, by rank.
    pub members: Vec<MemberRecord>,
}

impl GroupRecord {
    /// Two members whose programs are not the same, if there are such.
    #[must_use]
    pub fn different_programs(&self) -> Option<(WorkerId, WorkerId)> {
        let one = self.members.first()?;
        let other = self.members.iter().find(|member| member.program != one.program)?;
        Some((one.worker, other.worker))
    }
}

/// A worker of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name.
    pub worker: WorkerId,
    /// Its host's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// What it computes on.
    pub device: String,
    /// Its host's processor, and the instructions it computes with.
    pub processor: String,
    /// Threads it computes with.
    pub threads: u32,
    /// SHA-256 of its program.
    pub program: Digest,
    /// The lanes that it computes.
    pub lanes: Lanes,
}

/// A line of the training log: `logging_steps` updates in one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainLog {
    /// The last update it covers.
    pub update: Update,
    /// Epochs done after it.
    pub epoch: f64,
    /// Mean of the updates' losses since the last line.
    pub loss: f64,
    /// Gradient norm of the last update.
    pub grad_norm: f64,
    /// Learning rate of the last update.
    pub learning_rate: f64,
    /// Updates of the run so far that moved no weight.
    pub skipped: u64,
}

/// The result of predicting a split.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationReport {
    /// The split.
    pub split: Split,
    /// Updates done when it was predicted.
    pub update: Update,
    /// Epochs done when it was predicted.
    pub epoch: f64,
    /// Sums over the labelled rows.
    pub tally: Tally,
    /// All rows, in row order.
    pub predictions: Vec<Prediction>,
    /// Their labels, by row id; `None` for an unlabelled row.
    pub labels: Vec<Option<u32>>,
    /// Seconds from the order to the last prediction.
    pub seconds: f64,
}

/// What training came to, as far as it went in this process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainSummary {
    /// Updates done, those before a resume included.
    pub update: Update,
    /// Epochs done.
    pub epoch: f64,
    /// Mean loss over the updates of the run, as far as they are known.
    pub mean_loss: f64,
    /// Rows computed in this process.
    pub rows: u64,
    /// Updates made in this process.
    pub updates: u64,
    /// Seconds from the first order to train to the last update, evaluations and saves included.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All that was asked for is done.
    Completed,
    /// Stopped on request.
    Stopped {
        /// Updates made.
        update: Update,
        /// Updates done in the newest saved state; `None` where there is none.
        saved: Option<Update>,
    },
    /// It cannot go on.
    Failed(Failure),
}
