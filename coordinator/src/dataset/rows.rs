//! Sentence pairs from JSON lines, as MedNLI and SNLI publish them.
//!
//! A line is an object with `sentence1`, `sentence2`, `gold_label` and perhaps `pairID`; other fields are ignored. Lines are streamed:
//! no more than one is in memory as bytes. Errors name file, line, field and label, never a sentence.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::json_line::{Field, Line};
use super::labels::{LabelSet, NO_CONSENSUS};

/// The most bytes a line may have, its end included.
pub const LINE_LIMIT_BYTES: u64 = 16 << 20;

/// The most characters of a foreign label that an error shows.
const SHOWN_CHARACTERS: usize = 40;

/// Whether rows may lack a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Rows to train on or to measure with.
    Required,
    /// Rows to predict.
    Optional,
}

/// One sentence pair. Its `Debug` output leaves the sentences out.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The line it stands in, from 1.
    pub line: u64,
    /// The premise.
    pub sentence1: String,
    /// The hypothesis.
    pub sentence2: String,
    /// The class of its label.
    pub label: Option<u32>,
    /// Its `pairID`, where that is a string.
    pub pair_id: Option<String>,
}

/// The rows of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pairs {
    /// The rows, in file order.
    pub rows: Vec<Pair>,
    /// Rows among them without a label.
    pub unlabelled: u64,
    /// Lines left out because their label is [`NO_CONSENSUS`].
    pub no_consensus: u64,
    /// Rows with an empty sentence.
    pub empty_sentences: u64,
}

/// Why a file's rows cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is no such file.
    #[error("{} does not exist; expected a file of JSON lines", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is a folder.
    #[error("{} is a folder; expected a file of JSON lines", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds no row.
    #[error("{}", empty(path, *no_consensus))]
    Empty {
        /// The file.
        path: PathBuf,
        /// Lines left out.
        no_consensus: u64,
    },
    /// It holds more rows than can be numbered.
    #[error("{} holds more than {} rows", path.display(), u32::MAX)]
    TooManyRows {
        /// The file.
        path: PathBuf,
    },
    /// A line is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: LineProblem,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// It is longer than [`LINE_LIMIT_BYTES`].
    #[error("the line has more than {LINE_LIMIT_BYTES} bytes")]
    TooLong,
    /// It is not text.
    #[error("byte {byte} is not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The first wrong byte, from 1.
        byte: usize,
    },
    /// It is not JSON.
    #[error("not JSON: {reason} at column {column}")]
    NotJson {
        /// What is wrong.
        reason: String,
        /// Where, in bytes from 1.
        column: usize,
    },
    /// It is another JSON value.
    #[error("the line is {found}; expected an object")]
    NotObject {
        /// The kind of value.
        found: &'static str,
    },
    /// A sentence is not there.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field holds another kind of value.
    #[error("{field} is {found}; expected a string")]
    NotString {
        /// The field.
        field: &'static str,
        /// The kind of value.
        found: &'static str,
    },
    /// A label is needed and not there.
    #[error("gold_label is missing; expected {expected}")]
    Unlabelled {
        /// The labels of the run.
        expected: String,
    },
    /// A label is none of the run's.
    #[error("gold_label is \"{found}\"; expected {expected}")]
    UnknownLabel {
        /// The label, cut and escaped.
        found: String,
        /// The labels of the run.
        expected: String,
    },
}

/// Reads all rows of `path`. Blocks; reads the file once, so that pipes work too.
///
/// # Errors
/// The file cannot be read or has no rows, or a line is not a row of this task.
pub fn read_pairs(path: &Path, labels: &LabelSet, need: Labels) -> Result<Pairs, DataError> {
    let mut stream = PairStream::open(path, labels, need)?;
    let mut pairs = Pairs::default();
    while let Some(pair) = stream.next_pair()? {
        pairs.push(pair);
    }
    pairs.no_consensus = stream.no_consensus;
    match pairs.rows.len() {
        0 => Err(DataError::Empty { path: path.into(), no_consensus: pairs.no_consensus }),
        rows if u32::try_from(rows).is_err() => Err(DataError::TooManyRows { path: path.into() }),
        _ => Ok(pairs),
    }
}

/// Rows one after the other, each as soon as its line is there.
pub struct PairStream {
    path: PathBuf,
    labels: LabelSet,
    need: Labels,
    lines: Lines,
    no_consensus: u64,
}

impl PairStream {
    /// The rows of a file. Blocks.
    ///
    /// # Errors
    /// There is no such file, or none that can be read.
    pub fn open(path: &Path, labels: &LabelSet, need: Labels) -> Result<Self, DataError> {
        if path.is_dir() {
            return Err(DataError::Folder { path: path.into() });
        }
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DataError::Missing { path: path.into() },
            _ => DataError::Read { path: path.into(), source },
        })?;
        Ok(Self::new(file, path, labels, need))
    }

    /// The rows of a text, which errors call `path`.
    #[must_use]
    pub fn new(text: impl Read + Send + 'static, path: &Path, labels: &LabelSet, need: Labels) -> Self {
        let reader = BufReader::with_capacity(1 << 18, Box::new(text) as Box<dyn Read + Send>);
        let lines = Lines { reader, buffer: Vec::new(), number: 0 };
        Self { path: path.into(), labels: labels.clone(), need, lines, no_consensus: 0 }
    }

    /// The next row; `None` at the end. Blocks until its line is there.
    ///
    /// # Errors
    /// The text cannot be read, or the line is not a row of this task.
    pub fn next_pair(&mut self) -> Result<Option<Pair>, DataError> {
        let (path, labels, need) = (&self.path, &self.labels, self.need);
        loop {
            let text = match self.lines.next() {
                Ok(Some(text)) => text,
                Ok(None) => return Ok(None),
                Err(LineFailure::Io(source)) => return Err(DataError::Read { path: path.clone(), source }),
                Err(LineFailure::Problem(problem)) => return Err(at(path, self.lines.number, problem)),
            };
            match parse_row(text, labels, need) {
                Ok(Some(row)) => return Ok(Some(Pair { line: self.lines.number, ..row })),
                Ok(None) => {}
                Err(Skip::NoConsensus) => self.no_consensus += 1,
                Err(Skip::Problem(problem)) => return Err(at(path, self.lines.number, problem)),
            }
        }
    }

    /// Lines left out so far because their label is [`NO_CONSENSUS`].
    #[must_use]
    pub fn no_consensus(&self) -> u64 {
        self.no_consensus
    }
}

impl Pairs {
    fn push(&mut self, pair: Pair) {
        self.unlabelled += u64::from(pair.label.is_none());
        self.empty_sentences += u64::from(pair.sentence1.is_empty() || pair.sentence2.is_empty());
        self.rows.push(pair);
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("line", &self.line).field("label", &self.label).finish_non_exhaustive()
    }
}

impl fmt::Debug for PairStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairStream").field("path", &self.path).field("line", &self.lines.number).finish_non_exhaustive()
    }
}

fn at(path: &Path, line: u64, problem: LineProblem) -> DataError {
    DataError::Line { path: path.into(), line, problem }
}

/// The lines of a text, one at a time in one buffer.
struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    buffer: Vec<u8>,
    number: u64,
}

enum LineFailure {
    Io(io::Error),
    Problem(LineProblem),
}

impl Lines {
    fn next(&mut self) -> Result<Option<&str>, LineFailure> {
        self.buffer.clear();
        self.number += 1;
        let mut bounded = (&mut self.reader).take(LINE_LIMIT_BYTES + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer).map_err(LineFailure::Io)?;
        if read as u64 > LINE_LIMIT_BYTES {
            return Err(LineFailure::Problem(LineProblem::TooLong));
        }
        if read == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&self.buffer)
            .map_err(|error| LineFailure::Problem(LineProblem::NotUtf8 { byte: error.valid_up_to() + 1 }))?;
        let text = text.trim_end_matches(['\n', '\r']);
        Ok(Some(if self.number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text }))
    }
}

/// Why a line gives no row.
enum Skip {
    NoConsensus,
    Problem(LineProblem),
}

impl From<LineProblem> for Skip {
    fn from(problem: LineProblem) -> Self {
        Self::Problem(problem)
    }
}

/// The row in `text`, its line not yet set; `None` for a blank line.
fn parse_row(text: &str, labels: &LabelSet, need: Labels) -> Result<Option<Pair>, Skip> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let row = match serde_json::from_str(text).map_err(|error| not_json(&error))? {
        Line::Object(row) => row,
        Line::Other(found) => return Err(LineProblem::NotObject { found }.into()),
    };
    let sentence1 = required("sentence1", row.sentence1)?;
    let sentence2 = required("sentence2", row.sentence2)?;
    let label = match row.gold_label {
        None | Some(Field::Other("null")) => None,
        Some(Field::Other(found)) => return Err(LineProblem::NotString { field: "gold_label", found }.into()),
        Some(Field::Text(name)) if name.is_empty() => None,
        Some(Field::Text(name)) if name == NO_CONSENSUS => return Err(Skip::NoConsensus),
        Some(Field::Text(name)) => Some(
            labels
                .index(&name)
                .ok_or_else(|| LineProblem::UnknownLabel { found: shown(&name), expected: labels.listing() })?,
        ),
    };
    if label.is_none() && need == Labels::Required {
        return Err(LineProblem::Unlabelled { expected: labels.listing() }.into());
    }
    let pair_id = match row.pair_id {
        Some(Field::Text(id)) => Some(id),
        Some(Field::Other(_)) | None => None,
    };
    Ok(Some(Pair { line: 0, sentence1, sentence2, label, pair_id }))
}

fn required(field: &'static str, value: Option<Field>) -> Result<String, LineProblem> {
    match value {
        Some(Field::Text(text)) => Ok(text),
        Some(Field::Other(found)) => Err(LineProblem::NotString { field, found }),
        None => Err(LineProblem::Missing { field }),
    }
}

/// Keeps the parser's reason, which never quotes its input, without its own idea of the line.
fn not_json(error: &serde_json::Error) -> LineProblem {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    LineProblem::NotJson { reason: reason.to_owned(), column: error.column() }
}

fn empty(path: &Path, no_consensus: u64) -> String {
    match no_consensus {
        0 => format!("{} holds no row", path.display()),
        lines => format!("{} holds no row ({lines} lines with gold_label \"-\" left out)", path.display()),
    }
}

fn shown(label: &str) -> String {
    let mut text: String = label.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    if label.chars().nth(SHOWN_CHARACTERS).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
#[path = "rows_test.rs"]
mod tests;
