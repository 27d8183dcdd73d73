//! A checkpoint while it is received: a hidden folder that is none until it is committed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use medley_common::identity::{Digest, Update};
use medley_common::message::ArtifactKind;
use sha2::{Digest as _, Sha256};

use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::manifest::FileRecord;
use super::output_dir::OutputDir;
use super::patience::Patience;

/// The file of the parameters.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The file of the optimizer's moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The file that holds `kind` in a checkpoint.
#[must_use]
pub fn artifact_file(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Weights => WEIGHTS_FILE,
        ArtifactKind::Optimizer => OPTIMIZER_FILE,
    }
}

/// A checkpoint that is being received.
///
/// Its folder bears a name of its own, so that an upload that was given up cannot write into the next one.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    update: Update,
    files: BTreeMap<&'static str, FileRecord>,
    patience: Patience,
}

/// A file that is being received.
#[derive(Debug)]
pub struct StagedFile {
    folder: PathBuf,
    name: &'static str,
    file: File,
    hash: Sha256,
    declared_bytes: u64,
    received_bytes: u64,
    patience: Patience,
}

/// A file that is received and on the disk.
#[derive(Debug)]
pub struct ReceivedFile {
    folder: PathBuf,
    name: &'static str,
    record: FileRecord,
}

impl Staging {
    /// Begins to receive the state after `update` into `output`; what an earlier attempt left is removed. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn begin(output: &OutputDir, update: Update, patience: Patience) -> Result<Self, ArchiveError> {
        static ATTEMPTS: AtomicU64 = AtomicU64::new(1);
        for leftover in output.leftovers()? {
            // One that an upload of a lost group still writes to goes with the next save.
            Operation::Remove(leftover).perform().ok();
        }
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let folder = output.path().join(format!(".checkpoint-{update}.{attempt}.partial"));
        durable::attempt(|| fs::create_dir(&folder)).map_err(ArchiveError::io("create", &folder))?;
        Ok(Self { folder, update, files: BTreeMap::new(), patience })
    }

    /// Begins to receive a file of `declared_bytes`. Blocks, also while the disk has no room for it.
    ///
    /// # Errors
    /// It was begun before, the staging was given up, or the disk refuses for good.
    pub fn file(&self, kind: ArtifactKind, declared_bytes: u64) -> Result<StagedFile, ArchiveError> {
        let name = artifact_file(kind);
        let path = self.folder.join(name);
        let create = || {
            self.check_room(name, declared_bytes)?;
            durable::attempt(|| File::create_new(&path)).map_err(ArchiveError::io("create", &path))
        };
        let file = self.patience.keep_trying(create)?;
        let (folder, hash, patience) = (self.folder.clone(), Sha256::new(), self.patience.clone());
        Ok(StagedFile { folder, name, file, hash, declared_bytes, received_bytes: 0, patience })
    }

    fn check_room(&self, name: &str, declared_bytes: u64) -> Result<(), ArchiveError> {
        let statistics = rustix::fs::statvfs(&self.folder)
            .map_err(|error| ArchiveError::io("ask for the free space of", &self.folder)(error.into()))?;
        let free_bytes = statistics.f_bavail.saturating_mul(statistics.f_frsize);
        if declared_bytes > free_bytes {
            let plan = format!("{name} of update {}", self.update);
            let path = durable::parent(&self.folder);
            return Err(ArchiveError::Space { path, need_bytes: declared_bytes, free_bytes, plan });
        }
        Ok(())
    }

    /// Takes a file that is whole.
    ///
    /// # Errors
    /// It was received for another checkpoint.
    pub fn accept(&mut self, file: ReceivedFile) -> Result<(), ArchiveError> {
        if file.folder != self.folder || self.files.contains_key(file.name) {
            return Err(ArchiveError::Misplaced { update: self.update, name: file.name });
        }
        self.files.insert(file.name, file.record);
        Ok(())
    }

    /// Updates done in the state that is received.
    #[must_use]
    pub fn update(&self) -> Update {
        self.update
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The record of `name`.
    ///
    /// # Errors
    /// It has not been received.
    pub(super) fn record(&self, name: &'static str) -> Result<FileRecord, ArchiveError> {
        self.files.get(name).copied().ok_or(ArchiveError::Incomplete { update: self.update, name })
    }
}

impl StagedFile {
    /// Appends a chunk. Blocks, also while the disk is full.
    ///
    /// # Errors
    /// More comes than was declared, or it cannot be written.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ArchiveError> {
        let received_bytes = self.received_bytes.saturating_add(chunk.len() as u64);
        if received_bytes > self.declared_bytes {
            return Err(self.wrong_size(received_bytes));
        }
        let (path, place) = (self.path(), self.received_bytes);
        // At its place, whatever an attempt before has written of it.
        let write =
            || durable::attempt(|| self.file.write_all_at(chunk, place)).map_err(ArchiveError::io("write", &path));
        self.patience.keep_trying(write)?;
        self.hash.update(chunk);
        self.received_bytes = received_bytes;
        Ok(())
    }

    /// Ends the file and waits until it is on the disk. Blocks, also while the disk refuses.
    ///
    /// # Errors
    /// Less came than was declared, or the disk refuses.
    pub fn finish(self) -> Result<ReceivedFile, ArchiveError> {
        if self.received_bytes != self.declared_bytes {
            return Err(self.wrong_size(self.received_bytes));
        }
        let path = self.path();
        let mut synced = false;
        self.patience.keep_trying(|| {
            if std::mem::replace(&mut synced, true) {
                // The kernel forgets what it could not write, so a second sync would say nothing: all is written anew.
                return durable::rewrite(&path);
            }
            durable::attempt(|| self.file.sync_all()).map_err(ArchiveError::io("sync", &path))
        })?;
        let record = FileRecord { bytes: self.received_bytes, sha256: Digest(self.hash.finalize().into()) };
        Ok(ReceivedFile { folder: self.folder, name: self.name, record })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    fn wrong_size(&self, received_bytes: u64) -> ArchiveError {
        ArchiveError::WrongSize { name: self.name, declared_bytes: self.declared_bytes, received_bytes }
    }
}

impl ReceivedFile {
    /// The digest of what was received.
    #[must_use]
    pub fn sha256(&self) -> Digest {
        self.record.sha256
    }
}

#[cfg(test)]
#[path = "staging_test.rs"]
mod tests;
