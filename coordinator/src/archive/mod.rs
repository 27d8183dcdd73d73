//! The archive: everything that the coordinator writes to and reads from the output folder.
//!
//! ```text
//! output_dir/
//!   .medley.lock                    held by the one coordinator that writes here
//!   .checkpoint-<update>.<n>.partial/   a checkpoint while it is received
//!   checkpoint-<update>/            config.json, tokenizer files, model.safetensors, optimizer.safetensors,
//!                                   trainer_state.json, medley.json (the manifest, written last)
//!   ledger.jsonl                    a line an applied update
//!   model.safetensors, config.json, tokenizer files      the final model
//!   medley_run.json                 how it was made; written last: the run is complete
//!   {train,eval,predict,all}_results.json, trainer_state.json, predict_results.txt, predictions.jsonl
//! ```
//!
//! Everything here blocks on the disk; an async caller runs it on a thread of its own. Nothing here reads a clock,
//! and no row's text is ever written.
//!
//! A run goes: [`OutputDir::open`], [`OutputDir::find_start`], [`OutputDir::preflight`] (nothing has changed so far),
//! then [`Archive::begin`] when the first update is about to be recorded; [`Ledger::append`], [`Archive::stage`] and
//! [`Archive::commit`] as it goes; [`Archive::export`] and [`Metrics::save`] at its end.

mod checkpoint;
mod commit;
mod durable;
mod error;
mod export;
mod json_text;
mod ledger;
mod ledger_lines;
mod lock;
mod manifest;
mod output_dir;
mod predictions;
mod recipe;
mod results;
mod sealed;
mod space;
mod staging;
mod start;
mod trainer_state;

use std::num::NonZeroU32;
use std::path::PathBuf;

use medley_common::identity::Update;

pub use checkpoint::{Checkpoint, PassedOver, Scan, StoredArtifact};
pub use commit::{Agreed, Committed, ModelFile};
pub use error::ArchiveError;
pub use export::{ModelSource, RUN_RECORD_FILE, RunFacts, RunRecord};
pub use json_text::JsonObject;
pub use ledger::{LEDGER_FILE, Ledger, LedgerCut};
pub use manifest::{FileRecord, MANIFEST_FILE, Manifest};
pub use output_dir::{MODEL_FILES, OutputDir, may_replace};
pub use predictions::{PREDICTIONS_LINES, PREDICTIONS_TABLE, save_predictions};
pub use recipe::{Difference, Recipe};
pub use results::{ALL_RESULTS_FILE, Metrics, TRAIN_RESULTS_FILE};
pub use space::SpaceNeed;
pub use staging::{OPTIMIZER_FILE, ReceivedFile, StagedFile, Staging, WEIGHTS_FILE, artifact_file, artifact_kind};
pub use start::{Existing, Found, Start, StartRequest};
pub use trainer_state::{Cadence, LogEntry, TRAINER_STATE_FILE, TrainerState};

/// What is the same for all checkpoints and the final model of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunContents {
    /// What decides its weights.
    pub recipe: Recipe,
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

/// An archive that has begun.
#[derive(Debug)]
pub struct Begun {
    /// The archive.
    pub archive: Archive,
    /// The ledger, which stands at the update that training goes on from.
    pub ledger: Ledger,
    /// What became of the ledger's old lines, where the run is resumed.
    pub cut: Option<LedgerCut>,
    /// What went: the run that was overwritten, or checkpoints after the one resumed.
    pub removed: Vec<PathBuf>,
}

impl Archive {
    /// Begins to write: what this run replaces goes now, so call it when the run is known to be able to train.
    ///
    /// `from` is where it goes on; `None` starts afresh. Blocks.
    ///
    /// # Errors
    /// The checkpoint is of another recipe, or the disk refuses.
    pub fn begin(output: OutputDir, from: Option<&Checkpoint>, contents: RunContents) -> Result<Begun, ArchiveError> {
        from.map_or(Ok(()), |checkpoint| checkpoint.check_recipe(&contents.recipe))?;
        let removed = output.clear(from)?;
        let (ledger, cut) = match from {
            None => (Ledger::create(output.path())?, None),
            Some(checkpoint) => {
                let mut source = durable::parent(checkpoint.path()).join(LEDGER_FILE);
                if output.holds(checkpoint) {
                    source = output.path().join(LEDGER_FILE);
                }
                let (ledger, cut) = Ledger::resume(output.path(), &source, checkpoint.update())?;
                (ledger, Some(cut))
            }
        };
        Ok(Begun { archive: Self { output, contents }, ledger, cut, removed })
    }

    /// The folder.
    #[must_use]
    pub fn output(&self) -> &OutputDir {
        &self.output
    }

    /// Begins to receive the state after `update`. One at a time: what an earlier attempt left is removed. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn stage(&self, update: Update) -> Result<Staging, ArchiveError> {
        Staging::begin(&self.output, update)
    }

    /// Makes a checkpoint of a staging that holds weights and optimizer, then removes the oldest beyond the limit.
    /// Blocks.
    ///
    /// # Errors
    /// The disk refuses: the checkpoints before are as they were, and the staging can be committed again.
    pub fn commit(&self, staging: &Staging, agreed: &Agreed, state: &TrainerState) -> Result<Committed, ArchiveError> {
        let RunContents { recipe, model_files, save_total_limit } = &self.contents;
        let save_total_limit = *save_total_limit;
        commit::Frame { output: &self.output, recipe, model_files, save_total_limit }.commit(staging, agreed, state)
    }

    /// Looks for the checkpoint to fall back on. Blocks: it reads whole checkpoints.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn newest_valid(&self) -> Result<Scan, ArchiveError> {
        Scan::of(self.output.path())
    }

    /// Puts the final model into the output folder and writes the record that the run is complete. Blocks.
    ///
    /// # Errors
    /// The weights are missing, or the disk refuses.
    pub fn export(&self, source: &ModelSource<'_>, facts: RunFacts) -> Result<RunRecord, ArchiveError> {
        export::export(&self.output, source, &self.contents.model_files, &self.contents.recipe, facts)
    }

    /// Ends writing but keeps the folder locked, for the results.
    #[must_use]
    pub fn into_output(self) -> OutputDir {
        self.output
    }
}

#[cfg(test)]
mod fixture;
