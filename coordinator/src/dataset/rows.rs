//! Rows of a classification task from a file: one or two texts, a label, and what to join on.
//!
//! Records are streamed, whatever the format. Errors name file, line, column and label, never a sentence.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::data_error::{DataError, LineProblem, shown};
use super::format::{self, Column, Failure, Field, Record, Records};
use super::labels::{LabelSet, NO_CONSENSUS};
use super::layout::{RowLayout, TextColumns};

/// The column of what predictions are joined on.
const PAIR_ID: &str = "pairID";

/// So many labels may be found in however few rows.
const FEW_LABELS: usize = 20;

/// Whether rows may lack a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Rows to train on or to measure with.
    Required,
    /// Rows to predict.
    Optional,
}

/// What a row says. Its `Debug` output leaves that out.
#[derive(Clone, PartialEq, Eq)]
pub enum Text {
    /// One sentence.
    Single(String),
    /// Two: of MedNLI, the premise and the hypothesis.
    Pair(String, String),
}

impl Text {
    /// Its sentences, one or two.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Single(only) => (only, None),
            Self::Pair(first, second) => (first, Some(second)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}

/// One row. Its `Debug` output leaves the sentences out.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// The line it begins in, from 1.
    pub line: u64,
    /// What it says.
    pub text: Text,
    /// The class of its label.
    pub label: Option<u32>,
    /// Its `pairID`, where that is a string.
    pub pair_id: Option<String>,
}

/// The rows of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// The rows, in file order.
    pub rows: Vec<Row>,
    /// Rows among them without a label.
    pub unlabelled: u64,
    /// Records left out because their label is [`NO_CONSENSUS`].
    pub no_consensus: u64,
    /// Rows with an empty sentence.
    pub empty_sentences: u64,
}

/// Reads all rows of `path`. Blocks; reads the file once.
///
/// # Errors
/// The file cannot be read or has no rows, or a record is not a row of this task.
pub fn read_rows(path: &Path, layout: &RowLayout, labels: &LabelSet, need: Labels) -> Result<Rows, DataError> {
    let mut stream = RowStream::open(path, layout, labels, need)?;
    let mut rows = Rows::default();
    while let Some(row) = stream.next_row()? {
        rows.push(row);
    }
    rows.no_consensus = stream.no_consensus;
    match rows.rows.len() {
        0 => Err(stream.empty()),
        count if u32::try_from(count).is_err() => Err(DataError::TooManyRows { path: path.into() }),
        _ => Ok(rows),
    }
}

/// Rows one after another, each as soon as its record is there.
pub struct RowStream {
    rows: NamedRows,
    labels: LabelSet,
    need: Labels,
    no_consensus: u64,
}

impl RowStream {
    /// The rows of a file of the format that its ending names. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or has not all columns that are needed.
    pub fn open(path: &Path, layout: &RowLayout, labels: &LabelSet, need: Labels) -> Result<Self, DataError> {
        let rows = NamedRows::open(path, layout, need)?;
        Ok(Self { rows, labels: labels.clone(), need, no_consensus: 0 })
    }

    /// The rows of JSON lines that come from anywhere; errors call that `name`.
    #[must_use]
    pub fn of_json_lines(
        text: impl Read + Send + 'static,
        name: &Path,
        layout: &RowLayout,
        (labels, need): (&LabelSet, Labels),
    ) -> Self {
        let records = format::json_lines(text, columns(layout, need));
        let rows = NamedRows { path: name.into(), layout: layout.clone(), records };
        Self { rows, labels: labels.clone(), need, no_consensus: 0 }
    }

    /// The next row; `None` at the end. Blocks until its record is there.
    ///
    /// # Errors
    /// The text cannot be read, or the record is not a row of this task.
    pub fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        while let Some((row, name)) = self.rows.next()? {
            if name.as_deref() == Some(NO_CONSENSUS) {
                self.no_consensus += 1;
                continue;
            }
            let label = self.class(name.as_deref()).map_err(|problem| self.rows.at(row.line, problem))?;
            return Ok(Some(Row { label, ..row }));
        }
        Ok(None)
    }

    /// Records left out so far because their label is [`NO_CONSENSUS`].
    #[must_use]
    pub fn no_consensus(&self) -> u64 {
        self.no_consensus
    }

    /// What is wrong where there was no row.
    #[must_use]
    pub fn empty(&self) -> DataError {
        let (path, column) = (self.rows.path.clone(), self.rows.layout.label.clone());
        DataError::Empty { path, column, no_consensus: self.no_consensus }
    }

    fn class(&self, name: Option<&str>) -> Result<Option<u32>, LineProblem> {
        let (column, labels) = (&self.rows.layout.label, &self.labels);
        match name {
            None if self.need == Labels::Required => {
                Err(LineProblem::Unlabelled { field: column.clone(), expected: labels.listing() })
            }
            None => Ok(None),
            Some(name) => labels.index(name).map(Some).ok_or_else(|| LineProblem::UnknownLabel {
                field: column.clone(),
                found: shown(name),
                expected: match name.parse::<i64>() {
                    Ok(_) if labels.names().iter().all(|label| label.parse::<i64>().is_err()) => {
                        format!("{}, in words; medley train --labels 0,1,2 takes numbers", labels.listing())
                    }
                    _ => labels.listing(),
                },
            }),
        }
    }
}

/// The labels that the rows of `path` have, sorted as text: what `run_classification.py` takes for the classes.
/// Blocks; reads the file once.
///
/// # Errors
/// The file cannot be read, or a record is no row, or the labels make no label set.
pub fn read_labels(path: &Path, layout: &RowLayout) -> Result<LabelSet, DataError> {
    let mut names = BTreeSet::new();
    let (mut rows, mut no_consensus) = (0, 0);
    let mut named = NamedRows::open(path, layout, Labels::Required)?;
    while let Some((_, name)) = named.next()? {
        rows += 1;
        match name {
            None => {}
            Some(name) if name == NO_CONSENSUS => no_consensus += 1,
            // A column of texts has a label for each row: what is beyond the limit need not be kept.
            Some(name) if names.len() <= LabelSet::MOST => drop(names.insert(name)),
            Some(_) => {}
        }
    }
    let (path, column) = (path.into(), layout.label.clone());
    match names.len() {
        0 => Err(DataError::Empty { path, column, no_consensus }),
        // Sentences in the place of labels must not be told as such.
        labels if (labels > FEW_LABELS && 2 * labels > rows) || names.iter().any(|name| is_sentence(name)) => {
            Err(DataError::NoClasses { path, column, labels, rows })
        }
        _ => LabelSet::new(names).map_err(|problem| DataError::Labels { path, column, problem }),
    }
}

/// Whether a label is rather a text.
fn is_sentence(label: &str) -> bool {
    const LONGEST: usize = 60;
    label.len() > LONGEST || label.split_whitespace().count() > 6
}

/// Rows whose labels are still names, one after another.
struct NamedRows {
    path: PathBuf,
    layout: RowLayout,
    records: Box<dyn Records>,
}

impl NamedRows {
    fn open(path: &Path, layout: &RowLayout, need: Labels) -> Result<Self, DataError> {
        let records = format::open(path, columns(layout, need), layout.quoting)?;
        Ok(Self { path: path.into(), layout: layout.clone(), records })
    }

    /// The next row, its label not yet set, and the name of that label.
    fn next(&mut self) -> Result<Option<(Row, Option<String>)>, DataError> {
        let Some(record) = self.records.next().map_err(|failure| failure.of(&self.path))? else { return Ok(None) };
        let line = record.line;
        row(record, &self.layout).map(Some).map_err(|problem| self.at(line, problem))
    }

    fn at(&self, line: u64, problem: LineProblem) -> DataError {
        Failure::Line(line, problem).of(&self.path)
    }
}

/// The columns that rows are made of, in the order that [`row`] takes them in.
fn columns(layout: &RowLayout, need: Labels) -> Vec<Column> {
    let texts = layout.text.names().map(|name| (name, Some("--text_column_names")));
    let label = (layout.label.as_str(), (need == Labels::Required).then_some("--label_column_name"));
    let columns = texts.chain([label, (PAIR_ID, None)]);
    columns.map(|(name, flag)| Column { name: name.to_owned(), flag }).collect()
}

/// The row of a record, its label not yet set, and the name of that label; an empty one is none.
fn row(record: Record, layout: &RowLayout) -> Result<(Row, Option<String>), LineProblem> {
    let Record { line, fields } = record;
    let mut fields = fields.into_iter();
    let mut next = || fields.next().flatten();
    let text = match &layout.text {
        TextColumns::Single(name) => Text::Single(sentence(name, next())?),
        TextColumns::Pair(first, second) => Text::Pair(sentence(first, next())?, sentence(second, next())?),
    };
    let label = match next() {
        None | Some(Field::Other("null")) => None,
        Some(Field::Text(name) | Field::Integer(name)) => Some(name).filter(|name| !name.is_empty()),
        Some(Field::Other(found)) => {
            let expected = "a string or a whole number";
            return Err(LineProblem::Kind { field: layout.label.clone(), found, expected });
        }
    };
    let pair_id = match next() {
        Some(Field::Text(id)) => Some(id),
        Some(Field::Integer(_) | Field::Other(_)) | None => None,
    };
    Ok((Row { line, text, label: None, pair_id }, label))
}

fn sentence(column: &str, field: Option<Field>) -> Result<String, LineProblem> {
    let found = match field {
        Some(Field::Text(text)) => return Ok(text),
        Some(Field::Integer(_)) => "a number",
        Some(Field::Other(found)) => found,
        None => "missing",
    };
    Err(LineProblem::Kind { field: column.to_owned(), found, expected: "a string" })
}

impl Rows {
    fn push(&mut self, row: Row) {
        self.unlabelled += u64::from(row.label.is_none());
        self.empty_sentences += u64::from(row.text.sentences().any(str::is_empty));
        self.rows.push(row);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single(…)",
            Self::Pair(..) => "Pair(…)",
        })
    }
}

impl fmt::Debug for RowStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowStream").field("path", &self.rows.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("line", &self.line).field("label", &self.label).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "rows_test.rs"]
mod tests;
