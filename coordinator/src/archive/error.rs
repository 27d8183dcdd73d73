//! What can go wrong between the coordinator and its output folder.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use medley_common::identity::{Digest, Update};
use medley_common::message::FailureKind;

use super::checkpoint::PassedOver;
use super::recipe::Difference;

/// Why the output folder cannot be used, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The operating system refused an operation.
    #[error("{action} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason. Part of the message, so it is not offered as a source a second time.
        error: io::Error,
    },
    /// `--output_dir` names something else than a folder.
    #[error("output_dir {} is not a folder; choose another --output_dir", .path.display())]
    NotAFolder {
        /// The path given.
        path: PathBuf,
    },
    /// The folder cannot be created or written to.
    #[error("output_dir {} cannot be written to: {error}; choose another --output_dir", .path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// Another coordinator works in the folder.
    #[error(
        "output_dir {} is in use by {holder}; wait for it, stop it, or choose another --output_dir", .path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process that holds the lock.
        holder: String,
    },
    /// The folder holds something, none of which can be resumed.
    #[error("{}", occupied(.path, .entries, .passed_over))]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What lies there, by name.
        entries: Vec<String>,
        /// The checkpoints that are no use, and why.
        passed_over: Vec<PassedOver>,
    },
    /// `--resume_from_checkpoint` lies elsewhere, but the folder holds another run.
    #[error(
        "output_dir {} holds another run than {}; choose another --output_dir, or give --overwrite_output_dir to \
         replace that run", .path.display(), .checkpoint.display()
    )]
    AnotherRun {
        /// The folder.
        path: PathBuf,
        /// The checkpoint to resume from.
        checkpoint: PathBuf,
    },
    /// The disk is too small for the run.
    #[error(
        "output_dir {}: the run needs {} ({plan}) and {} are free; free some space, lower --save_total_limit, or \
         choose another --output_dir", .path.display(), gigabytes(*.need_bytes), gigabytes(*.free_bytes)
    )]
    Space {
        /// The folder.
        path: PathBuf,
        /// What the run needs at its peak.
        need_bytes: u64,
        /// What it can have.
        free_bytes: u64,
        /// What the need consists of.
        plan: String,
    },
    /// A file that no checkpoint has.
    #[error("\"{name}\" is not a file of a checkpoint; expected one of {expected}")]
    UnknownFile {
        /// Its name.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// A staged file has another size than its sender declared.
    #[error("{name}: received {received_bytes} bytes of {declared_bytes} declared")]
    WrongSize {
        /// The file.
        name: &'static str,
        /// Bytes announced.
        declared_bytes: u64,
        /// Bytes received; where more came than declared, those up to the chunk that was too long.
        received_bytes: u64,
    },
    /// A piece of a staged file is not what its sender says.
    #[error("{name}: a piece came with sha256 {found}; the worker says {announced}")]
    Damaged {
        /// The file.
        name: &'static str,
        /// What came.
        found: Digest,
        /// What should have come.
        announced: Digest,
    },
    /// A checkpoint lacks a file.
    #[error("checkpoint of update {update} lacks {name}")]
    Incomplete {
        /// Its position.
        update: Update,
        /// The file.
        name: &'static str,
    },
    /// A piece of a staged file has no place in it, or another sender's attempt has taken the place.
    #[error("this piece of {name} has no place in the checkpoint of update {update} that is being saved")]
    Misplaced {
        /// The checkpoint.
        update: Update,
        /// The file.
        name: &'static str,
    },
    /// A checkpoint is damaged, or none of ours.
    #[error("checkpoint {}: {reason}", .path.display())]
    InvalidCheckpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with which file.
        reason: String,
    },
    /// The checkpoint is of a run with other settings or other data.
    #[error(
        "resume from {}: {}; use the same flags, or --overwrite_output_dir to start afresh", .path.display(),
        .differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    RecipeDiffers {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// There is no ledger.
    #[error(
        "{} does not exist; name the --output_dir of a run, or put back a copy of its ledger", .path.display()
    )]
    NoLedger {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A line of a ledger cannot be read.
    #[error(
        "{}:{line}: {reason}; put back a copy of the ledger, or move it away: the run then goes on from its newest \
         checkpoint, but what came before can no longer be proved", .path.display()
    )]
    Ledger {
        /// The ledger.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A record comes out of turn.
    #[error("ledger {}: a record {reason}", .path.display())]
    OutOfTurn {
        /// The ledger.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ArchiveError {
    /// Makes the `map_err` argument for an operation on `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { action, path: path.to_owned(), error }
    }

    /// Whether what failed may succeed later: the disk or the quota is full, or the disk is ill (EIO).
    #[must_use]
    pub fn may_pass(&self) -> bool {
        let passing = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        };
        match self {
            Self::Io { error, .. } | Self::Unwritable { error, .. } => passing(error),
            Self::Space { .. } => true,
            _ => false,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            // What it holds is a run, of which nothing can be read.
            Self::Occupied { passed_over, .. } if !passed_over.is_empty() => FailureKind::Data,
            Self::NotAFolder { .. }
            | Self::Unwritable { .. }
            | Self::InUse { .. }
            | Self::Occupied { .. }
            | Self::AnotherRun { .. }
            | Self::Space { .. }
            | Self::RecipeDiffers { .. } => FailureKind::Config,
            Self::InvalidCheckpoint { .. } | Self::NoLedger { .. } | Self::Ledger { .. } => FailureKind::Data,
            Self::Io { .. }
            | Self::UnknownFile { .. }
            | Self::WrongSize { .. }
            | Self::Damaged { .. }
            | Self::Incomplete { .. }
            | Self::Misplaced { .. }
            | Self::OutOfTurn { .. } => FailureKind::Internal,
        }
    }
}

/// Prints bytes as decimal gigabytes, or as megabytes below one.
pub(super) fn gigabytes(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}

fn occupied(path: &Path, entries: &[String], passed_over: &[PassedOver]) -> String {
    const SHOWN: usize = 5;
    let mut text = format!("output_dir {} is not empty (it holds ", path.display());
    text.push_str(&entries.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", "));
    if entries.len() > SHOWN {
        // Writing to a string cannot fail.
        write!(text, " and {} more", entries.len() - SHOWN).unwrap_or_default();
    }
    text.push_str(") and has no valid checkpoint to resume from");
    for passed in passed_over {
        write!(text, "; {passed}").unwrap_or_default();
    }
    text.push_str(
        "; give --overwrite_output_dir to start afresh in it (files of names that it does not write stay), or choose another \
         --output_dir",
    );
    text
}
