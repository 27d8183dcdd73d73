//! The lines of a ledger, read one after the other and held against the chain.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use medley_common::identity::Digest;
use serde::{Deserialize, Serialize};

use super::line;
use super::record::Record;
use crate::archive::error::ArchiveError;

/// The longest line that is read: the lengths of some ten million training rows.
const LONGEST_LINE_BYTES: u64 = 64 << 20;

/// The end of a ledger: what a certificate pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its records, which are its lines.
    pub records: u64,
    /// SHA-256 of the last line.
    pub digest: Digest,
}

/// A last line that never got whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The ledger.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// What there is of it.
    pub bytes: u64,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, bytes } = self;
        write!(f, "{}:{line}: a crash has cut the last record short; its {bytes} bytes are dropped", path.display())
    }
}

/// A ledger, open for reading.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// Where the last whole line ends, in bytes.
    position: u64,
    head: Head,
}

/// What comes next in a ledger.
#[derive(Debug)]
pub enum Next {
    /// A whole record that follows the one before.
    Record(Record),
    /// Nothing.
    End,
    /// A last line that a crash has cut or blotted.
    Torn(TornTail),
    /// A line that is no record, or does not follow: nothing after it can be trusted.
    Damaged(String),
}

impl Lines {
    /// Opens the ledger `path`. Blocks, as all of its reading does.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ArchiveError::NoLedger { path: path.to_owned() },
            _ => ArchiveError::io("open", path)(error),
        })?;
        let head = Head { records: 0, digest: Digest([0; 32]) };
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), position: 0, head })
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_line(&mut self) -> Result<Next, ArchiveError> {
        let mut text = Vec::new();
        let count = (&mut self.reader)
            .take(LONGEST_LINE_BYTES)
            .read_until(b'\n', &mut text)
            .map_err(ArchiveError::io("read", &self.path))?;
        if count == 0 {
            return Ok(Next::End);
        }
        let reason = match line::read(&text).and_then(|line| self.follow(line)) {
            Ok(record) => {
                self.position += count as u64;
                self.head = Head { records: self.head.records + 1, digest: line::digest(&text) };
                return Ok(Next::Record(record));
            }
            Err(reason) => reason,
        };
        let is_last = self.reader.fill_buf().map_err(ArchiveError::io("read", &self.path))?.is_empty();
        let torn = TornTail { path: self.path.clone(), line: self.line(), bytes: count as u64 };
        Ok(if is_last && !line::is_sealed(&text) { Next::Torn(torn) } else { Next::Damaged(reason) })
    }

    /// The number of the line that comes next or was damaged, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.head.records + 1
    }

    /// Where the last whole line ends, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The last whole line.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The error of a line that is damaged, or out of turn.
    #[must_use]
    pub fn damage(&self, line: u64, reason: String) -> ArchiveError {
        ArchiveError::Ledger { path: self.path.clone(), line, reason }
    }

    fn follow(&self, line: line::Line) -> Result<Record, String> {
        let expected = match &line.record {
            Record::Run(identity) if self.head.records == 0 => identity.digest(),
            _ if self.head.records == 0 => return Err("is not the record of a run, which comes first".to_owned()),
            _ => self.head.digest,
        };
        if line.previous == expected {
            return Ok(line.record);
        }
        Err("does not follow the line before: a line was put in, taken out or moved".to_owned())
    }
}
