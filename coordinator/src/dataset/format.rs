//! The formats that rows are kept in, by a file's ending, and what all of them give: records with named fields.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
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

/// What a file of an ending that is none of rows is, and how rows come of it.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("arrow", "an Arrow table", TO_JSON),
    ("bz2", "compressed", "unpack it first, with bunzip2 -k"),
    ("feather", "an Arrow table", TO_JSON),
    ("gz", "compressed", "unpack it first, with gunzip -k"),
    ("parquet", "a Parquet table", TO_JSON),
    ("xls", "a spreadsheet", "save it as CSV"),
    ("xlsx", "a spreadsheet", "save it as CSV"),
    ("xz", "compressed", "unpack it first, with unxz -k"),
    ("zip", "an archive", "unpack it first"),
    ("zst", "compressed", "unpack it first, with unzstd"),
];

const TO_JSON: &str = "write it as JSON lines: pandas' to_json(..., orient=\"records\", lines=True)";

/// A column that rows are made of.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
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

/// The records of a text, one after another, each as soon as it is there: no more than one is in memory.
pub(super) trait Records: Send {
    /// The next record, in which every column with a flag has a field; `None` at the end. Blocks.
    ///
    /// # Errors
    /// The text cannot be read, or what comes next is no record.
    fn next(&mut self) -> Result<Option<Record>, Failure>;
}

/// Opens a file of the format that its ending names. Blocks.
///
/// # Errors
/// It cannot be read, or has not all `columns` that are needed.
pub(super) fn open(path: &Path, columns: Vec<Column>, quoting: Quoting) -> Result<Box<dyn Records>, DataError> {
    if path.is_dir() {
        return Err(DataError::Folder { path: path.into() });
    }
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing { path: path.into() },
        _ => DataError::Read { path: path.into(), source },
    })?;
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    if let Some((_, kind, way_out)) = FOREIGN.iter().find(|(foreign, ..)| *foreign == ending) {
        return Err(DataError::Foreign { path: path.into(), kind, way_out });
    }
    let delimiter = match Format::of(path) {
        Format::JsonLines => return Ok(json_lines(file, columns)),
        Format::CommaSeparated => b',',
        Format::TabSeparated => b'\t',
    };
    let records = Delimited::open(buffered(file), delimiter, quoting, &columns).map_err(|failure| failure.of(path))?;
    Ok(Box::new(records))
}

/// The records of JSON lines that come from anywhere. Reads nothing yet.
pub(super) fn json_lines(text: impl Read + Send + 'static, columns: Vec<Column>) -> Box<dyn Records> {
    Box::new(JsonLines::new(buffered(text), columns))
}

fn buffered<R: Read>(text: R) -> BufReader<Unmarked<R>> {
    BufReader::with_capacity(1 << 18, Unmarked { text, first: Cursor::default(), has_begun: false })
}

/// A text's bytes behind the mark that some programs begin UTF-8 with.
struct Unmarked<R> {
    text: R,
    /// The first bytes, where they are none.
    first: Cursor<Vec<u8>>,
    has_begun: bool,
}

impl<R: Read> Read for Unmarked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.has_begun, true) {
            let first = self.first.get_mut();
            (&mut self.text).take(BYTE_ORDER_MARK.len() as u64).read_to_end(first)?;
            if first == BYTE_ORDER_MARK {
                first.clear();
            }
        }
        match self.first.read(buffer)? {
            0 => self.text.read(buffer),
            count => Ok(count),
        }
    }
}
