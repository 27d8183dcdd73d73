//! What a ledger tells: one record a line, by kind.

use std::collections::BTreeMap;
use std::path::PathBuf;

use medley_common::identity::{Digest, Split, Update};
use medley_common::spec::TrainSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::archive::manifest::FileRecord;
use crate::archive::recipe::Recipe;
use crate::archive::trainer_state::LogEntry;
use crate::run::Occasion;
use crate::run::report::{GroupRecord, UpdateRecord};
use crate::spec::{Cadence, Criterion, Measured};

/// A record; `kind` names it in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// Which run this is: the first record, and no other.
    Run(Box<RunIdentity>),
    /// A group of workers is connected.
    Group(GroupRecord),
    /// An update is applied.
    Update(UpdateRecord),
    /// A line of the training log.
    Log(Logged),
    /// A split was predicted.
    Evaluation(Evaluated),
    /// A checkpoint is on the disk for good.
    Checkpoint(CheckpointRecord),
    /// Training went back: what is recorded of later updates no longer counts.
    Rewind(RewindRecord),
    /// Outputs are in their place.
    Final(FinalRecord),
}

/// Which run a ledger is of: all that its plan and its learning rates can be computed from, and how to start it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Version of Medley that began it.
    pub version: String,
    /// All that decides its weights, by name.
    pub recipe: Recipe,
    /// What an update is made of; with `lengths` it is the plan.
    pub train: TrainSpec,
    /// Tokens of every training row, by row id.
    pub lengths: Vec<u32>,
    /// How evaluations decide which model is the result, and when training ends; `None` where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criterion: Option<Criterion>,
    /// After which updates is evaluated and saved, where that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cadence: Option<Cadence>,
    /// Updates made before this ledger begins: above 0 only where the one before was lost.
    pub start: Update,
    /// What evaluations before `start` measured, where something goes by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
    /// The words of the command.
    pub command: Vec<String>,
    /// The folder that its relative paths begin at.
    pub folder: PathBuf,
}

/// An entry of the training log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Updates done.
    pub update: Update,
    /// The summary of the whole training is of its end.
    pub occasion: Occasion,
    /// The entry, as `log_history` of `trainer_state.json` has it.
    pub entry: LogEntry,
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Updates done.
    pub update: Update,
    /// The split.
    pub split: Split,
    /// When it was made.
    pub occasion: Occasion,
    /// The metrics, as `log_history` of `trainer_state.json` has those of the validation split.
    pub entry: LogEntry,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Updates done.
    pub update: Update,
    /// Its folder's name.
    pub name: String,
    /// SHA-256 of its manifest, which has those of all its files.
    pub manifest: Digest,
    /// Digest of its parameters in layout order, as all workers reported it.
    pub parameters: Digest,
}

/// A way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewindRecord {
    /// The update that training goes on from.
    pub to: Update,
    /// Why.
    pub reason: String,
}

/// What lies in the output folder beside the checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRecord {
    /// Updates done.
    pub update: Update,
    /// Digest of the final model's parameters in layout order, as all workers reported it.
    pub parameters: Digest,
    /// The checkpoint that the final model is, where it is not the model after the last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Update>,
    /// The files written by now, by name: the model's and the results'.
    pub files: BTreeMap<String, FileRecord>,
}

impl RunIdentity {
    /// SHA-256 of the identity as JSON: what a ledger's chain begins with.
    #[must_use]
    pub fn digest(&self) -> Digest {
        // Strings, numbers and lists always serialise.
        Digest(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()).into())
    }
}
