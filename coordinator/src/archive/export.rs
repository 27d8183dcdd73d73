//! The final model in the output folder itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::certificate::CERTIFICATE_FILE;
use super::checkpoint::Checkpoint;
use super::commit::ModelFile;
use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::manifest::FileRecord;
use super::output_dir::OutputDir;
use super::staging::{Staging, WEIGHTS_FILE};

/// Where the final model's weights are.
#[derive(Debug)]
pub enum ModelSource<'a> {
    /// Received for this: they move into the folder, and the staging goes.
    Staged(&'a Staging),
    /// In the checkpoint of the last update: both names then share one file on the disk.
    Checkpoint(&'a Checkpoint),
}

/// Puts the final model into `output`: weights, then its other files; answers what they must be. Blocks.
///
/// # Errors
/// The weights are missing or the disk refuses; without a certificate the run does not count as complete. It can be
/// tried again.
pub(super) fn export(
    output: &OutputDir,
    source: &ModelSource<'_>,
    model_files: &[ModelFile],
) -> Result<BTreeMap<String, FileRecord>, ArchiveError> {
    let folder = output.path();
    let weights = folder.join(WEIGHTS_FILE);
    let weights_record = match source {
        ModelSource::Staged(staging) => staging.record(WEIGHTS_FILE)?,
        ModelSource::Checkpoint(checkpoint) => {
            let (update, name) = (checkpoint.update(), WEIGHTS_FILE);
            let record = checkpoint.manifest().files.get(name);
            *record.ok_or(ArchiveError::Incomplete { update, name })?
        }
    };
    let mut files = BTreeMap::from([(WEIGHTS_FILE.to_owned(), weights_record)]);
    // The certificate of an earlier run must not vouch for a folder that is half this run's.
    Operation::Remove(folder.join(CERTIFICATE_FILE)).perform()?;
    match source {
        ModelSource::Staged(staging) => move_in(&staging.folder().join(WEIGHTS_FILE), &weights, weights_record)?,
        ModelSource::Checkpoint(checkpoint) => share(&checkpoint.path().join(WEIGHTS_FILE), &weights)?,
    }
    for file in model_files {
        files.insert(file.name().to_owned(), FileRecord::of_bytes(file.bytes()));
        durable::replace(&folder.join(file.name()), file.bytes().to_vec())?;
    }
    if let ModelSource::Staged(staging) = source {
        Operation::Remove(staging.folder().to_owned()).perform()?;
    }
    Ok(files)
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
    if durable::attempt(|| fs::hard_link(from, &partial)).is_err() {
        durable::attempt(|| fs::copy(from, &partial)).map_err(ArchiveError::io("copy", from))?;
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
