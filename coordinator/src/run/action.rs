//! What goes into the run and what comes out of it.

use medley_common::identity::{Digest, Generation, Split, Update, WorkerId};
use medley_common::message::{Artifact, Command, Event, Failure};
use medley_common::save::SaveId;
use serde::{Deserialize, Serialize};

use super::job::SplitRows;
use super::report::{EvaluationReport, GroupRecord, Outcome, TrainLog, TrainSummary, UpdateRecord};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A worker opened a session.
    Joined(WorkerId),
    /// A worker reports.
    From(WorkerId, Event),
    /// A worker's session ended, and why.
    Left(WorkerId, String),
    /// A group, ordered by [`Action::Group`], is in the ledger.
    Grouped(Generation),
    /// An update, ordered by [`Action::Record`], is in the ledger.
    Recorded(Update),
    /// The result of an evaluation after this update, ordered by [`Action::Publish`], is in the ledger.
    Published(Update),
    /// The state of this update, ordered by [`Action::Commit`], is durable.
    Committed(Update),
    /// There is a newer state on the disk for newcomers to start from.
    Based(Base),
    /// The next rows of a stream, which are of its only split, the test split. One chunk at a time: the next is offered
    /// when the result of the one before was ordered to be published.
    Offered(SplitRows),
    /// The stream is at its end: the results of all its chunks are published.
    Exhausted,
    /// Something outside the workers failed: a disk, a launcher.
    Broken(Failure),
    /// The run is to stop: what is under way is finished and saved. Asked again is asked once.
    StopRequested,
    /// A person or a scheduler will not wait for that.
    StopAtOnce,
    /// An operator asks for a checkpoint.
    CheckpointRequested,
    /// An operator asks a worker to leave.
    DrainRequested(WorkerId),
    /// [`super::Run::deadline`] has passed.
    Elapsed,
    /// The coordinator itself was suspended: nobody could be heard, so nobody was silent.
    Overslept,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a command to a worker.
    Order(WorkerId, Command),
    /// Tell a worker why it cannot take part, and end its session.
    Refuse(WorkerId, String),
    /// Tell a worker that was silent for too long that it is replaced, end its session, and its process if it is local.
    Replace(WorkerId, String),
    /// End a session whose process has opened another one.
    Close(WorkerId),
    /// End a session of which nothing is heard, perhaps because nothing can be: its process may come back.
    Part(WorkerId),
    /// Let a worker go that wanted to, or makes room, with this reason.
    Dismiss(WorkerId, String),
    /// Tell whoever watches.
    Notice(String),
    /// The same of what somebody should look after.
    Warning(String),
    /// Take in the pieces of a save, so many of each file.
    Receive(SaveId, u32),
    /// Append a group that is connected to the ledger, then answer [`Input::Grouped`].
    Group(GroupRecord),
    /// Append an update to the ledger.
    Record(UpdateRecord),
    /// Go back to this update, and why: what was recorded after it is void.
    Rewind(Update, String),
    /// Append a line to the training log.
    Log(TrainLog),
    /// Make the received state durable, then answer [`Input::Committed`].
    Commit(SavedState),
    /// The save is given up: what was received of it goes.
    Discard(SaveId),
    /// Training is over: write its summary. The model is the first of these checkpoints that is whole, if there are any:
    /// where that is not the last model, [`Input::Based`] answers.
    Summarise(TrainSummary, Vec<Update>),
    /// Write the result of an evaluation, then answer [`Input::Published`].
    Publish(EvaluationReport, Occasion),
    /// The run is over.
    Finish(Outcome),
}

/// A state on the disk that workers can start from.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// Updates done in it.
    pub update: Update,
    /// Its files.
    pub artifacts: Vec<Artifact>,
}

/// A state that all workers vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedState {
    /// The save.
    pub save: SaveId,
    /// What it is for.
    pub purpose: SavePurpose,
    /// Fingerprint of the parameter layout.
    pub layout: Digest,
    /// Digest of the parameters in layout order.
    pub parameters: Digest,
}

/// What a saved state is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavePurpose {
    /// To go on from.
    Checkpoint,
    /// The trained model.
    Final,
    /// Both.
    CheckpointAndFinal,
}

impl SavePurpose {
    /// Whether the state can be gone on from.
    #[must_use]
    pub fn is_checkpoint(self) -> bool {
        matches!(self, Self::Checkpoint | Self::CheckpointAndFinal)
    }

    /// Whether the state is the trained model.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Final | Self::CheckpointAndFinal)
    }
}

/// When an evaluation is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// During training, by its cadence.
    Training,
    /// When training is over: the result of the run.
    End,
}

/// One thing that is done, or begun, between updates, with all workers idle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Task {
    /// Predict a split.
    Evaluate(Split, Occasion),
    /// Begin to save the state.
    Save(SavePurpose),
    /// Say what training came to.
    Summarise,
    /// Have workers hold the model that is the result, where that is not the last one.
    LoadBest,
    /// End the run: all is done.
    Finish(Outcome),
    /// End the run: it was asked to stop.
    Stop,
}
