//! The final model in the output folder itself, and the record that says that the run is complete.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use medley_common::identity::{Digest, Update};
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::commit::{Agreed, ModelFile};
use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::json_text::JsonObject;
use super::manifest::{FileRecord, read_text, verify_files};
use super::output_dir::OutputDir;
use super::recipe::Recipe;
use super::sealed;
use super::staging::{Staging, WEIGHTS_FILE};

/// The record's name in the output folder.
pub const RUN_RECORD_FILE: &str = "medley_run.json";

/// How a complete run came to its final model. It is written last: a folder holds a complete run if it holds a valid
/// record. It never holds a row's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of Medley that wrote it.
    pub version: String,
    /// Updates done.
    pub update: Update,
    /// Epochs done.
    pub epoch: f64,
    /// Fingerprint of the parameter layout.
    pub layout: Digest,
    /// Digest of the parameters in layout order.
    pub parameters: Digest,
    /// The recipe of the run.
    pub recipe: Recipe,
    /// The command line's settings, by flag.
    pub flags: JsonObject,
    /// Digests of what went in: data files, splits as encoded, initial weights.
    pub inputs: BTreeMap<String, Digest>,
    /// The files of the final model, by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// Where the final model's weights are.
#[derive(Debug)]
pub enum ModelSource<'a> {
    /// Received for this: they move into the folder, and the staging goes.
    Staged(&'a Staging),
    /// In the checkpoint of the last update: both names then share one file on the disk.
    Checkpoint(&'a Checkpoint),
}

/// What the record says beside what the archive knows itself.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// Epochs done.
    pub epoch: f64,
    /// What the workers agree on.
    pub agreed: Agreed,
    /// The command line's settings, by flag.
    pub flags: JsonObject,
    /// Digests of what went in.
    pub inputs: BTreeMap<String, Digest>,
}

impl RunRecord {
    /// Reads the record of `folder` and verifies the final model; `None` where there is no record. Blocks: it reads
    /// the whole model.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn read(folder: &Path) -> Result<Option<Self>, String> {
        let bytes = match read_text(&folder.join(RUN_RECORD_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{RUN_RECORD_FILE}: {error}")),
        };
        let record: Self = sealed::unseal(&bytes).map_err(|reason| format!("{RUN_RECORD_FILE} {reason}"))?;
        verify_files(folder, &record.files)?;
        Ok(Some(record))
    }

    /// The names of the files that the record of `folder` calls ours, whether or not they are intact.
    pub(super) fn files_of(folder: &Path) -> Vec<String> {
        let record =
            read_text(&folder.join(RUN_RECORD_FILE)).ok().and_then(|bytes| sealed::unseal::<Self>(&bytes).ok());
        record.map(|record| record.files.into_keys().collect()).unwrap_or_default()
    }
}

/// Puts the final model into `output`: weights, then its other files, then the record. Blocks.
///
/// # Errors
/// The weights are missing or the disk refuses; without the record the run does not count as complete. It can be tried
/// again.
pub(super) fn export(
    output: &OutputDir,
    source: &ModelSource<'_>,
    model_files: &[ModelFile],
    recipe: &Recipe,
    facts: RunFacts,
) -> Result<RunRecord, ArchiveError> {
    let folder = output.path();
    let weights = folder.join(WEIGHTS_FILE);
    let (update, weights_record) = match source {
        ModelSource::Staged(staging) => (staging.update(), staging.record(WEIGHTS_FILE)?),
        ModelSource::Checkpoint(checkpoint) => {
            let (update, name) = (checkpoint.update(), WEIGHTS_FILE);
            let record = checkpoint.manifest().files.get(name);
            (update, *record.ok_or(ArchiveError::Incomplete { update, name })?)
        }
    };
    let mut files = BTreeMap::from([(WEIGHTS_FILE.to_owned(), weights_record)]);
    // A record of an earlier run must not vouch for a folder that is half this run's.
    Operation::Remove(folder.join(RUN_RECORD_FILE)).perform()?;
    match source {
        ModelSource::Staged(staging) => move_in(&staging.folder().join(WEIGHTS_FILE), &weights, weights_record)?,
        ModelSource::Checkpoint(checkpoint) => share(&checkpoint.path().join(WEIGHTS_FILE), &weights)?,
    }
    for file in model_files {
        files.insert(file.name().to_owned(), FileRecord::of_bytes(file.bytes()));
        durable::replace(&folder.join(file.name()), file.bytes().to_vec())?;
    }
    let RunFacts { epoch, agreed: Agreed { layout, parameters }, flags, inputs } = facts;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let recipe = recipe.clone();
    let record = RunRecord { version, update, epoch, layout, parameters, recipe, flags, inputs, files };
    durable::replace(&folder.join(RUN_RECORD_FILE), sealed::seal(&record))?;
    if let ModelSource::Staged(staging) = source {
        Operation::Remove(staging.folder().to_owned()).perform()?;
    }
    Ok(record)
}

/// Moves the weights `from` a staging `to` their place, unless an export that failed later has done so.
fn move_in(from: &Path, to: &Path, record: FileRecord) -> Result<(), ArchiveError> {
    if from.symlink_metadata().is_err() && FileRecord::of_file(to).is_ok_and(|present| present == record) {
        return Ok(());
    }
    let rename = Operation::Rename { from: from.to_owned(), to: to.to_owned() };
    durable::perform(&[rename, Operation::Sync(durable::parent(to))])
}

/// Gives the file `from` the second name `to`; copies it where the file system has no second names.
fn share(from: &Path, to: &Path) -> Result<(), ArchiveError> {
    let partial = durable::partial(to);
    Operation::Remove(partial.clone()).perform()?;
    if fs::hard_link(from, &partial).is_err() {
        fs::copy(from, &partial).map_err(ArchiveError::io("copy", from))?;
        Operation::Sync(partial.clone()).perform()?;
    }
    durable::perform(&[
        Operation::Rename { from: partial.clone(), to: to.to_owned() },
        // Renaming one name of a file to another of its names leaves both.
        Operation::Remove(partial),
        Operation::Sync(durable::parent(to)),
    ])
}

#[cfg(test)]
#[path = "export_test.rs"]
mod tests;
