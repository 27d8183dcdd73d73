//! Why a file's rows cannot be used: file, line, column and label are named, never a sentence.

use std::io;
use std::path::{Path, PathBuf};

use super::format::RECORD_LIMIT_BYTES;
use super::labels::LabelError;

/// The most characters of a foreign label, or of a column's name, that an error shows.
const SHOWN_CHARACTERS: usize = 40;

/// The most columns that an error lists.
const SHOWN_COLUMNS: usize = 20;

/// How rows come out of a file that is one JSON array.
const IN_ONE: &str = " a line, which jq -c '.[]' makes of an array";

/// Why a file's rows cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is no such file.
    #[error("{} does not exist; expected a file of rows: JSON lines, or .csv or .tsv", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is a folder.
    #[error("{} is a folder; expected a file of rows: JSON lines, or .csv or .tsv", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// It is a file of another kind.
    #[error("{} is {kind}; {way_out}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What its ending says that it is.
        kind: &'static str,
        /// What to do.
        way_out: &'static str,
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
    #[error("{}", empty(path, column, *no_consensus))]
    Empty {
        /// The file.
        path: PathBuf,
        /// The column of the label.
        column: String,
        /// Records left out.
        no_consensus: u64,
    },
    /// It holds more rows than can be numbered.
    #[error("{} holds more than {} rows", path.display(), u32::MAX)]
    TooManyRows {
        /// The file.
        path: PathBuf,
    },
    /// Its labels make no label set.
    #[error("the labels of {}, in {column}, cannot be used: {problem}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// The column of the label.
        column: String,
        /// What is wrong with them.
        problem: LabelError,
    },
    /// There are nearly as many labels as rows.
    #[error(
        "{} has {labels} labels or more in {rows} rows, which can be no classes; is {column} the column of the labels? \
         Give --label_column_name, or list them with --labels",
        path.display()
    )]
    NoClasses {
        /// The file.
        path: PathBuf,
        /// The column of the label.
        column: String,
        /// Labels that differ.
        labels: usize,
        /// Rows.
        rows: usize,
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
    /// It is longer than [`RECORD_LIMIT_BYTES`].
    #[error("the line has more than {RECORD_LIMIT_BYTES} bytes")]
    TooLong,
    /// It is not text.
    #[error("byte {byte} is not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The first wrong byte, from 1.
        byte: usize,
    },
    /// A field is not text.
    #[error("field {field} is not UTF-8; save the file as UTF-8")]
    FieldNotUtf8 {
        /// The field, from 1.
        field: usize,
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
    #[error("the line is {found}; expected an object{}", if found.ends_with("an array") { IN_ONE } else { "" })]
    NotObject {
        /// The kind of value.
        found: &'static str,
    },
    /// A field is not there.
    #[error("{field} is missing; the line has {present}: give {flag}")]
    Missing {
        /// The field.
        field: String,
        /// Those that are there, as `plain_names` tells them.
        present: String,
        /// The flag that names another.
        flag: &'static str,
    },
    /// The first line does not name a column.
    #[error("there is no column {column}; the first line names {present}: give {flag}")]
    NoColumn {
        /// The column.
        column: String,
        /// Those that it names, as `plain_names` tells them.
        present: String,
        /// The flag that names another.
        flag: &'static str,
    },
    /// The first line names a column twice.
    #[error("the first line names the column {column} twice; rename one of them")]
    TwoColumns {
        /// The column.
        column: String,
    },
    /// A record has not a field for each column.
    #[error("{found} fields, but the first line names {expected} columns; {way_out}")]
    Ragged {
        /// Its fields.
        found: usize,
        /// The columns.
        expected: usize,
        /// What may be meant.
        way_out: &'static str,
    },
    /// A quoted field goes on after its closing quote.
    #[error(
        "field {field} goes on after its closing quote; double a quote that belongs to the text, or give --quoting none"
    )]
    AfterQuote {
        /// The field, from 1.
        field: usize,
    },
    /// A quoted field has no end.
    #[error(
        "the quote that field {field} begins with is not closed; double a quote that belongs to the text, or give \
         --quoting none"
    )]
    Unclosed {
        /// The field, from 1.
        field: usize,
    },
    /// A field holds another kind of value.
    #[error("{field} is {found}; expected {expected}")]
    Kind {
        /// The field.
        field: String,
        /// The kind of value.
        found: &'static str,
        /// What it may hold.
        expected: &'static str,
    },
    /// A label is needed and not there.
    #[error("{field} is missing; expected {expected}")]
    Unlabelled {
        /// The column of the label.
        field: String,
        /// The labels of the run.
        expected: String,
    },
    /// A label is none of the run's.
    #[error("{field} is \"{found}\"; expected {expected}")]
    UnknownLabel {
        /// The column of the label.
        field: String,
        /// The label, cut and escaped.
        found: String,
        /// The labels of the run.
        expected: String,
    },
}

fn empty(path: &Path, column: &str, no_consensus: u64) -> String {
    match no_consensus {
        0 => format!("{} holds no row", path.display()),
        lines => format!("{} holds no row ({lines} lines with {column} \"-\" left out)", path.display()),
    }
}

/// A foreign word, cut and escaped.
pub(super) fn shown(word: &str) -> String {
    let mut text: String = word.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    if word.chars().nth(SHOWN_CHARACTERS).is_some() {
        text.push('…');
    }
    text
}

/// The columns that are there. What has a space in it may be a sentence of a file without names, and is only counted.
pub(super) fn plain_names(present: &[&str]) -> String {
    let is_name = |name: &&&str| !name.is_empty() && !name.contains(' ') && name.len() <= 80;
    let mut words: Vec<String> = present.iter().filter(is_name).take(SHOWN_COLUMNS).map(|name| shown(name)).collect();
    match present.len() - words.len() {
        0 => {}
        others if words.is_empty() => words.push(format!("{others} that are no plain names")),
        others => words.push(format!("{others} more")),
    }
    match words.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
