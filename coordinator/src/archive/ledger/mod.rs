//! The ledger: the run's durable log. All that training came to can be rebuilt from it, and proved by it.
//!
//! One JSON record a line ([`Record`]), chained and sealed by digests (see `line.rs`). It only ever grows: where
//! training goes back, a `rewind` record says so, and what it undoes stays readable.
//!
//! # What a crash may cost
//!
//! Each record is one `write(2)`, in order, before anything that follows from it. The death of the process loses
//! nothing that was recorded. The ledger is synced before a checkpoint is committed, and at the end; so a power failure
//! or a crash of the kernel may cost the records since the newest checkpoint. That is safe: the checkpoint never
//! stands for updates that the ledger has forgotten, and the updates after it are made again from it, to the same bits.
//! A last line that was cut or blotted is dropped; a damaged line before others is an error, never skipped.

mod event;
mod history;
mod line;
mod lines;
mod record;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use medley_common::identity::Update;

use super::durable;
use super::error::ArchiveError;

pub use event::{Change, Event, What};
pub use history::{History, Host, PastUpdate};
pub use lines::{Head, Lines, Next, TornTail};
pub use record::{CheckpointRecord, Evaluated, FinalRecord, Logged, Record, RewindRecord, RunIdentity};

/// The ledger's name in the output folder.
pub const LEDGER_FILE: &str = "ledger.jsonl";

/// The ledger of a run that trains, open for appending.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Where the last whole line ends.
    bytes: u64,
    /// Whether a part of a line follows.
    torn: bool,
    /// Whether a sync has failed: what it lost, nobody knows.
    doubtful: bool,
    head: Head,
    history: History,
}

/// A ledger as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// All that is in effect after its last whole record.
    pub history: History,
    /// Its last whole record.
    pub head: Head,
    /// The last line, where it never got whole.
    pub dropped: Option<TornTail>,
    /// Where the last whole record ends.
    bytes: u64,
}

impl Ledger {
    /// Starts a ledger in `folder` with the record of its run, in the place of one that lies there. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(folder: &Path, identity: RunIdentity) -> Result<Self, ArchiveError> {
        let path = folder.join(LEDGER_FILE);
        let first = line::write(identity.digest(), &Record::Run(Box::new(identity.clone())))
            .map_err(ArchiveError::io("write", &path))?;
        let head = Head { records: 1, digest: line::digest(&first) };
        let bytes = first.len() as u64;
        durable::replace(&path, first)?;
        Self::open(path, Recovered { history: History::new(identity), head, dropped: None, bytes })
    }

    /// Reads the ledger `path` to its last whole record: what a coordinator that was killed comes back with. Changes
    /// nothing. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or a line before the last is damaged or out of turn: named, with the way out.
    pub fn recover(path: &Path) -> Result<Recovered, ArchiveError> {
        let mut lines = Lines::open(path)?;
        let mut history: Option<History> = None;
        let mut dropped = None;
        loop {
            let line = lines.line();
            match lines.next_line()? {
                Next::Record(Record::Run(identity)) if history.is_none() => history = Some(History::new(*identity)),
                Next::Record(record) => match history.as_mut().map(|history| history.take(record)) {
                    Some(Ok(())) => {}
                    Some(Err(reason)) => return Err(lines.damage(line, reason)),
                    None => return Err(lines.damage(line, "is not the record of a run".to_owned())),
                },
                Next::End => break,
                Next::Torn(torn) => {
                    dropped = Some(torn);
                    break;
                }
                Next::Damaged(reason) => return Err(lines.damage(line, reason)),
            }
        }
        let history = history.ok_or_else(|| lines.damage(1, "is missing: there is no record of a run".to_owned()))?;
        Ok(Recovered { history, head: lines.head(), dropped, bytes: lines.position() })
    }

    /// Goes on in `folder` after the last record of what was recovered there; a torn last line is cut off. Blocks.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn reopen(folder: &Path, recovered: Recovered) -> Result<Self, ArchiveError> {
        Self::open(folder.join(LEDGER_FILE), recovered)
    }

    /// Goes on in `folder` with a copy of what was recovered from the ledger `source` of another folder. Blocks.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn adopt(folder: &Path, source: &Path, recovered: Recovered) -> Result<Self, ArchiveError> {
        let mut bytes = std::fs::read(source).map_err(ArchiveError::io("read", source))?;
        bytes.truncate(usize::try_from(recovered.bytes).unwrap_or(usize::MAX));
        let path = folder.join(LEDGER_FILE);
        durable::replace(&path, bytes)?;
        Self::open(path, recovered)
    }

    /// Appends a record by one `write(2)`. Blocks, but does not wait for the disk.
    ///
    /// # Errors
    /// The record is out of turn, or it cannot be written; then no part of it stays, and it can be appended again.
    pub fn append(&mut self, record: Record) -> Result<(), ArchiveError> {
        self.history.turn(&record).map_err(|reason| ArchiveError::OutOfTurn { path: self.path.clone(), reason })?;
        let line = line::write(self.head.digest, &record).map_err(ArchiveError::io("write", &self.path))?;
        if self.torn {
            durable::attempt(|| self.file.set_len(self.bytes)).map_err(ArchiveError::io("cut", &self.path))?;
            self.torn = false;
        }
        if let Err(error) = durable::attempt(|| self.file.write_all(&line)) {
            // What a full disk took of the line must go, now or before the next one is written.
            self.torn = durable::attempt(|| self.file.set_len(self.bytes)).is_err();
            return Err(ArchiveError::io("write", &self.path)(error));
        }
        self.bytes += line.len() as u64;
        self.head = Head { records: self.head.records + 1, digest: line::digest(&line) };
        // In turn, as was asked above.
        self.history.take(record).map_err(|reason| ArchiveError::OutOfTurn { path: self.path.clone(), reason })
    }

    /// Waits until all records are on the disk. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<(), ArchiveError> {
        if self.doubtful {
            // The kernel forgets what it could not write (Rebello et al., 2020, Can applications recover from fsync
            // failures?), so all is written anew.
            durable::rewrite(&self.path)?;
            self.file = append_to(&self.path)?;
            self.doubtful = false;
        }
        let synced = durable::attempt(|| self.file.sync_data()).map_err(ArchiveError::io("sync", &self.path));
        self.doubtful = synced.is_err();
        synced
    }

    /// What it tells.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The last update in effect.
    #[must_use]
    pub fn last(&self) -> Update {
        self.history.last()
    }

    /// The last record.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(path: PathBuf, recovered: Recovered) -> Result<Self, ArchiveError> {
        let Recovered { history, head, dropped, bytes } = recovered;
        let file = append_to(&path)?;
        if dropped.is_some() {
            durable::attempt(|| file.set_len(bytes)).map_err(ArchiveError::io("cut", &path))?;
        }
        Ok(Self { path, file, bytes, torn: false, doubtful: false, head, history })
    }
}

fn append_to(path: &Path) -> Result<File, ArchiveError> {
    File::options().append(true).open(path).map_err(ArchiveError::io("open", path))
}

#[cfg(test)]
mod garbage_test;

#[cfg(test)]
#[path = "ledger_test.rs"]
mod tests;
