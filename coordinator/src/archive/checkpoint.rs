//! Checkpoints: `checkpoint-<update>/`, valid if the manifest is there and every file is what it says (INV-4).

use std::fmt;
use std::path::{Path, PathBuf};

use medley_common::identity::{Digest, Update};
use medley_common::message::{Artifact, ArtifactKind};

use super::error::ArchiveError;
use super::ledger::CheckpointRecord;
use super::manifest::Manifest;
use super::output_dir::{checkpoint_folders, is_own_checkpoint};
use super::recipe::Recipe;
use super::staging::artifact_file;
use super::trainer_state::TrainerState;

/// A checkpoint whose every file has been verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
    /// SHA-256 of the manifest's file.
    digest: Digest,
    trainer_state: TrainerState,
}

/// A file of a checkpoint that workers fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredArtifact {
    /// What it is.
    pub artifact: Artifact,
    /// Where it lies.
    pub path: PathBuf,
    /// Its digest.
    pub sha256: Digest,
}

/// A folder that looks like a checkpoint but is no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The folder.
    pub path: PathBuf,
    /// What is wrong with which file.
    pub reason: String,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        write!(f, "{}: {}", name.display(), self.reason)
    }
}

/// The checkpoints of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// The newest that is valid.
    pub newest: Option<Checkpoint>,
    /// Those newer than it, and those of other programs, newest first; older ones are not read.
    pub passed_over: Vec<PassedOver>,
}

impl Scan {
    /// Looks for the newest valid checkpoint of `folder`. Blocks: it reads whole checkpoints.
    ///
    /// # Errors
    /// The folder itself cannot be read.
    pub fn of(folder: &Path) -> Result<Self, ArchiveError> {
        let mut folders = checkpoint_folders(folder)?;
        folders.sort_by(|left, right| right.cmp(left));
        let mut scan = Self { newest: None, passed_over: Vec::new() };
        for (update, path) in folders {
            if scan.newest.is_some() && is_own_checkpoint(&path) {
                continue;
            }
            match Checkpoint::read(&path) {
                Ok(checkpoint) if checkpoint.update().0 == update => scan.newest = Some(checkpoint),
                Ok(checkpoint) => {
                    let reason = format!("its manifest is of update {}", checkpoint.update());
                    scan.passed_over.push(PassedOver { path, reason });
                }
                Err(reason) => scan.passed_over.push(PassedOver { path, reason }),
            }
        }
        Ok(scan)
    }
}

impl Checkpoint {
    /// Opens and verifies the checkpoint in `path`, whatever the folder's name. Blocks: it reads the whole checkpoint.
    ///
    /// # Errors
    /// It is no valid checkpoint.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        Self::read(path).map_err(|reason| ArchiveError::InvalidCheckpoint { path: path.to_owned(), reason })
    }

    fn read(path: &Path) -> Result<Self, String> {
        if !path.is_dir() {
            return Err("is not a folder".to_owned());
        }
        let (manifest, digest) = Manifest::verify(path)?;
        for kind in KINDS {
            if !manifest.files.contains_key(artifact_file(kind)) {
                return Err(format!("lacks {}", artifact_file(kind)));
            }
        }
        let trainer_state = TrainerState::read(path)?;
        Ok(Self { path: path.to_owned(), manifest, digest, trainer_state })
    }

    /// Makes the value of a checkpoint that was just committed.
    pub(super) fn committed(path: PathBuf, manifest: Manifest, digest: Digest, trainer_state: TrainerState) -> Self {
        Self { path, manifest, digest, trainer_state }
    }

    /// What the ledger says of it.
    #[must_use]
    pub fn record(&self) -> CheckpointRecord {
        CheckpointRecord {
            update: self.update(),
            name: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            manifest: self.digest,
            parameters: self.manifest.parameters,
        }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Updates done.
    #[must_use]
    pub fn update(&self) -> Update {
        self.manifest.update
    }

    /// What it is of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the run stood, and its log.
    #[must_use]
    pub fn trainer_state(&self) -> &TrainerState {
        &self.trainer_state
    }

    /// The files that workers fetch to go on from it: weights, then optimizer.
    #[must_use]
    pub fn artifacts(&self) -> Vec<StoredArtifact> {
        let stored = |kind| {
            let name = artifact_file(kind);
            let record = self.manifest.files.get(name)?;
            let artifact = Artifact { kind, file_name: name.to_owned(), bytes: record.bytes };
            Some(StoredArtifact { artifact, path: self.path.join(name), sha256: record.sha256 })
        };
        KINDS.into_iter().filter_map(stored).collect()
    }

    /// Checks that a run of `recipe` may go on from here.
    ///
    /// # Errors
    /// The settings that differ, by name.
    pub fn check_recipe(&self, recipe: &Recipe) -> Result<(), ArchiveError> {
        let differences = recipe.differences(&self.manifest.recipe);
        if differences.is_empty() {
            return Ok(());
        }
        Err(ArchiveError::RecipeDiffers { path: self.path.clone(), differences })
    }
}

const KINDS: [ArtifactKind; 2] = [ArtifactKind::Weights, ArtifactKind::Optimizer];

#[cfg(test)]
#[path = "checkpoint_test.rs"]
mod tests;
