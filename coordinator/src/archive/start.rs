//! Where training starts: afresh, from a checkpoint, or not at all because the run is complete.

use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, PassedOver, Scan};
use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::export::{RUN_RECORD_FILE, RunRecord};
use super::ledger::LEDGER_FILE;
use super::output_dir::{OutputDir, RESULT_FILES};
use super::recipe::Recipe;

/// What to do with a run that lies in the output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Go on with it.
    Continue,
    /// Replace what another run or program left (`--overwrite_output_dir`), as soon as the new run writes. An
    /// unfinished run of the very same recipe is gone on with: the result has the same bytes, only sooner, and a
    /// scheduler that types the command again does not start over for ever.
    Replace,
    /// Start afresh, whatever lies there (`--overwrite_output_dir --resume_from_checkpoint False`).
    Discard,
}

/// How the user wants training to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// What to do with a run that lies there.
    pub existing: Existing,
    /// The checkpoint to go on from (`--resume_from_checkpoint`), in whatever folder.
    pub from: Option<PathBuf>,
}

/// Where training starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// From the initial weights.
    Fresh,
    /// From a checkpoint.
    Resume(Box<Checkpoint>),
    /// Nowhere: the folder holds a complete run. Whether it is the run that was asked for, its recipe tells.
    Finished(Box<RunRecord>),
}

/// Where training starts, and what was passed over on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Where training starts.
    pub start: Start,
    /// What looked like a checkpoint or a complete run, and why it is none.
    pub passed_over: Vec<PassedOver>,
}

impl OutputDir {
    /// Decides where training of `recipe` starts; changes nothing. Blocks: it reads whole checkpoints.
    ///
    /// As Hugging Face's scripts do: a folder that is not empty is refused, unless it holds a valid checkpoint, which
    /// is then resumed, or is to be overwritten. A ledger alone is of a run that never came to its first checkpoint:
    /// it starts afresh. What a run has done since it was first typed is never undone by typing it again.
    ///
    /// # Errors
    /// The folder is refused, or the checkpoint asked for is invalid.
    pub fn find_start(&self, request: &StartRequest, recipe: &Recipe) -> Result<Found, ArchiveError> {
        if let Some(path) = &request.from {
            let checkpoint = Box::new(Checkpoint::open(path)?);
            if request.existing != Existing::Discard && !self.holds(&checkpoint) {
                let ahead = |own: &Checkpoint| own.update() >= checkpoint.update();
                if let Some(found) = self.unfinished(recipe, ahead)? {
                    return Ok(found);
                }
            }
            self.admit(&checkpoint, request.existing)?;
            return Ok(Found { start: Start::Resume(checkpoint), passed_over: Vec::new() });
        }
        let fresh = Found { start: Start::Fresh, passed_over: Vec::new() };
        match request.existing {
            Existing::Discard => return Ok(fresh),
            Existing::Replace => return Ok(self.unfinished(recipe, |_| true)?.unwrap_or(fresh)),
            Existing::Continue => {}
        }
        let mut passed_over = Vec::new();
        match RunRecord::read(self.path()) {
            Ok(Some(record)) => return Ok(Found { start: Start::Finished(Box::new(record)), passed_over }),
            Ok(None) => {}
            Err(reason) => passed_over.push(PassedOver { path: self.path().join(RUN_RECORD_FILE), reason }),
        }
        let scan = Scan::of(self.path())?;
        passed_over.extend(scan.passed_over);
        if let Some(checkpoint) = scan.newest {
            return Ok(Found { start: Start::Resume(Box::new(checkpoint)), passed_over });
        }
        let entries = self.entries()?;
        if entries.iter().all(|name| name == LEDGER_FILE) {
            return Ok(Found { start: Start::Fresh, passed_over });
        }
        Err(ArchiveError::Occupied { path: self.path().to_owned(), entries, passed_over })
    }

    /// The newest checkpoint of a run of `recipe` that lies here and is not complete, if it is one that is `wanted`.
    fn unfinished(&self, recipe: &Recipe, wanted: impl Fn(&Checkpoint) -> bool) -> Result<Option<Found>, ArchiveError> {
        if self.path().join(RUN_RECORD_FILE).exists() {
            return Ok(None);
        }
        let Scan { newest, passed_over } = Scan::of(self.path())?;
        let own = newest.filter(|own| own.check_recipe(recipe).is_ok() && wanted(own));
        Ok(own.map(|own| Found { start: Start::Resume(Box::new(own)), passed_over }))
    }

    /// Refuses a folder that holds something else than the run of `checkpoint`.
    fn admit(&self, checkpoint: &Checkpoint, existing: Existing) -> Result<(), ArchiveError> {
        if existing != Existing::Continue || self.holds(checkpoint) {
            return Ok(());
        }
        let path = self.path().to_owned();
        if !self.own_checkpoints()?.is_empty() || self.path().join(RUN_RECORD_FILE).exists() {
            return Err(ArchiveError::AnotherRun { path, checkpoint: checkpoint.path().to_owned() });
        }
        let entries = self.entries()?;
        if entries.iter().all(|name| name == LEDGER_FILE) {
            return Ok(());
        }
        Err(ArchiveError::Occupied { path, entries, passed_over: Vec::new() })
    }

    /// Whether `checkpoint` lies in this folder.
    pub(super) fn holds(&self, checkpoint: &Checkpoint) -> bool {
        let canonical = |path: &Path| path.canonicalize().ok();
        let folder = canonical(checkpoint.path()).map(|path| durable::parent(&path));
        folder.is_some() && folder == canonical(self.path())
    }

    /// Removes what a run that starts at `from` replaces, and leftovers of a crash. Only what is ours goes:
    /// checkpoints with a manifest and, where a ledger or a record shows that a run of ours was here, its results and
    /// the files of its final model. Answers what went. Blocks.
    ///
    /// The ledger goes last, so that a crash in between leaves a folder that is known for ours.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn clear(&self, from: Option<&Checkpoint>) -> Result<Vec<PathBuf>, ArchiveError> {
        for leftover in self.leftovers()? {
            Operation::Remove(leftover).perform()?;
        }
        let own_run = from.filter(|checkpoint| self.holds(checkpoint));
        let record = self.path().join(RUN_RECORD_FILE);
        let ledger = self.path().join(LEDGER_FILE);
        let mut files = Vec::new();
        if own_run.is_none() && (record.exists() || ledger.exists()) {
            files.extend(RunRecord::files_of(self.path()));
            files.extend(RESULT_FILES.map(str::to_owned));
        }
        let mut gone = Vec::new();
        // The record goes even where the run goes on: from here on, the run is not complete.
        let files = files.into_iter().map(|name| self.path().join(name));
        let last = own_run.is_none().then_some(ledger);
        let checkpoints = self.own_checkpoints()?.into_iter().rev();
        let kept = own_run.map_or(0, |checkpoint| checkpoint.update().0);
        for path in files.chain([record]) {
            remove_file(path, &mut gone)?;
        }
        for (_, folder) in checkpoints.filter(|(update, _)| own_run.is_none() || *update > kept) {
            durable::perform(&durable::removal(&folder))?;
            gone.push(folder);
        }
        last.map_or(Ok(()), |ledger| remove_file(ledger, &mut gone))?;
        Operation::Sync(self.path().to_owned()).perform()?;
        Ok(gone)
    }
}

fn remove_file(path: PathBuf, gone: &mut Vec<PathBuf>) -> Result<(), ArchiveError> {
    if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        Operation::Remove(path.clone()).perform()?;
        gone.push(path);
    }
    Ok(())
}

#[cfg(test)]
#[path = "start_test.rs"]
mod tests;
