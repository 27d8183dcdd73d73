//! The lines of a ledger, read one after the other.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use medley_common::identity::Update;

use super::error::ArchiveError;
use super::ledger::LedgerLine;
use crate::run::report::UpdateRecord;

/// The longest line that is read: some five million rows an update.
const LONGEST_LINE_BYTES: u64 = 64 << 20;

/// A ledger, open for reading.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    position: u64,
    line: u64,
    last: Update,
}

/// What comes next in a ledger.
pub(super) enum Next {
    /// A whole line, of the update after the last one.
    Line(UpdateRecord),
    /// Nothing.
    End,
    /// A last line that a crash has cut or blotted.
    Torn,
    /// A line that is no record of the next update.
    Damaged(String),
}

impl Lines {
    /// Opens the ledger `path`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::io("open", path))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), position: 0, line: 0, last: Update(0) })
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next_line(&mut self) -> Result<Next, ArchiveError> {
        let mut text = Vec::new();
        let count = (&mut self.reader)
            .take(LONGEST_LINE_BYTES)
            .read_until(b'\n', &mut text)
            .map_err(ArchiveError::io("read", &self.path))?;
        if count == 0 {
            return Ok(Next::End);
        }
        self.line += 1;
        if text.last() != Some(&b'\n') {
            let too_long = text.len() as u64 == LONGEST_LINE_BYTES;
            return Ok(if too_long { Next::Damaged("is too long".to_owned()) } else { Next::Torn });
        }
        let error = match serde_json::from_slice::<LedgerLine>(&text).map(LedgerLine::record) {
            Ok(record) if record.update == self.last.next() => {
                self.last = record.update;
                self.position += count as u64;
                return Ok(Next::Line(record));
            }
            Ok(record) => {
                let reason = format!("is of update {} instead of {}", record.update, self.last.next());
                return Ok(Next::Damaged(reason));
            }
            Err(error) => error,
        };
        let more = self.reader.fill_buf().map_err(ArchiveError::io("read", &self.path))?;
        Ok(if more.is_empty() { Next::Torn } else { Next::Damaged(format!("is no record of an update: {error}")) })
    }

    /// Where the last whole line ends, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The number of the line read last, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }
}
