//! The ledger: one line an applied update, exactly the history that led to the present weights.
//!
//! A line that never got whole (a crash) is cut off; lines after the position that training goes back to are cut off
//! as well, by a rewrite that is all or nothing.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use medley_common::identity::{RowId, Update, WorkerId};
use serde::{Deserialize, Serialize};

use super::durable::{self, Operation};
use super::error::ArchiveError;
use super::ledger_lines::{Lines, Next};
use crate::run::report::UpdateRecord;

/// The ledger's name in the output folder.
pub const LEDGER_FILE: &str = "ledger.jsonl";

/// The ledger of a run that trains.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Where the last whole line ends.
    bytes: u64,
    /// Whether a part of a line follows.
    torn: bool,
    last: Update,
}

/// What became of a ledger when training went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerCut {
    /// Lines that stay: updates 1 to this one.
    pub kept: Update,
    /// The update that training goes on from; above `kept` where lines are missing or damaged.
    pub through: Update,
    /// Where a ledger with a damaged line was put.
    pub aside: Option<PathBuf>,
}

impl Ledger {
    /// Starts an empty ledger in `folder`, in the place of one that lies there. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(folder: &Path) -> Result<Self, ArchiveError> {
        let path = folder.join(LEDGER_FILE);
        durable::replace(&path, Vec::new())?;
        Self::append_to(path, 0, Update(0))
    }

    /// Goes on in `folder` after update `through`, with the lines up to it of the ledger `source`: the folder's own,
    /// or that of another folder whose checkpoint is resumed. Blocks.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn resume(folder: &Path, source: &Path, through: Update) -> Result<(Self, LedgerCut), ArchiveError> {
        let path = folder.join(LEDGER_FILE);
        let kept = Kept::find(source, through)?;
        let mut cut = LedgerCut { kept: kept.last, through, aside: None };
        if path != source || !kept.whole {
            if path == source && kept.damaged {
                let aside = durable::aside(&path);
                Operation::Write { path: aside.clone(), bytes: read(source)? }.perform()?;
                cut.aside = Some(aside);
            }
            durable::replace(&path, kept.bytes(source)?)?;
        }
        Ok((Self::append_to(path, kept.end, through)?, cut))
    }

    /// Appends the line of the update after the last one. Blocks, but does not wait for the disk.
    ///
    /// # Errors
    /// The update is another, or the line cannot be written; then no part of it stays.
    pub fn append(&mut self, record: &UpdateRecord) -> Result<(), ArchiveError> {
        if record.update != self.last.next() {
            return Err(ArchiveError::OutOfTurn { path: self.path.clone(), update: record.update, last: self.last });
        }
        let line = LedgerLine::text(record).map_err(ArchiveError::io("write", &self.path))?;
        if self.torn {
            self.file.set_len(self.bytes).map_err(ArchiveError::io("cut", &self.path))?;
            self.torn = false;
        }
        if let Err(error) = self.file.write_all(&line) {
            // What a full disk took of the line must go, now or before the next one is written.
            self.torn = self.file.set_len(self.bytes).is_err();
            return Err(ArchiveError::io("write", &self.path)(error));
        }
        self.bytes += line.len() as u64;
        self.last = record.update;
        Ok(())
    }

    /// Cuts off the lines after `through`, which training goes back to. Blocks.
    ///
    /// # Errors
    /// The file cannot be rewritten.
    pub fn cut_after(&mut self, through: Update) -> Result<LedgerCut, ArchiveError> {
        let (ledger, cut) = Self::resume(&durable::parent(&self.path), &self.path, through)?;
        *self = ledger;
        Ok(cut)
    }

    /// The last update recorded, or resumed from.
    #[must_use]
    pub fn last(&self) -> Update {
        self.last
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a ledger whole; a last line that never got whole is left out. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or a line is damaged or out of turn.
    pub fn read(path: &Path) -> Result<Vec<UpdateRecord>, ArchiveError> {
        let mut lines = Lines::open(path)?;
        let mut records = Vec::new();
        loop {
            match lines.next_line()? {
                Next::Line(record) => records.push(record),
                Next::End | Next::Torn => return Ok(records),
                Next::Damaged(reason) => {
                    return Err(ArchiveError::Ledger { path: path.to_owned(), line: lines.line(), reason });
                }
            }
        }
    }

    fn append_to(path: PathBuf, bytes: u64, last: Update) -> Result<Self, ArchiveError> {
        let file = File::options().append(true).open(&path).map_err(ArchiveError::io("open", &path))?;
        Ok(Self { path, file, bytes, torn: false, last })
    }
}

/// The part of a ledger that stays.
struct Kept {
    /// Its last update.
    last: Update,
    /// Where it ends, in bytes.
    end: u64,
    /// Whether it is all there is.
    whole: bool,
    /// Whether a line that should stay is damaged.
    damaged: bool,
}

impl Kept {
    fn find(source: &Path, through: Update) -> Result<Self, ArchiveError> {
        let none = Self { last: Update(0), end: 0, whole: false, damaged: false };
        if !source.try_exists().map_err(ArchiveError::io("read", source))? {
            return Ok(none);
        }
        let mut lines = Lines::open(source)?;
        let mut kept = none;
        while kept.last < through {
            match lines.next_line()? {
                Next::Line(record) => (kept.last, kept.end) = (record.update, lines.position()),
                Next::End | Next::Torn => break,
                Next::Damaged(_) => {
                    kept.damaged = true;
                    break;
                }
            }
        }
        let bytes = source.metadata().map_err(ArchiveError::io("read", source))?.len();
        Ok(Self { whole: kept.end == bytes, ..kept })
    }

    fn bytes(&self, source: &Path) -> Result<Vec<u8>, ArchiveError> {
        if self.end == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = read(source)?;
        bytes.truncate(usize::try_from(self.end).unwrap_or(usize::MAX));
        Ok(bytes)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ArchiveError> {
    fs::read(path).map_err(ArchiveError::io("read", path))
}

/// A line as it is stored. A number that JSON lacks (NaN) is `null`; the others read back to the same bits.
#[derive(Serialize, Deserialize)]
pub(super) struct LedgerLine {
    update: Update,
    epoch: Option<f64>,
    learning_rate: Option<f64>,
    loss: Option<f64>,
    grad_norm: Option<f64>,
    lanes: Vec<Vec<RowId>>,
    workers: Vec<WorkerId>,
    attempt: u32,
    tokens: u64,
}

impl LedgerLine {
    fn text(record: &UpdateRecord) -> io::Result<Vec<u8>> {
        let line = Self {
            update: record.update,
            epoch: Some(record.epoch),
            learning_rate: Some(record.learning_rate),
            loss: Some(record.loss),
            grad_norm: Some(record.grad_norm),
            lanes: record.lanes.clone(),
            workers: record.workers.clone(),
            attempt: record.attempt,
            tokens: record.tokens,
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok(text)
    }

    /// The record of a line.
    pub(super) fn record(self) -> UpdateRecord {
        let float = |value: Option<f64>| value.unwrap_or(f64::NAN);
        UpdateRecord {
            update: self.update,
            epoch: float(self.epoch),
            learning_rate: float(self.learning_rate),
            loss: float(self.loss),
            grad_norm: float(self.grad_norm),
            lanes: self.lanes,
            workers: self.workers,
            attempt: self.attempt,
            tokens: self.tokens,
        }
    }
}

#[cfg(test)]
#[path = "ledger_test.rs"]
mod tests;
