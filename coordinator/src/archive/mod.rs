//! The archive: everything that the coordinator writes to and reads from the output folder.
//!
//! ```text
//! output_dir/
//!   .medley.lock                    held by the one coordinator that writes here
//!   .checkpoint-<update>.<n>.partial/   a checkpoint while it is received
//!   checkpoint-<update>/            config.json, tokenizer files, model.safetensors, optimizer.safetensors,
//!                                   trainer_state.json, medley.json (the manifest, written last)
//!   ledger.jsonl                    the run's durable log: a record a line, chained by digests
//!   model.safetensors, config.json, tokenizer files      the final model
//!   medley_run.json                 the certificate: how it was made; written last: the run is complete
//!   {train,eval,predict,all}_results.json, trainer_state.json, predict_results.txt, predictions.jsonl
//!   report.html, README.md          pictures of the run, and the model's card, where nobody else's are in their place
//!   profile.json, trace.json        where the time went, where that was asked for
//!   runs/                           what trackers write, where they are asked for: nothing of it is the archive's
//! ```
//!
//! Everything here blocks on the disk; an async caller runs it on a thread of its own. Nothing here reads a clock,
//! and no row's text is ever written.
//!
//! A run goes: [`OutputDir::open`], [`OutputDir::find_start`], [`OutputDir::preflight`] (nothing has changed so far),
//! then [`Archive::begin`] when the first record is about to be written; [`Ledger::append`], [`Archive::stage`] and
//! [`Archive::commit`] as it goes; [`Archive::export`] and [`Metrics::save`] at its end. What may be tried again after
//! an error says so: it leaves no half-done thing behind.

mod card_file;
mod certificate;
mod checkpoint;
mod commit;
mod durable;
mod error;
mod export;
mod json_text;
mod ledger;
mod listing;
mod lock;
mod manifest;
mod output_dir;
mod patience;
mod predictions;
mod profile_file;
mod recipe;
mod report_file;
mod results;
mod sealed;
mod space;
mod staging;
mod start;
mod trace_file;
mod trainer_state;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;

use medley_common::identity::{Digest, Update};

pub use card_file::{CARD_FILE, save_card};
pub use certificate::{CERTIFICATE_FILE, Certificate};
pub use checkpoint::{Checkpoint, PassedOver, Scan, StoredArtifact};
pub use commit::{Agreed, Committed, ModelFile};
pub(crate) use durable::replace as write_whole;
pub use error::ArchiveError;
pub use export::ModelSource;
pub use json_text::JsonObject;
pub use ledger::{
    Change, CheckpointRecord, Evaluated, Event, FinalRecord, Head, History, Host, LEDGER_FILE, Ledger, Lines, Logged,
    Next, PastUpdate, Record, Recovered, RewindRecord, RunIdentity, TornTail, What,
};
pub use listing::Listed;
pub use manifest::{FileRecord, MANIFEST_FILE, Manifest};
pub use output_dir::{MODEL_FILES, OutputDir, TRACKERS_FOLDER, checkpoints_of, is_in_the_way, may_replace};
pub use patience::Patience;
pub use predictions::{PREDICTIONS_LINES, PREDICTIONS_TABLE, RowOrigin, save_predictions};
pub(crate) use predictions::{label_name, softmax};
pub use profile_file::{PROFILE_FILE, save_profile};
pub use recipe::{Difference, Recipe};
pub use report_file::{PAGE_BEGINNING, REPORT_FILE, may_save_report, save_private_report, save_report};
pub use results::{ALL_RESULTS_FILE, Metrics, TRAIN_RESULTS_FILE};
pub use space::{Space, SpaceNeed};
pub use staging::{OPTIMIZER_FILE, StagedPiece, Staging, WEIGHTS_FILE, artifact_file};
pub use start::{Existing, Found, Start, StartRequest, Unfinished};
pub use trace_file::{TRACE_FILE, TraceFile};
pub use trainer_state::{Cadence, LogEntry, TRAINER_STATE_FILE, TrainerState};

/// What is the same for all checkpoints and the final model of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunContents {
    /// Which run it is.
    pub identity: RunIdentity,
    /// Configuration and tokenizer.
    pub model_files: Vec<ModelFile>,
    /// `--save_total_limit`; `None` keeps all checkpoints.
    pub save_total_limit: Option<NonZeroU32>,
}

/// The output folder of a run that trains.
#[derive(Debug)]
pub struct Archive {
    output: OutputDir,
    contents: RunContents,
}

/// What a certificate says beside what the archive knows itself.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// Epochs done.
    pub epoch: f64,
    /// What the workers agree on.
    pub agreed: Agreed,
    /// The checkpoint that the model is, where it is not the last model.
    pub best: Option<Update>,
    /// Digests of what went in, by name.
    pub inputs: BTreeMap<String, Digest>,
    /// Digests of the programs, by name.
    pub programs: BTreeMap<String, Digest>,
}

/// Where a run goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// At its first update.
    Fresh,
    /// At a checkpoint: what is recorded of later updates no longer counts.
    Checkpoint(Box<Checkpoint>),
    /// At the last record of the folder's own ledger.
    Ledger(Box<Unfinished>),
}

/// A run's writing has begun.
#[derive(Debug)]
pub struct Begun {
    /// The ledger, which stands at the update that training goes on from.
    pub ledger: Ledger,
    /// The last line of the ledger, where it never got whole.
    pub dropped: Option<TornTail>,
    /// What went: the run that was overwritten, or checkpoints after the one resumed.
    pub removed: Vec<PathBuf>,
}

impl Archive {
    /// The archive of a run in a folder; nothing is touched yet.
    #[must_use]
    pub fn new(output: OutputDir, contents: RunContents) -> Self {
        Self { output, contents }
    }

    /// Begins to write: what this run replaces goes now, so call it when the run is known to be able to train. It can
    /// be tried again. Blocks.
    ///
    /// # Errors
    /// The checkpoint or the ledger is of another recipe, the ledger is damaged, or the disk refuses.
    pub fn begin(&self, origin: &Origin) -> Result<Begun, ArchiveError> {
        let output = &self.output;
        match origin {
            Origin::Fresh => {
                let removed = output.clear(None)?;
                let ledger = Ledger::create(output.path(), self.contents.identity.clone())?;
                Ok(Begun { ledger, dropped: None, removed })
            }
            Origin::Ledger(unfinished) => self.go_on(unfinished),
            Origin::Checkpoint(checkpoint) => self.return_to(checkpoint),
        }
    }

    /// Goes on after the ledger's last record.
    fn go_on(&self, unfinished: &Unfinished) -> Result<Begun, ArchiveError> {
        let Unfinished { recovered, checkpoint } = unfinished;
        let dropped = recovered.dropped.clone();
        let removed = self.output.clear_unfinished()?;
        let mut ledger = Ledger::reopen(self.output.path(), recovered.clone())?;
        note_checkpoint(&mut ledger, checkpoint.as_ref())?;
        Ok(Begun { ledger, dropped, removed })
    }

    /// Removes the checkpoints after `update`, which the run has gone back to. Answers what went. Blocks.
    ///
    /// # Errors
    /// Something cannot be removed; it can be tried again.
    pub fn clear_after(&self, update: Update) -> Result<Vec<PathBuf>, ArchiveError> {
        self.output.clear_after(update)
    }

    /// Goes back to a checkpoint, of this folder or of another one, whose ledger is then copied.
    fn return_to(&self, checkpoint: &Checkpoint) -> Result<Begun, ArchiveError> {
        let (output, identity) = (&self.output, &self.contents.identity);
        checkpoint.check_recipe(&identity.recipe)?;
        let recovered = recover_for(checkpoint)?;
        let dropped = recovered.as_ref().and_then(|recovered| recovered.dropped.clone());
        let own = output.holds(checkpoint);
        let removed = output.clear(Some(checkpoint))?;
        let mut ledger = match recovered {
            None => {
                let identity = RunIdentity { start: checkpoint.update(), ..identity.clone() };
                Ledger::create(output.path(), identity)?
            }
            Some(recovered) if own => Ledger::reopen(output.path(), recovered)?,
            Some(recovered) => Ledger::adopt(output.path(), &ledger_beside(checkpoint), recovered)?,
        };
        let name = checkpoint.path().file_name().unwrap_or_default().to_string_lossy();
        let rewind = RewindRecord { to: checkpoint.update(), reason: format!("resumed from {name}") };
        ledger.append(Record::Rewind(rewind))?;
        note_checkpoint(&mut ledger, Some(checkpoint).filter(|_| own))?;
        Ok(Begun { ledger, dropped, removed })
    }

    /// The folder.
    #[must_use]
    pub fn output(&self) -> &OutputDir {
        &self.output
    }

    /// Begins to receive the state after `update`, each file in so many pieces. One at a time: what an earlier attempt
    /// left is removed. What is received waits by `patience` for a disk that refuses. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn stage(&self, (update, pieces): (Update, u32), patience: &Patience) -> Result<Staging, ArchiveError> {
        Staging::begin(&self.output, (update, pieces), patience.clone())
    }

    /// Makes a checkpoint of a staging that holds weights and optimizer, records it in the ledger, then removes the
    /// oldest beyond the limit, but never the best. It can be tried again. Blocks.
    ///
    /// The ledger is synced first: a checkpoint must not know of updates that the ledger has forgotten.
    ///
    /// # Errors
    /// The disk refuses: the checkpoints before are as they were.
    pub fn commit(
        &self,
        ledger: &mut Ledger,
        staging: &Staging,
        agreed: &Agreed,
        state: &TrainerState,
    ) -> Result<Committed, ArchiveError> {
        ledger.sync()?;
        let mut committed = self.frame().commit(staging, agreed, state)?;
        ledger.append(Record::Checkpoint(committed.checkpoint.record()))?;
        self.frame().rotate(&mut committed, ledger.history().best().map(|best| best.update));
        Ok(committed)
    }

    fn frame(&self) -> commit::Frame<'_> {
        let RunContents { identity, model_files, save_total_limit } = &self.contents;
        let (recipe, save_total_limit) = (&identity.recipe, *save_total_limit);
        commit::Frame { output: &self.output, recipe, model_files, save_total_limit }
    }

    /// Puts the final model into the output folder and issues the certificate that the run is complete. It can be
    /// tried again. Blocks.
    ///
    /// # Errors
    /// The weights are missing, or the disk refuses.
    pub fn export(
        &self,
        ledger: &mut Ledger,
        source: &ModelSource<'_>,
        facts: RunFacts,
    ) -> Result<Certificate, ArchiveError> {
        let RunContents { identity, model_files, .. } = &self.contents;
        let files = export::export(&self.output, source, model_files)?;
        let RunFacts { epoch, agreed: Agreed { layout, parameters }, best, inputs, programs } = facts;
        let mut certificate = Certificate {
            version: identity.version.clone(),
            update: ledger.last(),
            epoch,
            layout,
            parameters,
            best,
            recipe: identity.recipe.clone(),
            command: identity.command.clone(),
            inputs,
            programs,
            hosts: BTreeSet::new(),
            ledger: ledger.head(),
            files,
            results: BTreeMap::new(),
        };
        certificate.issue(&self.output, ledger)?;
        Ok(certificate)
    }
}

/// Reads the ledger beside a checkpoint; `None` where there is none.
///
/// # Errors
/// It is damaged, of another recipe, or ends before the checkpoint.
pub fn recover_for(checkpoint: &Checkpoint) -> Result<Option<Recovered>, ArchiveError> {
    let path = ledger_beside(checkpoint);
    if !path.try_exists().map_err(ArchiveError::io("read", &path))? {
        return Ok(None);
    }
    let recovered = Ledger::recover(&path)?;
    let history = &recovered.history;
    let (last, update) = (history.last(), checkpoint.update());
    let differences = history.identity().recipe.differences(&checkpoint.manifest().recipe);
    let reason = if let Some(difference) = differences.first() {
        Some((1, format!("is of another run than checkpoint-{update}: {difference}")))
    } else if last < update || history.identity().start > update {
        let line = recovered.head.records;
        Some((line, format!("is the last line, of update {last}; it does not reach checkpoint-{update}")))
    } else {
        None
    };
    match reason {
        Some((line, reason)) => Err(ArchiveError::Ledger { path, line, reason }),
        None => Ok(Some(recovered)),
    }
}

/// A crash may have come between a checkpoint and its record; updates later than it may be recorded.
fn note_checkpoint(ledger: &mut Ledger, newest: Option<&Checkpoint>) -> Result<(), ArchiveError> {
    let recorded = ledger.history().checkpoints().last().map(|last| last.update);
    match newest.filter(|newest| newest.update() <= ledger.last() && recorded < Some(newest.update())) {
        Some(newest) => ledger.append(Record::Checkpoint(newest.record())),
        None => Ok(()),
    }
}

fn ledger_beside(checkpoint: &Checkpoint) -> PathBuf {
    durable::parent(checkpoint.path()).join(LEDGER_FILE)
}

#[cfg(test)]
mod crash_test;
#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
pub(crate) mod fixture;
