//! The output folder: opened, locked and known to be writable before anything else happens.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::card_file::CARD_FILE;
use super::certificate::CERTIFICATE_FILE;
use super::checkpoint::Checkpoint;
use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::ledger::LEDGER_FILE;
use super::lock::{FolderLock, LOCK_FILE};
use super::manifest::MANIFEST_FILE;
use super::predictions::{PREDICTIONS_LINES, PREDICTIONS_TABLE};
use super::profile_file::PROFILE_FILE;
use super::report_file::REPORT_FILE;
use super::results::ALL_RESULTS_FILE;
use super::space::{Space, SpaceNeed};
use super::staging::WEIGHTS_FILE;
use super::trace_file::TRACE_FILE;
use super::trainer_state::TRAINER_STATE_FILE;

/// The files of a model beside its weights that checkpoints and the final model hold.
pub const MODEL_FILES: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    CARD_FILE,
];

/// What a run leaves in its output folder beside the final model.
pub(super) const RESULT_FILES: [&str; 7] = [
    "train_results.json",
    "eval_results.json",
    "predict_results.json",
    ALL_RESULTS_FILE,
    TRAINER_STATE_FILE,
    PREDICTIONS_TABLE,
    PREDICTIONS_LINES,
];

/// What a run leaves there beside its results, where it is asked for: it says how the run went, not what came of it, so no
/// certificate has it.
pub(super) const PROFILE_FILES: [&str; 2] = [PROFILE_FILE, TRACE_FILE];

/// The folder that trackers write to where they are told nothing else. Nothing in it is ever replaced: each run has a folder
/// of its own there.
pub const TRACKERS_FOLDER: &str = "runs";

/// A folder that this process alone writes to, as long as the value lives.
///
/// One that was made for it goes with it where nothing was written: a run that is refused leaves nothing behind.
#[derive(Debug)]
pub struct OutputDir {
    path: PathBuf,
    lock: FolderLock,
    /// A folder in it that somebody else writes to for this run.
    beside: Option<String>,
    /// Whether the folder was made for this value.
    is_new: bool,
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        if self.is_new && self.names().is_ok_and(|names| names == [LOCK_FILE]) {
            // What cannot be removed stays; it is empty but for the lock.
            fs::remove_file(self.path.join(LOCK_FILE)).and_then(|()| fs::remove_dir(&self.path)).ok();
        }
    }
}

impl OutputDir {
    /// Opens `path` and locks it; makes the folder where there is none. Blocks.
    ///
    /// # Errors
    /// It is no folder, cannot be written to, or another process works in it.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let unwritable = |error| ArchiveError::Unwritable { path: path.to_owned(), error };
        let is_new = !path.exists();
        match path.metadata() {
            Ok(metadata) if !metadata.is_dir() => return Err(ArchiveError::NotAFolder { path: path.to_owned() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(unwritable)?;
                match Operation::Sync(durable::parent(path)).perform() {
                    // The folder above may be closed to us; only a power cut could then lose the new name.
                    Err(ArchiveError::Io { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {}
                    synced => synced?,
                }
            }
            Err(error) => return Err(unwritable(error)),
        }
        let output = Self { path: path.to_owned(), lock: FolderLock::take(path)?, beside: None, is_new };
        // An old lock file says nothing of the folder itself: make a file and remove it.
        let probe = path.join(PROBE_FILE);
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(unwritable)?;
        Ok(output)
    }

    /// Looks at `path` as [`Self::open`] would find it, and changes nothing: what such a value says may be out of date at
    /// once, and nothing may be written through it. Where there is no folder it is as an empty one. Blocks.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn look(path: &Path) -> Result<Self, ArchiveError> {
        let unwritable = |error| ArchiveError::Unwritable { path: path.to_owned(), error };
        let lock = match path.metadata() {
            Ok(metadata) if !metadata.is_dir() => return Err(ArchiveError::NotAFolder { path: path.to_owned() }),
            Ok(_) => FolderLock::look(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => FolderLock::default(),
            Err(error) => return Err(unwritable(error)),
        };
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(standing(path), access).map_err(|error| unwritable(error.into()))?;
        Ok(Self { path: path.to_owned(), lock, is_new: false, beside: None })
    }

    /// The same where trackers of the run write to `folder`: as far as it lies in this one, it says nothing of whose that is.
    #[must_use]
    pub fn beside(mut self, folder: &Path) -> Self {
        let inside = folder.strip_prefix(&self.path).ok().and_then(|inside| inside.iter().next());
        self.beside = inside.map(|first| first.to_string_lossy().into_owned());
        self
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often the folder was opened before, by whichever run.
    #[must_use]
    pub fn times_opened(&self) -> u64 {
        self.lock.times
    }

    /// What the user should hear of the folder although the run can go on.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.lock.unsupported.as_deref()
    }

    /// Checks that the disk has room for what a run will write; `resumed` is where it goes on. Blocks.
    ///
    /// # Errors
    /// It has not, or it cannot be asked.
    pub fn preflight(&self, need: &SpaceNeed, resumed: Option<&Checkpoint>) -> Result<(), ArchiveError> {
        let space = self.space(need, resumed)?;
        if space.is_enough() {
            return Ok(());
        }
        let Space { need_bytes, free_bytes, plan } = space;
        Err(ArchiveError::Space { path: self.path.clone(), need_bytes, free_bytes, plan })
    }

    /// What a run will write beside what the disk has room for; `resumed` is where it goes on. Blocks.
    ///
    /// Checkpoints of ours that lie there count as room: they are kept within the limit, or go.
    ///
    /// # Errors
    /// The disk cannot be asked.
    pub fn space(&self, need: &SpaceNeed, resumed: Option<&Checkpoint>) -> Result<Space, ArchiveError> {
        let statistics = rustix::fs::statvfs(standing(&self.path))
            .map_err(|error| ArchiveError::io("ask for the free space of", &self.path)(error.into()))?;
        let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
        let mut present = 0u64;
        let mut staying = 0;
        for (update, folder) in self.own_checkpoints()? {
            present = present.saturating_add(folder_bytes(&folder).map_err(ArchiveError::io("read", &folder))?);
            staying += u64::from(resumed.is_some_and(|checkpoint| update <= checkpoint.update().0));
        }
        Ok(need.beside(free.saturating_add(present), staying))
    }

    /// What lies in the folder, sorted; not the lock, not leftovers of ours, not where trackers write, and not a file system's
    /// `lost+found`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn entries(&self) -> Result<Vec<String>, ArchiveError> {
        let mut names = self.names()?;
        names.retain(|name| {
            !IGNORED.contains(&name.as_str()) && self.beside.as_ref() != Some(name) && !is_leftover(name)
        });
        Ok(names)
    }

    /// The files here that a run replaces although no ledger and no record says that they are Medley's, by name. Files of
    /// the names of a profile count where one is `profiled`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn foreign_replaced(&self, profiled: bool) -> Result<Vec<String>, ArchiveError> {
        let mut names = self.entries()?;
        let is_ours = names.iter().any(|name| name == LEDGER_FILE || name == CERTIFICATE_FILE);
        // What is no page and no card of ours is kept in the place of one.
        let is_page = |name: &str| [REPORT_FILE, CARD_FILE].contains(&name);
        let is_kept = |name: &str| is_page(name) || !profiled && PROFILE_FILES.contains(&name);
        names.retain(|name| !is_ours && is_own_file(name) && !is_kept(name));
        Ok(names)
    }

    /// The half-written and half-removed things that a crash has left, all of them ours.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn leftovers(&self) -> Result<Vec<PathBuf>, ArchiveError> {
        let mut names = self.names()?;
        names.retain(|name| is_leftover(name));
        Ok(names.into_iter().map(|name| self.path.join(name)).collect())
    }

    /// The checkpoint folders that bear a manifest, damaged or not, by update.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn own_checkpoints(&self) -> Result<Vec<(u64, PathBuf)>, ArchiveError> {
        let mut own: Vec<(u64, PathBuf)> =
            checkpoint_folders(&self.path)?.into_iter().filter(|(_, folder)| is_own_checkpoint(folder)).collect();
        own.sort();
        Ok(own)
    }

    fn names(&self) -> Result<Vec<String>, ArchiveError> {
        let read = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let mut names = match read() {
            // As one that is looked at before there is a run.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(ArchiveError::io("read", &self.path))?,
        };
        names.sort();
        Ok(names)
    }
}

/// The folders of `folder` that are named `checkpoint-<update>`, in no order; links are none. None where there is no folder.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn checkpoint_folders(folder: &Path) -> Result<Vec<(u64, PathBuf)>, ArchiveError> {
    let read = || -> io::Result<Vec<(u64, PathBuf)>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("checkpoint-"));
            let update = number.and_then(|number| number.parse::<u64>().ok().filter(|n| n.to_string() == number));
            if let (Some(update), true) = (update, entry.file_type()?.is_dir()) {
                folders.push((update, entry.path()));
            }
        }
        Ok(folders)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        folders => folders.map_err(ArchiveError::io("read", folder)),
    }
}

/// The folders of a run that are named as checkpoints are, in the order of their updates.
///
/// # Errors
/// The folder cannot be read.
pub fn checkpoints_of(folder: &Path) -> Result<Vec<PathBuf>, ArchiveError> {
    let mut folders = checkpoint_folders(folder)?;
    folders.sort();
    Ok(folders.into_iter().map(|(_, path)| path).collect())
}

/// Whether Medley wrote this checkpoint folder: nothing else has such a manifest.
pub(super) fn is_own_checkpoint(folder: &Path) -> bool {
    folder.join(MANIFEST_FILE).symlink_metadata().is_ok()
}

/// Whether a run in `folder` may replace or remove `path`: a file of a name that Medley writes there, or one of a
/// checkpoint.
#[must_use]
pub fn may_replace(folder: &Path, path: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Where the file is, and where it is said to be: a link would be replaced as any file is.
    let said = durable::parent(path).canonicalize().map(|parent| parent.join(name(path)));
    let places = [path.canonicalize(), said];
    let Ok(folder) = folder.canonicalize() else { return false };
    places.into_iter().flatten().any(|place| {
        let Ok(inside) = place.strip_prefix(&folder) else { return false };
        let first = inside.iter().next().map(|first| first.to_string_lossy().into_owned()).unwrap_or_default();
        if inside.iter().count() == 1 { is_own_file(&first) } else { first.starts_with("checkpoint-") }
    })
}

/// The nearest folder above `path`, itself included, that is there.
fn standing(path: &Path) -> &Path {
    let found = path.ancestors().find(|ancestor| ancestor.exists());
    // A relative path begins where the process stands.
    found.unwrap_or(Path::new("."))
}

const PROBE_FILE: &str = ".medley.probe";

/// What says nothing of whose a folder is, and is in nobody's way.
const IGNORED: [&str; 4] = [LOCK_FILE, PROBE_FILE, "lost+found", TRACKERS_FOLDER];

/// Whether `name` is one of the names that things of ours bear only while they are written or removed.
fn is_leftover(name: &str) -> bool {
    let hidden = |suffix| name.strip_prefix('.').and_then(|name| name.strip_suffix(suffix));
    let (partial, removed) = (hidden(".partial"), hidden(".removed"));
    partial.is_some_and(|name| name.starts_with("checkpoint-") || is_own_file(name))
        || removed.is_some_and(|name| name.starts_with("checkpoint-"))
}

/// Whether a leftover is of a checkpoint: another one may be a trace that is being written while the run goes on.
pub(super) fn is_of_checkpoint(leftover: &Path) -> bool {
    leftover.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".checkpoint-"))
}

/// Whether a folder of this name in an output folder would be in the way of what a run writes there.
#[must_use]
pub fn is_in_the_way(name: &str) -> bool {
    is_own_file(name) || name.starts_with("checkpoint-") || name.starts_with('.')
}

/// Whether Medley writes a file of this name into an output folder.
pub(super) fn is_own_file(name: &str) -> bool {
    name == WEIGHTS_FILE
        || name == LEDGER_FILE
        || name == CERTIFICATE_FILE
        || RESULT_FILES.contains(&name)
        || PROFILE_FILES.contains(&name)
        || name == REPORT_FILE
        || MODEL_FILES.contains(&name)
}

fn folder_bytes(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0u64, |sum, entry| Ok(sum.saturating_add(entry?.metadata()?.len())))
}

#[cfg(test)]
#[path = "output_dir_test.rs"]
mod tests;
