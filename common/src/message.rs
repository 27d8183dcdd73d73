//! What workers report and what the coordinator orders: the whole protocol of a session.
//!
//! ```text
//! worker                               coordinator
//!   Hello ------------------------------->
//!   <------------------------------ Welcome      recipe, model, data and weights to fetch
//!   Prepared ---------------------------->       model built; layout fingerprint and collective address
//!   <--------------------------------- Form      rank, peers, lanes
//!   Token ------------------------------->       of rank 0, where a group needs one to connect..
//!   <-------------------------------- Token      ..to all its other members
//!   Formed ------------------------------>
//!   <------------------------------ Train..      permission to go on through an update; extended as updates finish
//!   Updated.. --------------------------->
//!   <----------------------------- Evaluate
//!   Predicted.. Evaluated --------------->
//!   <--------------------------------- Save      keep a copy of the state, and send a piece of its files
//!   Saved ------------------------------->       that piece has arrived; training goes on meanwhile
//!   <------------------------------- Forget      the copy is needed no more
//!   <------------------------------ Disband      somebody was lost, or waits to take part
//!   StandingBy -------------------------->       position, and the lanes whose gradients are kept
//!   <--------------------------------- Form ..   of the next generation
//!   <--------------------------------- Stop
//! ```
//!
//! A worker whose peers' connections break says `Disconnected` and waits: the coordinator finds out who was lost. One that
//! is asked by its system to end says `Leaving` and works on until it is told to stop.
//!
//! A worker whose session breaks leaves its group, keeps its state and comes back: its next `Hello` says what it holds.
//! It is answered by `Reattach` where that is of use, by a new `Welcome` where it is not, and refused by another run.

mod report;
mod token;

use std::ops::Range;

use crate::evaluation::Prediction;
use crate::example::Example;
use crate::identity::{Digest, Generation, Known, ProcessMark, Rank, Split, Update, WorkerId};
use crate::model::ModelConfig;
use crate::save::{Piece, SaveId};
use crate::secret::Secret;
use crate::spec::TrainSpec;

pub use report::{LaneReport, Timing, UpdateReport};
pub use token::{Token, TokenSizeError};

/// The version of this protocol. A worker that speaks another is refused.
pub const PROTOCOL: u32 = 12;

/// What a worker reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The first event of a session.
    Hello(Box<Hello>),
    /// The model is built and the data are here.
    Prepared {
        /// Fingerprint of the parameter layout: names, shapes and offsets.
        layout: Digest,
        /// Where peers reach this worker's collective; empty where it needs none.
        endpoint: String,
        /// What a person should know of the weights, e.g. that a classifier is new.
        notes: Vec<String>,
    },
    /// What all others of its group need to know before they can connect: of rank 0, once.
    Token {
        /// The group.
        generation: Generation,
        /// What they need to know.
        token: Token,
    },
    /// The group of this generation is connected.
    Formed {
        /// The group.
        generation: Generation,
    },
    /// An update is applied.
    Updated {
        /// The group that made it.
        generation: Generation,
        /// What this worker did of it.
        report: UpdateReport,
    },
    /// A piece of a state's files has arrived.
    Saved {
        /// The save.
        save: SaveId,
        /// Which piece.
        piece: Piece,
        /// Digest of all parameters in layout order: equal on all ranks (INV-3).
        parameters: Digest,
    },
    /// Some rows of this worker's share of an evaluation.
    Predicted {
        /// The group that evaluates.
        generation: Generation,
        /// The split.
        split: Split,
        /// The rows, ascending.
        predictions: Vec<Prediction>,
    },
    /// This worker's share of an evaluation is done.
    Evaluated {
        /// The group that evaluates.
        generation: Generation,
        /// The split.
        split: Split,
    },
    /// The group's connections broke; this worker has left it and waits for orders.
    Disconnected {
        /// The group.
        generation: Generation,
        /// What this worker saw.
        problem: String,
    },
    /// The answer to `Disband`: this worker is in no group.
    StandingBy {
        /// The group that it was in.
        generation: Generation,
        /// Updates done in the state that it holds.
        update: Update,
        /// Lanes of the next update whose gradients it keeps, as it was given them.
        kept: Lanes,
    },
    /// The worker was asked to end by its system: it works on until it is told to stop.
    Leaving,
    /// The worker is alive.
    Heartbeat,
    /// The worker cannot go on; the last event of its session.
    Failed(Failure),
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// The protocol it speaks.
    pub protocol: u32,
    /// Version of its package.
    pub version: String,
    /// Its host's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// What tells this process from all others, in all its sessions.
    pub process: ProcessMark,
    /// How many sessions it has opened, this one included.
    pub session: u64,
    /// Its device, e.g. `cpu` or `cuda:0`.
    pub device: String,
    /// Its GPU; `None` where it computes on the CPU.
    pub gpu: Option<GpuUse>,
    /// Its host's processor, and the instructions it computes with: equal bits are promised where they are equal.
    pub processor: String,
    /// Threads it computes with.
    pub threads: u32,
    /// SHA-256 of its program.
    pub program: Digest,
    /// As what its run knows this process; `None` for a newcomer.
    pub known: Option<Known>,
    /// What it holds after its session broke, once it had built its model.
    pub held: Option<Box<Held>>,
}

impl From<Hello> for Event {
    fn from(hello: Hello) -> Self {
        Self::Hello(Box::new(hello))
    }
}

/// What a worker holds after its session broke.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Fingerprint of its parameter layout.
    pub layout: Digest,
    /// Where peers reach its collective; empty where it needs none.
    pub endpoint: String,
    /// The newest group of the ledger on its state's line: that gave it work, or the [`Form::line`] of one since; 0: none.
    pub generation: Generation,
    /// Updates done in its state.
    pub update: Update,
    /// Lanes of the next update whose gradients it keeps.
    pub kept: Lanes,
    /// Its last reports, which the ledger may not have.
    pub reports: Vec<UpdateReport>,
    /// The save that it keeps a copy of the state for.
    pub copy: Option<SaveId>,
}

/// A worker's claim to a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuUse {
    /// The UUID of the GPU, or of the part of it that the worker has.
    pub uuid: String,
    /// Whether other workers may use it as well: a matter of checks, never of speed.
    pub is_shared: bool,
}

/// Why a worker, or a whole run, cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// What happened to what, and the way out.
    pub message: String,
}

/// Whose fault a failure is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A file's content: rows, weights, tokenizer.
    Data,
    /// Settings that do not fit each other or the machine.
    Config,
    /// Workers were lost, and the run cannot go on without them.
    Lost,
    /// The loss or the gradient is not a number: no other worker would compute another one.
    Diverged,
    /// Anything else.
    Internal,
}

/// What the coordinator orders.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The answer to `Hello`: fetch data and weights, build the model.
    Welcome(Box<Welcome>),
    /// The answer to a `Hello` of who holds a state that is of use: keep it, and wait for a group.
    Reattach {
        /// The name of this worker from now on.
        worker: WorkerId,
        /// How often to send a heartbeat.
        heartbeat_ms: u64,
    },
    /// Become a member of a new group.
    Form(Form),
    /// Connect with this: rank 0 of the group has made it.
    Token {
        /// The group that is meant.
        generation: Generation,
        /// What rank 0 told.
        token: Token,
    },
    /// Make every update through this one, then wait.
    Train {
        /// The group that is meant.
        generation: Generation,
        /// The last update that may be made.
        through: Update,
        /// The highest learning rate of the schedule, as evaluations have left it.
        peak: f64,
    },
    /// Keep a copy of the state, unless it is kept already, and send a piece of it, in whatever group the worker is.
    Save {
        /// The save.
        save: SaveId,
        /// The files.
        parts: Vec<ArtifactKind>,
        /// The piece of each of them.
        piece: Piece,
    },
    /// Let the copy of the state after this update go, or an older one.
    Forget {
        /// Updates done in it.
        update: Update,
    },
    /// Predict rows of a split.
    Evaluate {
        /// The group that is meant.
        generation: Generation,
        /// The split.
        split: Split,
        /// The rows, ascending.
        rows: Vec<Range<u32>>,
        /// All rows of the split, where it is a chunk of a stream; none where the worker has fetched them.
        examples: Vec<Example>,
    },
    /// Leave the group, whatever is under way, and stand by.
    Disband {
        /// The group that is meant.
        generation: Generation,
    },
    /// Leave: the run is over for this worker.
    Stop {
        /// Why, for its log.
        reason: String,
        /// What that means for the worker.
        verdict: Verdict,
    },
}

impl Command {
    /// The group that this gives work to, if it does: so that group is in the ledger.
    #[must_use]
    pub fn work_of(&self) -> Option<Generation> {
        match self {
            Self::Train { generation, .. } | Self::Evaluate { generation, .. } => Some(*generation),
            // A save outlives the group that stood when it was begun.
            Self::Save { .. } | Self::Forget { .. } => None,
            Self::Form(_) | Self::Token { .. } | Self::Disband { .. } => None,
            Self::Welcome(_) | Self::Reattach { .. } | Self::Stop { .. } => None,
        }
    }
}

/// What the end of its session means for a worker; decides its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The run is complete.
    Over,
    /// The run was stopped, or goes on without this worker, as was asked: it may be started again.
    Released,
    /// The run failed.
    Failed,
    /// The worker cannot take part.
    Refused,
    /// The worker was silent for too long, and the run goes on without it.
    Replaced,
}

/// All that a worker needs to know of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The name of this worker.
    pub worker: WorkerId,
    /// Which run it is.
    pub run: Digest,
    /// How many of its reports a worker keeps: as many may not be in the ledger yet.
    pub window: u64,
    /// The recipe.
    pub spec: TrainSpec,
    /// The shape of the model.
    pub model: ModelConfig,
    /// Updates done: where training goes on.
    pub start: Update,
    /// The splits to fetch.
    pub splits: Vec<SplitInfo>,
    /// The files that the model's state is read from; without weights, it is initialised from the seed.
    pub artifacts: Vec<Artifact>,
    /// How often to send a heartbeat.
    pub heartbeat_ms: u64,
    /// Updates from one digest of the parameters in a report to the next; 0 for none.
    pub digest_every: u64,
    /// Whether each rank of a group keeps a shard of what the optimizer remembers, and nobody all of it.
    pub shard_optimizer_state: bool,
}

/// A split on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitInfo {
    /// The split.
    pub split: Split,
    /// Its rows.
    pub rows: u32,
}

/// A file on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it holds.
    pub kind: ArtifactKind,
    /// Its file name, which tells its format: `model.safetensors`, `pytorch_model.bin`.
    pub file_name: String,
    /// Its size.
    pub bytes: u64,
}

/// What a file of the model's state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArtifactKind {
    /// The parameters.
    Weights,
    /// The optimizer's moments.
    Optimizer,
}

/// One worker's place in a new group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The group.
    pub generation: Generation,
    /// This worker's rank.
    pub rank: Rank,
    /// The collective addresses of all ranks, in rank order, this worker's own included.
    pub peers: Vec<String>,
    /// Shared by the group's members alone; whoever connects must show it.
    pub secret: Secret,
    /// The lanes of each rank; together, each lane once.
    pub lanes: Vec<Lanes>,
    /// Updates done in the state that the group starts from.
    pub update: Update,
    /// The newest group that is in the ledger, on whose line that state lies: this one may never get there.
    pub line: Generation,
    /// The rank whose state the others take over; `None` where all hold the same.
    pub source: Option<Rank>,
}

/// The lanes of one rank: ascending runs, each computed and summed for itself.
///
/// Adjacent runs are not their union, each has its own nodes: who takes lanes over keeps what it has computed.
pub type Lanes = Vec<Range<u32>>;
