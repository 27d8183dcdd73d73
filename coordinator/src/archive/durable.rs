//! Writes that survive a crash: every change of the output folder is a list of small operations.
//!
//! A list may stop after any of its operations (a crash) or in the middle of a write; what reads the folder must cope
//! with each of these states, and tests perform every prefix to see that it does.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::ArchiveError;

/// One change of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Creates or empties a file, fills it and waits until it is on the disk.
    Write {
        /// The file.
        path: PathBuf,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// Waits until a file or folder, as it is now, is on the disk.
    Sync(PathBuf),
    /// Gives a file or folder another name.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// Removes a file or a whole folder; not there is good as well.
    Remove(PathBuf),
}

impl Operation {
    /// Does it. Blocks until the disk has it.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(super) fn perform(&self) -> Result<(), ArchiveError> {
        match self {
            Self::Write { path, bytes } => write(path, bytes).map_err(ArchiveError::io("write", path)),
            Self::Sync(path) => attempt(|| sync(path)).map_err(ArchiveError::io("sync", path)),
            Self::Rename { from, to } => attempt(|| fs::rename(from, to)).map_err(ArchiveError::io("rename", from)),
            Self::Remove(path) => attempt(|| remove(path)).map_err(ArchiveError::io("remove", path)),
        }
    }
}

/// Makes one change of the file system: where tests put faults in, and nothing else.
pub(super) fn attempt<T>(change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    super::faults::strike()?;
    change()
}

/// Performs `operations` in order, up to the first that fails.
///
/// # Errors
/// The operating system refuses one.
pub(super) fn perform(operations: &[Operation]) -> Result<(), ArchiveError> {
    operations.iter().try_for_each(Operation::perform)
}

/// The operations that put `bytes` in the place of `path`: readers find the old content or the new, nothing between.
pub(super) fn replacement(path: &Path, bytes: Vec<u8>) -> [Operation; 3] {
    let partial = partial(path);
    [
        Operation::Write { path: partial.clone(), bytes },
        Operation::Rename { from: partial, to: path.to_owned() },
        Operation::Sync(parent(path)),
    ]
}

/// Puts `bytes` in the place of `path`, all or nothing.
///
/// # Errors
/// The operating system refuses.
pub(crate) fn replace(path: &Path, bytes: Vec<u8>) -> Result<(), ArchiveError> {
    perform(&replacement(path, bytes))
}

/// As [`replace`], by a file that only this user can read.
///
/// # Errors
/// The operating system refuses.
pub(super) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
    let partial = partial(path);
    // One that lies there from before may be open to all.
    remove(&partial).map_err(ArchiveError::io("remove", &partial))?;
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    attempt(write).map_err(ArchiveError::io("write", &partial))?;
    perform(&[Operation::Rename { from: partial, to: path.to_owned() }, Operation::Sync(parent(path))])
}

/// Writes a file that may be half on the disk anew, as the kernel has it.
///
/// # Errors
/// The operating system refuses.
pub(super) fn rewrite(path: &Path) -> Result<(), ArchiveError> {
    let partial = partial(path);
    attempt(|| fs::copy(path, &partial)).map_err(ArchiveError::io("copy", path))?;
    let rename = Operation::Rename { from: partial.clone(), to: path.to_owned() };
    perform(&[Operation::Sync(partial), rename, Operation::Sync(parent(path))])
}

/// The operations that remove a folder so that a half-removed one never bears its name.
pub(super) fn removal(folder: &Path) -> [Operation; 4] {
    let removed = parent(folder).join(hidden(folder, ".removed"));
    [
        Operation::Remove(removed.clone()),
        Operation::Rename { from: folder.to_owned(), to: removed.clone() },
        Operation::Sync(parent(folder)),
        Operation::Remove(removed),
    ]
}

/// The first free name `<path>.replaced-<n>`: where something that is not ours goes when its name is needed.
pub(super) fn aside(path: &Path) -> PathBuf {
    let name = |n: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".replaced-{n}"));
        PathBuf::from(name)
    };
    (1..).map(name).find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| name(0))
}

/// Where the new content of `path` is written before it takes the name.
pub(super) fn partial(path: &Path) -> PathBuf {
    parent(path).join(hidden(path, ".partial"))
}

/// The folder that `path` lies in.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn hidden(path: &Path, suffix: &str) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(suffix);
    name
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = attempt(|| File::create(path))?;
    attempt(|| file.write_all(bytes))?;
    attempt(|| file.sync_all())
}

fn sync(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network file systems cannot sync a folder; there is nothing more that could be done.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && path.is_dir() => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
