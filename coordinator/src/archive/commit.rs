//! How received files become a checkpoint: manifest last, then the folder's name, then the old ones go (INV-4).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use medley_common::identity::{Digest, Update};

use super::checkpoint::Checkpoint;
use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::manifest::{FileRecord, MANIFEST_FILE, Manifest};
use super::output_dir::{MODEL_FILES, OutputDir, is_own_checkpoint};
use super::recipe::Recipe;
use super::staging::{OPTIMIZER_FILE, Staging, WEIGHTS_FILE};
use super::trainer_state::{TRAINER_STATE_FILE, TrainerState};

/// A text file of the model: `config.json`, or one of the tokenizer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    name: &'static str,
    bytes: Vec<u8>,
}

impl ModelFile {
    /// The file `name`, one of [`MODEL_FILES`].
    ///
    /// # Errors
    /// It is none of them.
    pub fn new(name: &str, bytes: Vec<u8>) -> Result<Self, ArchiveError> {
        match MODEL_FILES.into_iter().find(|known| *known == name) {
            Some(name) => Ok(Self { name, bytes }),
            None => Err(ArchiveError::UnknownFile { name: name.to_owned(), expected: MODEL_FILES.join(", ") }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What the workers agree on of the state that is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Fingerprint of their parameter layout.
    pub layout: Digest,
    /// Digest of their parameters in layout order.
    pub parameters: Digest,
}

/// A checkpoint that is on the disk for good.
#[derive(Debug)]
pub struct Committed {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Older ones that went, by `--save_total_limit`.
    pub removed: Vec<PathBuf>,
    /// Where a folder of another program was put that bore the checkpoint's name.
    pub aside: Option<PathBuf>,
    /// Why older ones could not be removed; the checkpoint is good all the same.
    pub warning: Option<String>,
}

/// What is the same for all checkpoints of a run.
pub(super) struct Frame<'a> {
    pub(super) output: &'a OutputDir,
    pub(super) recipe: &'a Recipe,
    pub(super) model_files: &'a [ModelFile],
    pub(super) save_total_limit: Option<NonZeroU32>,
}

/// The operations that make a checkpoint of a staging.
///
/// After any number of them the newest valid checkpoint is the one before or, from the last rename on, this one.
pub(super) struct Plan {
    manifest: Manifest,
    /// SHA-256 of the manifest's file.
    digest: Digest,
    target: PathBuf,
    pub(super) aside: Option<PathBuf>,
    pub(super) operations: Vec<Operation>,
}

impl Plan {
    /// Plans the commit of `staging`.
    ///
    /// # Errors
    /// A file has not been received.
    pub(super) fn new(
        frame: &Frame<'_>,
        staging: &Staging,
        agreed: &Agreed,
        state: &TrainerState,
    ) -> Result<Self, ArchiveError> {
        let mut files = BTreeMap::new();
        for name in [WEIGHTS_FILE, OPTIMIZER_FILE] {
            files.insert(name.to_owned(), staging.record(name)?);
        }
        let mut operations = Vec::new();
        let texts = frame.model_files.iter().map(|file| (file.name, file.bytes.clone()));
        for (name, bytes) in texts.chain([(TRAINER_STATE_FILE, state.to_bytes())]) {
            files.insert(name.to_owned(), FileRecord::of_bytes(&bytes));
            operations.push(Operation::Write { path: staging.folder().join(name), bytes });
        }
        let manifest = Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            update: staging.update(),
            epoch: state.epoch,
            layout: agreed.layout,
            parameters: agreed.parameters,
            recipe: frame.recipe.clone(),
            files,
        };
        let text = manifest.to_bytes();
        let digest = FileRecord::of_bytes(&text).sha256;
        operations.extend(durable::replacement(&staging.folder().join(MANIFEST_FILE), text));
        let target = frame.output.path().join(format!("checkpoint-{}", staging.update()));
        let aside = Self::make_way(&target, &mut operations);
        operations.push(Operation::Rename { from: staging.folder().to_owned(), to: target.clone() });
        operations.push(Operation::Sync(frame.output.path().to_owned()));
        Ok(Self { manifest, digest, target, aside, operations })
    }

    /// Frees the checkpoint's name: a damaged one of ours goes, anything else gets another name.
    fn make_way(target: &Path, operations: &mut Vec<Operation>) -> Option<PathBuf> {
        if target.symlink_metadata().is_err() {
            return None;
        }
        if is_own_checkpoint(target) {
            operations.extend(durable::removal(target));
            return None;
        }
        let aside = durable::aside(target);
        operations.push(Operation::Rename { from: target.to_owned(), to: aside.clone() });
        Some(aside)
    }
}

impl Frame<'_> {
    /// Makes a checkpoint of `staging`; on an error, the staging can be committed again. Blocks.
    ///
    /// Where a valid checkpoint of the same update lies already, it stays and the staging goes: equal recipes give
    /// equal states, and replacing it would leave a moment without.
    ///
    /// # Errors
    /// A file is missing or the disk refuses; the checkpoints before are as they were.
    pub(super) fn commit(
        &self,
        staging: &Staging,
        agreed: &Agreed,
        state: &TrainerState,
    ) -> Result<Committed, ArchiveError> {
        let plan = Plan::new(self, staging, agreed, state)?;
        let present = Checkpoint::open(&plan.target).ok().filter(|present| present.update() == staging.update());
        let (checkpoint, aside) = if let Some(present) = present {
            let folder = self.output.path().to_owned();
            durable::perform(&[Operation::Sync(folder), Operation::Remove(staging.folder().to_owned())])?;
            (present, None)
        } else {
            durable::perform(&plan.operations)?;
            (Checkpoint::committed(plan.target, plan.manifest, plan.digest, state.clone()), plan.aside)
        };
        Ok(Committed { checkpoint, removed: Vec::new(), aside, warning: None })
    }

    /// Removes the oldest checkpoints beyond the limit, but neither the newest nor the `best`, as Hugging Face does it;
    /// what cannot be removed is a warning.
    pub(super) fn rotate(&self, committed: &mut Committed, best: Option<Update>) {
        if let Err(error) = self.remove_surplus(committed, best) {
            committed.warning = Some(error.to_string());
        }
    }

    fn remove_surplus(&self, committed: &mut Committed, best: Option<Update>) -> Result<(), ArchiveError> {
        let Some(limit) = self.save_total_limit else { return Ok(()) };
        let newest = committed.checkpoint.update().0;
        let mut own = self.output.own_checkpoints()?;
        own.retain(|(update, _)| *update <= newest);
        let surplus = own.len().saturating_sub(limit.get() as usize);
        own.retain(|(update, _)| *update != newest && best != Some(Update(*update)));
        for (_, folder) in own.into_iter().take(surplus) {
            durable::perform(&durable::removal(&folder))?;
            committed.removed.push(folder);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "commit_test.rs"]
mod tests;
