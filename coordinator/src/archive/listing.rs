//! The checkpoints of a run by their manifests alone, for whoever only looks.

use std::path::Path;
use std::time::UNIX_EPOCH;

use medley_common::identity::{Digest, Update};

use super::error::ArchiveError;
use super::manifest::{MANIFEST_FILE, Manifest};
use super::output_dir::checkpoint_folders;

/// A checkpoint that was finished. Whether its files are as they were written is not looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Updates done in it.
    pub update: Update,
    /// Epochs done in it.
    pub epoch: f64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Digest of its parameters.
    pub parameters: Digest,
    /// When it was finished, in seconds since 1970.
    pub written_seconds: i64,
}

impl Listed {
    /// Those in `folder`, by their updates. Blocks; reads a small file for each.
    ///
    /// # Errors
    /// The folder cannot be read. A checkpoint that goes in the meantime, or is none, is passed over.
    pub fn all(folder: &Path) -> Result<Vec<Self>, ArchiveError> {
        let mut folders = checkpoint_folders(folder)?;
        folders.sort();
        Ok(folders.into_iter().filter_map(|(update, path)| Self::read(update, &path)).collect())
    }

    fn read(update: u64, folder: &Path) -> Option<Self> {
        let (manifest, _) = Manifest::read(folder).ok()?;
        let modified = folder.join(MANIFEST_FILE).metadata().ok()?.modified().ok()?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        (manifest.update.0 == update).then(|| Self {
            update: manifest.update,
            epoch: manifest.epoch,
            bytes: manifest.files.values().map(|file| file.bytes).sum(),
            parameters: manifest.parameters,
            written_seconds: i64::try_from(since).unwrap_or(i64::MAX),
        })
    }
}
