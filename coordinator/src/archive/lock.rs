//! The lock that keeps a second coordinator out of an output folder.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::error::ArchiveError;

/// The lock's file. It stays when the lock is released, unless its whole folder goes.
pub(super) const LOCK_FILE: &str = ".medley.lock";

/// Held as long as the value lives; the operating system releases it when the process dies.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
    /// Why the file system cannot lock, where it cannot.
    pub(super) unsupported: Option<String>,
}

impl FolderLock {
    /// Locks `folder`, which exists, without waiting.
    ///
    /// A file system without locks (Lustre mounted without `flock`) is used unlocked rather than refused.
    ///
    /// # Errors
    /// Another process holds the lock, has just removed the folder, or the folder cannot be written to.
    pub(super) fn take(folder: &Path) -> Result<Self, ArchiveError> {
        let unwritable = |error| ArchiveError::Unwritable { path: folder.to_owned(), error };
        let path = folder.join(LOCK_FILE);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(unwritable)?;
        let unsupported = match file.try_lock() {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => {
                return Err(ArchiveError::InUse { path: folder.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => {
                Some(format!("output_dir {} cannot be locked: {error}; start no second run in it", folder.display()))
            }
        };
        // A folder that goes while its lock is opened leaves a lock on a file that nobody else will see.
        let is_there = || Ok(file.metadata()?.ino() == path.metadata()?.ino());
        if !is_there().map_err(unwritable)? {
            return Err(unwritable(io::ErrorKind::NotFound.into()));
        }
        sign(&mut file).map_err(unwritable)?;
        Ok(Self { _file: file, unsupported })
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {} on {}", std::process::id(), host.trim())
}

fn holder(file: &mut File) -> String {
    const LONGEST: u64 = 300;
    let mut text = String::new();
    match file.take(LONGEST).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}
