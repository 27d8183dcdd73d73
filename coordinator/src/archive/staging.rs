//! A checkpoint while it is received: a hidden folder that is none until it is committed.
//!
//! Its files come in pieces, from several senders at once and perhaps more than once; each piece is taken one time, and
//! whoever brings the last one waits until the file is on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use medley_common::identity::{Digest, Update};
use medley_common::message::ArtifactKind;
use medley_common::save::Piece;
use sha2::{Digest as _, Sha256};

use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::manifest::FileRecord;
use super::output_dir::{OutputDir, is_of_checkpoint};
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
    /// In how many pieces each file comes.
    pieces: u32,
    files: Mutex<BTreeMap<&'static str, Arc<StagedFile>>>,
    patience: Patience,
}

/// A file that is being received.
#[derive(Debug)]
struct StagedFile {
    name: &'static str,
    path: PathBuf,
    file: File,
    bytes: u64,
    places: Vec<Mutex<Place>>,
    /// What it is, once it is whole and on the disk.
    sealed: Mutex<Option<FileRecord>>,
}

/// Where one piece goes.
#[derive(Debug, Default)]
struct Place {
    /// The newest attempt to bring it: an older one writes no more.
    attempt: u64,
    arrived: bool,
}

/// A piece that is being received.
#[derive(Debug)]
pub struct StagedPiece {
    file: Arc<StagedFile>,
    update: Update,
    piece: Piece,
    attempt: u64,
    range: Range<u64>,
    hash: Sha256,
    received_bytes: u64,
    patience: Patience,
}

impl Staging {
    /// Begins to receive the state after `update` into `output`, in so many pieces a file; what an earlier attempt left is
    /// removed. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn begin(
        output: &OutputDir,
        (update, pieces): (Update, u32),
        patience: Patience,
    ) -> Result<Self, ArchiveError> {
        static ATTEMPTS: AtomicU64 = AtomicU64::new(1);
        for leftover in output.leftovers()?.into_iter().filter(|leftover| is_of_checkpoint(leftover)) {
            // One that an upload of a save given up still writes to goes with the next save.
            Operation::Remove(leftover).perform().ok();
        }
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let folder = output.path().join(format!(".checkpoint-{update}.{attempt}.partial"));
        durable::attempt(|| fs::create_dir(&folder)).map_err(ArchiveError::io("create", &folder))?;
        Ok(Self { folder, update, pieces, files: Mutex::default(), patience })
    }

    /// Begins to receive a piece of a file that has `bytes` in all; `None` where it has arrived already, and with it the
    /// file, if it is whole. Blocks, also while the disk has no room.
    ///
    /// # Errors
    /// The piece or the file is cut otherwise than the others, the staging was given up, or the disk refuses for good.
    pub fn piece(&self, kind: ArtifactKind, piece: Piece, bytes: u64) -> Result<Option<StagedPiece>, ArchiveError> {
        let name = artifact_file(kind);
        let file = self.file(name, bytes)?;
        let misplaced = ArchiveError::Misplaced { update: self.update, name };
        let Some(place) = file.places.get(piece.index as usize).filter(|_| piece.count == self.pieces) else {
            return Err(misplaced);
        };
        let (attempt, arrived) = {
            let mut place = lock(place);
            place.attempt += 1;
            (place.attempt, place.arrived)
        };
        if arrived {
            file.seal(&self.patience)?;
            return Ok(None);
        }
        let range = piece.range(bytes);
        self.patience.keep_trying(|| self.check_room(name, range.end - range.start))?;
        let (update, patience) = (self.update, self.patience.clone());
        Ok(Some(StagedPiece { file, update, piece, attempt, range, hash: Sha256::new(), received_bytes: 0, patience }))
    }

    /// The file `name`, created by who comes first.
    fn file(&self, name: &'static str, bytes: u64) -> Result<Arc<StagedFile>, ArchiveError> {
        let mut files = lock(&self.files);
        if let Some(file) = files.get(name) {
            if file.bytes != bytes {
                return Err(ArchiveError::WrongSize { name, declared_bytes: file.bytes, received_bytes: bytes });
            }
            return Ok(Arc::clone(file));
        }
        let path = self.folder.join(name);
        let create = || durable::attempt(|| File::create_new(&path)).map_err(ArchiveError::io("create", &path));
        let file = self.patience.keep_trying(create)?;
        let places = (0..self.pieces).map(|_| Mutex::default()).collect();
        let file = Arc::new(StagedFile { name, path, file, bytes, places, sealed: Mutex::default() });
        files.insert(name, Arc::clone(&file));
        Ok(file)
    }

    fn check_room(&self, name: &str, need_bytes: u64) -> Result<(), ArchiveError> {
        let statistics = rustix::fs::statvfs(&self.folder)
            .map_err(|error| ArchiveError::io("ask for the free space of", &self.folder)(error.into()))?;
        let free_bytes = statistics.f_bavail.saturating_mul(statistics.f_frsize);
        if need_bytes > free_bytes {
            let plan = format!("{name} of update {}", self.update);
            let path = durable::parent(&self.folder);
            return Err(ArchiveError::Space { path, need_bytes, free_bytes, plan });
        }
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
        let sealed = lock(&self.files).get(name).and_then(|file| *lock(&file.sealed));
        sealed.ok_or(ArchiveError::Incomplete { update: self.update, name })
    }

    /// The save is given up: its folder goes. What is still on its way finds no place. Blocks.
    ///
    /// # Errors
    /// The folder cannot be removed; the next save tries again.
    pub fn remove(&self) -> Result<(), ArchiveError> {
        Operation::Remove(self.folder.clone()).perform()
    }
}

impl StagedPiece {
    /// Appends a chunk. Blocks, also while the disk is full.
    ///
    /// # Errors
    /// More comes than belongs to the piece, another attempt brings it, or it cannot be written.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ArchiveError> {
        let received_bytes = self.received_bytes.saturating_add(chunk.len() as u64);
        if received_bytes > self.range.end - self.range.start {
            return Err(self.wrong_size(received_bytes));
        }
        let (file, offset) = (&self.file, self.range.start + self.received_bytes);
        self.patience.keep_trying(|| {
            let place = self.place()?;
            // At its place, whatever an attempt before has written of it.
            let written = durable::attempt(|| file.file.write_all_at(chunk, offset));
            drop(place);
            written.map_err(ArchiveError::io("write", &file.path))
        })?;
        self.hash.update(chunk);
        self.received_bytes = received_bytes;
        Ok(())
    }

    /// Ends the piece, which must have the digest `announced`; where it is the last one, waits until the file is on the
    /// disk. Blocks, also while the disk refuses.
    ///
    /// # Errors
    /// Less or something else came, another attempt brings it, or the disk refuses.
    pub fn finish(self, announced: Digest) -> Result<(), ArchiveError> {
        if self.received_bytes != self.range.end - self.range.start {
            return Err(self.wrong_size(self.received_bytes));
        }
        let found = Digest(self.hash.clone().finalize().into());
        if found != announced {
            return Err(ArchiveError::Damaged { name: self.file.name, found, announced });
        }
        {
            let mut place = self.place()?;
            place.arrived = true;
        }
        self.file.seal(&self.patience)
    }

    /// The place of the piece, as long as this attempt is the newest.
    fn place(&self) -> Result<MutexGuard<'_, Place>, ArchiveError> {
        let misplaced = || ArchiveError::Misplaced { update: self.update, name: self.file.name };
        let place = self.file.places.get(self.piece.index as usize).map(lock);
        place.filter(|place| place.attempt == self.attempt && !place.arrived).ok_or_else(misplaced)
    }

    fn wrong_size(&self, received_bytes: u64) -> ArchiveError {
        let declared_bytes = self.range.end - self.range.start;
        ArchiveError::WrongSize { name: self.file.name, declared_bytes, received_bytes }
    }
}

impl StagedFile {
    /// Takes the digest of the file if it is whole, and waits until it is on the disk; done once, whoever asks.
    fn seal(&self, patience: &Patience) -> Result<(), ArchiveError> {
        if !self.places.iter().all(|place| lock(place).arrived) {
            return Ok(());
        }
        let mut sealed = lock(&self.sealed);
        if sealed.is_some() {
            return Ok(());
        }
        let mut synced = false;
        patience.keep_trying(|| {
            if std::mem::replace(&mut synced, true) {
                // The kernel forgets what it could not write, so a second sync would say nothing: all is written anew.
                return durable::rewrite(&self.path);
            }
            durable::attempt(|| self.file.sync_all()).map_err(ArchiveError::io("sync", &self.path))
        })?;
        let read = || FileRecord::of_file(&self.path).map_err(ArchiveError::io("read", &self.path));
        *sealed = Some(patience.keep_trying(read)?);
        Ok(())
    }
}

/// What a panic has left behind is checked piece by piece all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "staging_test.rs"]
mod tests;
