//! What a run is asked to do: everything that is known before workers arrive.

use std::collections::BTreeMap;
use std::time::Duration;

use medley_common::example::Example;
use medley_common::identity::{Digest, Generation, Split, Update, WorkerId};
use medley_common::message::{Lanes, SplitInfo};
use medley_common::model::ModelConfig;
use medley_common::secret::Secret;
use medley_common::spec::TrainSpec;

use super::Base;
use crate::spec::{Cadence, Criterion, Measured};

/// A run, before it starts.
#[derive(Debug, Clone)]
pub struct Job {
    /// The package version that workers must have.
    pub version: String,
    /// Which run it is: workers that come back are asked for it.
    pub run: Digest,
    /// The recipe.
    pub spec: TrainSpec,
    /// The shape of the model.
    pub model: ModelConfig,
    /// What to train on; `None` where nothing is trained.
    pub training: Option<TrainingJob>,
    /// Rows to evaluate at the end, and during training by its cadence; `None` where nothing is evaluated.
    pub validation: Option<SplitRows>,
    /// Rows to predict at the end, or the present chunk of a stream; `None` where nothing is predicted.
    pub test: Option<SplitRows>,
    /// Whether the test rows come while the run goes on, chunk after chunk: nothing else is done then.
    pub is_stream: bool,
    /// The names of the labels, by id.
    pub labels: Vec<String>,
    /// What was done before this process.
    pub past: Past,
    /// The state on the disk that newcomers start from; older than the past where only workers hold the newest.
    pub base: Base,
    /// How many workers take part.
    pub workers: u32,
    /// Whether they compute on GPUs: a group is of one kind.
    pub on_gpus: bool,
    /// How many are enough to go on with when others are lost; at least 1.
    pub min_workers: u32,
    /// Updates between two groups that are formed to share lanes by speed; `None` where all have the same.
    pub rebalance: Option<u64>,
    /// Whether each rank keeps a shard of the optimizer's state: then a group's state ends with it, but for what is on the
    /// disk.
    pub shard_optimizer_state: bool,
    /// Limits of waiting.
    pub patience: Patience,
    /// Shared by the workers alone; drawn by whoever starts the run.
    pub secret: Secret,
}

/// What was done before this process, as the ledger tells it; nothing by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// Updates done.
    pub update: Update,
    /// The loss of each of them, in order; empty where that is not known.
    pub losses: Vec<f64>,
    /// Those of them that moved no weight; empty where that is not known.
    pub skipped: Vec<Update>,
    /// L2 norm of the last one's gradient.
    pub grad_norm: f64,
    /// Whether the line of the log that ends with the last one is written, where one does.
    pub logged: bool,
    /// Whether the evaluation that follows the last one is made, where one does.
    pub evaluated: bool,
    /// What the evaluations during training measured, in order, where they decide something.
    pub measured: Vec<Measured>,
    /// After how many updates each group started.
    pub groups: BTreeMap<Generation, Update>,
    /// The lanes of each member of the newest group.
    pub shares: BTreeMap<WorkerId, Lanes>,
}

/// What to train on.
#[derive(Debug, Clone)]
pub struct TrainingJob {
    /// Tokens of every row.
    pub lengths: Vec<u32>,
    /// The label of every row.
    pub labels: Vec<Option<u32>>,
    /// When to log, evaluate and save.
    pub cadence: Cadence,
    /// How evaluations decide which model is the result, and when training ends; `None` where they do not.
    pub criterion: Option<Criterion>,
}

/// The rows of a split to predict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SplitRows {
    /// Tokens of every row.
    pub lengths: Vec<u32>,
    /// The label of every row; `None` for a row without one.
    pub labels: Vec<Option<u32>>,
    /// The rows themselves, where they are those of a stream: workers are told them. Else they fetch them.
    pub examples: Vec<Example>,
}

/// How long the run waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For enough workers to be ready, from when they were too few; and for workers to leave a group.
    pub join: Duration,
    /// For any sign of life of a worker.
    pub heartbeat: Duration,
    /// For workers that hold the newest state to come back, where nobody else does; zero where none can.
    pub reattach: Duration,
    /// Between two heartbeats of a worker: well below `heartbeat`.
    pub heartbeat_every: Duration,
    /// Updates that workers may make ahead of the ledger, and so of the slowest one's report.
    pub window: u64,
}

impl Job {
    /// Updates of the whole run; 0 where nothing is trained.
    #[must_use]
    pub fn total(&self) -> Update {
        Update(if self.training.is_some() { self.spec.schedule.total_updates } else { 0 })
    }

    /// Whether the line of the log that the last update before this process ends was never written.
    #[must_use]
    pub fn is_log_overdue(&self) -> bool {
        let Past { update, losses, logged, .. } = &self.past;
        let logs = self.training.as_ref().is_some_and(|training| training.cadence.logs_after(*update));
        logs && !logged && update.0 > 0 && losses.len() as u64 == update.0
    }

    /// The rows of a split that is predicted.
    #[must_use]
    pub fn rows(&self, split: Split) -> Option<&SplitRows> {
        match split {
            Split::Train => None,
            Split::Validation => self.validation.as_ref(),
            Split::Test => self.test.as_ref(),
        }
    }

    /// The splits that workers fetch.
    #[must_use]
    pub fn splits(&self) -> Vec<SplitInfo> {
        let info =
            |split, lengths: &Vec<u32>| SplitInfo { split, rows: u32::try_from(lengths.len()).unwrap_or(u32::MAX) };
        let training = self.training.as_ref().map(|training| info(Split::Train, &training.lengths));
        let validation = self.validation.as_ref().map(|rows| info(Split::Validation, &rows.lengths));
        let test = self.test.as_ref().filter(|_| !self.is_stream).map(|rows| info(Split::Test, &rows.lengths));
        [training, validation, test].into_iter().flatten().collect()
    }
}
