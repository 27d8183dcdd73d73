//! The formats that rows are kept in, by a file's ending, and what all of them give: records with named fields.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use super::data_error::{DataError, LineProblem};
use super::delimited::Delimited;
use super::json_lines::JsonLines;
use super::layout::Quoting;

/// The most bytes a record may have, its end included.
pub const RECORD_LIMIT_BYTES: u64 = 16 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a file keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    JsonLines,
    /// Fields with commas between them, below a line with the columns' names.
    CommaSeparated,
    /// The same with tabs.
    TabSeparated,
}

impl Format {
    /// The format that a file's ending names; JSON lines where it names none.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("csv") => Self::CommaSeparated,
            Some("tsv") => Self::TabSeparated,
            _ => Self::JsonLines,
        }
    }
}

/// A column that rows are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column<'a> {
    pub name: &'a str,
    /// The flag that names another; `None` for a column that need not be there.
    pub flag: Option<&'static str>,
}

/// The value of a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Text(String),
    /// A whole number of a format that tells numbers from text, as text.
    Integer(String),
    /// Another value, by its kind.
    Other(&'static str),
}

/// A record: the fields of the columns that were asked for, in their order.
pub(super) struct Record {
    /// The line that it begins in, from 1.
    pub line: u64,
    pub fields: Vec<Option<Field>>,
}

/// Why there is no next record.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    Line(u64, LineProblem),
}

impl Failure {
    pub(super) fn of(self, path: &Path) -> DataError {
        match self {
            Self::Io(source) => DataError::Read { path: path.into(), source },
            Self::Line(line, problem) => DataError::Line { path: path.into(), line, problem },
        }
    }
}

/// The records of a file, one after another: no more than one is in memory.
pub(super) trait Records {
    /// The next record, in which every column with a flag has a field; `None` at the end. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or what comes next is no record.
    fn next(&mut self) -> Result<Option<Record>, Failure>;
}

/// Opens a file of the format that its ending names. Blocks.
///
/// # Errors
/// It cannot be read, or has not all `columns` that are needed.
pub(super) fn open<'a>(
    path: &Path,
    columns: Vec<Column<'a>>,
    quoting: Quoting,
) -> Result<Box<dyn Records + 'a>, DataError> {
    if path.is_dir() {
        return Err(DataError::Folder { path: path.into() });
    }
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing { path: path.into() },
        _ => DataError::Read { path: path.into(), source },
    })?;
    let reader = without_mark(file).map_err(|source| DataError::Read { path: path.into(), source })?;
    let delimiter = match Format::of(path) {
        Format::JsonLines => return Ok(Box::new(JsonLines::new(reader, columns))),
        Format::CommaSeparated => b',',
        Format::TabSeparated => b'\t',
    };
    let records = Delimited::open(reader, delimiter, quoting, &columns).map_err(|failure| failure.of(path))?;
    Ok(Box::new(records))
}

/// The file's bytes behind the mark that some programs begin UTF-8 with.
fn without_mark(file: File) -> io::Result<impl BufRead + 'static> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut first = Vec::new();
    reader.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut first)?;
    if first == BYTE_ORDER_MARK {
        first.clear();
    }
    Ok(Cursor::new(first).chain(reader))
}
