//! Where training starts: afresh, from a checkpoint, or not at all because the run is complete.

use std::path::{Path, PathBuf};

use medley_common::identity::Update;

use super::card_file::{CARD_FILE, is_card};
use super::certificate::{CERTIFICATE_FILE, Certificate};
use super::checkpoint::{Checkpoint, PassedOver, Scan};
use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::ledger::{LEDGER_FILE, Ledger, Recovered};
use super::output_dir::{OutputDir, PROFILE_FILES, RESULT_FILES, is_own_file};
use super::recipe::Recipe;
use super::recover_for;
use super::report_file::{REPORT_FILE, is_page};

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

/// A run that lies in its folder, not complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// Its ledger.
    pub recovered: Recovered,
    /// Its newest valid checkpoint, which new workers start from; `None` where they start from the initial weights.
    pub checkpoint: Option<Checkpoint>,
}

/// Where training starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// From the initial weights.
    Fresh,
    /// From a checkpoint: what was done after it does not count.
    Checkpoint(Box<Checkpoint>),
    /// After the last update in the folder's own ledger.
    Ledger(Box<Unfinished>),
    /// Nowhere: the folder holds a complete run. Whether it is the run that was asked for, its recipe tells.
    Finished(Box<Certificate>),
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
    /// is then resumed, or is to be overwritten. A ledger of this recipe alone is of a run that never came to its first
    /// checkpoint: it goes on as well. What a run has done since it was first typed is never undone by typing it again.
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
            return Ok(Found { start: Start::Checkpoint(checkpoint), passed_over: Vec::new() });
        }
        let fresh = Found { start: Start::Fresh, passed_over: Vec::new() };
        match request.existing {
            Existing::Discard => return Ok(fresh),
            Existing::Replace => return Ok(self.unfinished(recipe, |_| true)?.unwrap_or(fresh)),
            Existing::Continue => {}
        }
        let mut passed_over = Vec::new();
        match Certificate::read(self.path()) {
            Ok(Some(record)) => return Ok(Found { start: Start::Finished(Box::new(record)), passed_over }),
            Ok(None) => {}
            Err(reason) => passed_over.push(PassedOver { path: self.path().join(CERTIFICATE_FILE), reason }),
        }
        let scan = Scan::of(self.path())?;
        passed_over.extend(scan.passed_over);
        if let Some(checkpoint) = scan.newest {
            return Ok(Found { start: after(checkpoint)?, passed_over });
        }
        let start = self.ledger_alone(recipe, &mut passed_over).map_or(Start::Fresh, Start::Ledger);
        let entries = self.entries()?;
        let is_ours = |name: &String| name == LEDGER_FILE || (start != Start::Fresh && is_own_file(name));
        if entries.iter().all(is_ours) {
            return Ok(Found { start, passed_over });
        }
        Err(ArchiveError::Occupied { path: self.path().to_owned(), entries, passed_over })
    }

    /// A run of `recipe` that lies here and is not complete, if its newest checkpoint is one that is `wanted`.
    fn unfinished(&self, recipe: &Recipe, wanted: impl Fn(&Checkpoint) -> bool) -> Result<Option<Found>, ArchiveError> {
        if self.path().join(CERTIFICATE_FILE).exists() {
            return Ok(None);
        }
        let Scan { newest, mut passed_over } = Scan::of(self.path())?;
        let start = match newest {
            Some(own) if own.check_recipe(recipe).is_ok() && wanted(&own) => Some(after(own)?),
            Some(_) => None,
            None => self.ledger_alone(recipe, &mut passed_over).map(Start::Ledger),
        };
        Ok(start.map(|start| Found { start, passed_over }))
    }

    /// The ledger of a run of `recipe` that has no checkpoint yet.
    fn ledger_alone(&self, recipe: &Recipe, passed_over: &mut Vec<PassedOver>) -> Option<Box<Unfinished>> {
        let path = self.path().join(LEDGER_FILE);
        if !path.exists() {
            return None;
        }
        let recovered = match Ledger::recover(&path) {
            Ok(recovered) => recovered,
            Err(error) => {
                passed_over.push(PassedOver { path, reason: error.to_string() });
                return None;
            }
        };
        let identity = recovered.history.identity();
        let is_whole = identity.start.0 == 0 && identity.recipe.differences(recipe).is_empty();
        is_whole.then(|| Box::new(Unfinished { recovered, checkpoint: None }))
    }

    /// Refuses a folder that holds something else than the run of `checkpoint`.
    fn admit(&self, checkpoint: &Checkpoint, existing: Existing) -> Result<(), ArchiveError> {
        if existing != Existing::Continue || self.holds(checkpoint) {
            return Ok(());
        }
        let path = self.path().to_owned();
        if !self.own_checkpoints()?.is_empty() || self.path().join(CERTIFICATE_FILE).exists() {
            return Err(ArchiveError::AnotherRun { path, checkpoint: checkpoint.path().to_owned() });
        }
        let entries = self.entries()?;
        if entries.iter().all(|name| name == LEDGER_FILE) {
            return Ok(());
        }
        Err(ArchiveError::Occupied { path, entries, passed_over: Vec::new() })
    }

    /// The folder's ledger, read to its last whole record; `None` where there is none. Blocks.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn ledger(&self) -> Result<Option<Recovered>, ArchiveError> {
        match Ledger::recover(&self.path().join(LEDGER_FILE)) {
            Err(ArchiveError::NoLedger { .. }) => Ok(None),
            recovered => recovered.map(Some),
        }
    }

    /// Whether `checkpoint` lies in this folder.
    pub(super) fn holds(&self, checkpoint: &Checkpoint) -> bool {
        let canonical = |path: &Path| path.canonicalize().ok();
        let folder = canonical(checkpoint.path()).map(|path| durable::parent(&path));
        folder.is_some() && folder == canonical(self.path())
    }

    /// Removes what a crash has left of a run that goes on, and the record that it was complete: from here on it is not.
    /// Answers what went. Blocks.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn clear_unfinished(&self) -> Result<Vec<PathBuf>, ArchiveError> {
        self.clear_leftovers()?;
        let mut gone = Vec::new();
        remove_file(self.path().join(CERTIFICATE_FILE), &mut gone)?;
        self.clear_pages(&mut gone)?;
        Operation::Sync(self.path().to_owned()).perform()?;
        Ok(gone)
    }

    /// Removes the checkpoints of ours after `update`. Answers what went. Blocks.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn clear_after(&self, update: Update) -> Result<Vec<PathBuf>, ArchiveError> {
        let later = self.own_checkpoints()?.into_iter().rev().filter(|(own, _)| *own > update.0);
        later.map(|(_, folder)| durable::perform(&durable::removal(&folder)).map(|()| folder)).collect()
    }

    /// Removes what a run that starts at `from` replaces, and leftovers of a crash. Only what is ours goes:
    /// checkpoints with a manifest and, where a ledger or a certificate shows that a run of ours was here, its results and
    /// the files of its final model. Answers what went. Blocks.
    ///
    /// The ledger goes last, so that a crash in between leaves a folder that is known for ours.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn clear(&self, from: Option<&Checkpoint>) -> Result<Vec<PathBuf>, ArchiveError> {
        if let Some(own) = from.filter(|checkpoint| self.holds(checkpoint)) {
            let mut gone = self.clear_unfinished()?;
            gone.extend(self.clear_after(own.update())?);
            return Ok(gone);
        }
        self.clear_leftovers()?;
        let (record, ledger) = (self.path().join(CERTIFICATE_FILE), self.path().join(LEDGER_FILE));
        let mut files = Vec::new();
        if record.exists() || ledger.exists() {
            files.extend(Certificate::files_of(self.path()));
            files.extend(RESULT_FILES.into_iter().chain(PROFILE_FILES).map(str::to_owned));
        }
        let mut gone = Vec::new();
        self.clear_pages(&mut gone)?;
        for path in files.into_iter().map(|name| self.path().join(name)).chain([record]) {
            remove_file(path, &mut gone)?;
        }
        gone.extend(self.clear_after(Update(0))?);
        remove_file(ledger, &mut gone)?;
        Operation::Sync(self.path().to_owned()).perform()?;
        Ok(gone)
    }

    /// Removes the page and the card of a run that goes on or is replaced.
    fn clear_pages(&self, gone: &mut Vec<PathBuf>) -> Result<(), ArchiveError> {
        let (page, card) = (self.path().join(REPORT_FILE), self.path().join(CARD_FILE));
        // What cannot be read is not known for ours.
        let ours = [(is_page(&page), page), (is_card(&card), card)];
        let ours = ours.into_iter().filter(|(is_ours, _)| *is_ours.as_ref().unwrap_or(&false));
        ours.map(|(_, path)| path).try_for_each(|path| remove_file(path, gone))
    }

    fn clear_leftovers(&self) -> Result<(), ArchiveError> {
        self.leftovers()?.into_iter().try_for_each(|leftover| Operation::Remove(leftover).perform())
    }
}

/// Where the run of a checkpoint goes on: after its ledger, where there is one.
fn after(checkpoint: Checkpoint) -> Result<Start, ArchiveError> {
    Ok(match recover_for(&checkpoint)? {
        Some(recovered) => Start::Ledger(Box::new(Unfinished { recovered, checkpoint: Some(checkpoint) })),
        None => Start::Checkpoint(Box::new(checkpoint)),
    })
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
