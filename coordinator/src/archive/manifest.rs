//! The manifest of a checkpoint: what makes a folder a checkpoint, and what its files must be.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use medley_common::identity::{Digest, Update};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::recipe::Recipe;
use super::sealed;

/// The manifest's name within a checkpoint.
pub const MANIFEST_FILE: &str = "medley.json";

/// The largest text file that is read back: manifests, trainer states, results.
const LARGEST_TEXT_BYTES: u64 = 256 << 20;

/// What a checkpoint is of, and what its files must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of Medley that wrote it.
    pub version: String,
    /// Updates done.
    pub update: Update,
    /// Epochs done.
    pub epoch: f64,
    /// Fingerprint of the parameter layout.
    pub layout: Digest,
    /// Digest of the parameters in layout order, as all workers reported it (INV-3).
    pub parameters: Digest,
    /// The recipe of the run.
    pub recipe: Recipe,
    /// The other files of the folder, by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// What a file must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl Manifest {
    /// The manifest as it is stored.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        sealed::seal(self)
    }

    /// Reads the manifest of `folder` and holds every file against it. Blocks: it reads the whole checkpoint.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn verify(folder: &Path) -> Result<(Self, Digest), String> {
        let (manifest, digest) = Self::read(folder)?;
        verify_files(folder, &manifest.files)?;
        Ok((manifest, digest))
    }

    /// Reads the manifest of `folder`, but not the files it names; with the digest of its own file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(folder: &Path) -> Result<(Self, Digest), String> {
        let bytes = read_text(&folder.join(MANIFEST_FILE)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("has no {MANIFEST_FILE}, so Medley did not write or finish it"),
            _ => format!("{MANIFEST_FILE}: {error}"),
        })?;
        let manifest = sealed::unseal(&bytes).map_err(|reason| format!("{MANIFEST_FILE} {reason}"))?;
        Ok((manifest, FileRecord::of_bytes(&bytes).sha256))
    }
}

impl FileRecord {
    /// The record of a file that holds `bytes`.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: Digest(Sha256::digest(bytes).into()) }
    }

    /// Reads a regular file, whole. Blocks.
    ///
    /// # Errors
    /// It is not there, not a regular file, or cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        const CHUNK_BYTES: usize = 128 << 10;
        let mut file = open_regular(path)?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                return Ok(Self { bytes, sha256: Digest(hash.finalize().into()) });
            }
            hash.update(&chunk[..count]);
            bytes += count as u64;
        }
    }
}

/// Holds every file of `folder` against its record.
///
/// # Errors
/// What is wrong with the first that is not as it was written.
pub(super) fn verify_files(folder: &Path, files: &BTreeMap<String, FileRecord>) -> Result<(), String> {
    for (name, record) in files {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(format!("{MANIFEST_FILE} names the file \"{name}\", which is no plain name"));
        }
        let path = folder.join(name);
        // A wrong size shows a cut file without reading gigabytes.
        let bytes = open_regular(&path).and_then(|file| file.metadata()).map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() != record.bytes {
            return Err(format!("{name} has {} bytes instead of {}", bytes.len(), record.bytes));
        }
        let found = FileRecord::of_file(&path).map_err(|error| format!("{name}: {error}"))?;
        if found != *record {
            return Err(format!("{name} has been changed: its digest is {}, not {}", found.sha256, record.sha256));
        }
    }
    Ok(())
}

/// Reads a text file of ours whole, up to a limit.
///
/// # Errors
/// It cannot be read, or is too large to be one of ours.
pub(super) fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(LARGEST_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_TEXT_BYTES {
        return Err(io::Error::other(format!("is larger than {LARGEST_TEXT_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Opens a file, but no link, device or folder: those could lead out of the folder, or block.
fn open_regular(path: &Path) -> io::Result<File> {
    if path.symlink_metadata()?.is_file() { File::open(path) } else { Err(io::Error::other("is not a regular file")) }
}

#[cfg(test)]
#[path = "manifest_test.rs"]
mod tests;
