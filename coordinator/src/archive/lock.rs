//! The lock that keeps a second coordinator out of an output folder.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::error::ArchiveError;

/// The lock's file. It stays when the lock is released, unless its whole folder goes.
pub(super) const LOCK_FILE: &str = ".medley.lock";

/// Held as long as the value lives; the operating system releases it when the process dies.
#[derive(Debug, Default)]
pub(super) struct FolderLock {
    /// `None` where the folder is only looked at.
    _file: Option<File>,
    /// Why the file system cannot lock, where it cannot.
    pub(super) unsupported: Option<String>,
    /// How often the folder was locked before.
    pub(super) times: u64,
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
        let times = times(&mut file);
        sign(&mut file, times + 1).map_err(unwritable)?;
        Ok(Self { _file: Some(file), unsupported, times })
    }

    /// Tells whether another process holds the lock of `folder`, and writes nothing.
    ///
    /// # Errors
    /// Another process holds it, or its file cannot be read.
    pub(super) fn look(folder: &Path) -> Result<Self, ArchiveError> {
        let mut file = match File::open(folder.join(LOCK_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ArchiveError::Unwritable { path: folder.to_owned(), error }),
        };
        // Shared and given back at once: a run that starts meanwhile must not be kept out by somebody who only looks.
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(ArchiveError::InUse { path: folder.to_owned(), holder: holder(&mut file) });
        }
        Ok(Self { times: times(&mut file), ..Self::default() })
    }
}

fn sign(file: &mut File, times: u64) -> io::Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {} on {}\ntimes {times}", std::process::id(), host.trim())
}

/// What the file says; nothing where it cannot be read.
fn text(file: &mut File) -> String {
    const LONGEST: u64 = 300;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_or_else(|_| String::new(), |_| text)
}

fn holder(file: &mut File) -> String {
    let text = text(file);
    text.lines().next().filter(|line| !line.is_empty()).map_or_else(|| "another process".to_owned(), ToOwned::to_owned)
}

fn times(file: &mut File) -> u64 {
    text(file).lines().find_map(|line| line.strip_prefix("times ")?.parse().ok()).unwrap_or(0)
}
