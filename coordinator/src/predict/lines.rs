//! Predictions as text: JSON lines, or a line for a person.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use medley_common::evaluation::Prediction;
use medley_common::message::{Failure, FailureKind};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Predicted, Sink};
use crate::archive::{label_name, softmax};
use crate::cli::Source;

/// How predictions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON object a row, with where it comes from.
    Rows,
    /// The same for a pair of the command line, which comes from nowhere.
    Pair,
    /// The label and how sure it is, for a person.
    Words,
}

/// Where they are written.
#[derive(Debug)]
pub(super) enum Target {
    /// Standard output.
    Stdout,
    /// A file; there is none before the first rows.
    File(PathBuf, Option<File>),
}

/// Writes a line a row.
#[derive(Debug)]
pub(super) struct Lines {
    target: Target,
    form: Form,
    /// Rows so far.
    index: u64,
}

impl Form {
    /// How predictions of `source` are written to `output`.
    pub(super) fn of(source: &Source, output: Option<&Path>) -> Self {
        match source {
            Source::Pair { .. } if output.is_none() && io::stdout().is_terminal() => Self::Words,
            Source::Pair { .. } => Self::Pair,
            Source::File(_) | Source::Stdin => Self::Rows,
        }
    }
}

impl Target {
    /// `output`, or standard output.
    ///
    /// # Errors
    /// It is the file that is read.
    pub(super) fn new(output: Option<PathBuf>, source: &Source) -> Result<Self, Failure> {
        match (output, source) {
            (Some(output), Source::File(input)) if is_same(&output, input) => {
                let output = output.display();
                let message =
                    format!("--output {output} is the file that is read, and would be replaced; name another");
                Err(Failure { kind: FailureKind::Config, message })
            }
            (Some(output), _) => Ok(Self::File(output, None)),
            (None, _) => Ok(Self::Stdout),
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
            Self::File(path, file) => {
                let named = |error: io::Error| io::Error::other(format!("write {}: {error}", path.display()));
                let open = match file {
                    Some(file) => file,
                    None => file.insert(File::create(&*path).map_err(named)?),
                };
                open.write_all(text).map_err(named)
            }
        }
    }
}

/// Whether two names are of one file, by whatever links.
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let file = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    file(one).is_some_and(|one| Some(one) == file(other))
}

impl Lines {
    pub(super) fn new(target: Target, form: Form) -> Self {
        Self { target, form, index: 0 }
    }

    /// The stream is at its end: where there were no rows, what is written is empty.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match &self.target {
            Target::File(_, None) => self.target.write(b""),
            Target::File(_, Some(_)) | Target::Stdout => Ok(()),
        }
    }
}

impl Sink for Lines {
    fn take(&mut self, chunk: &Predicted<'_>) -> io::Result<()> {
        let mut text = Vec::new();
        for (prediction, origin) in chunk.report.predictions.iter().zip(chunk.origins) {
            match self.form {
                Form::Words => writeln!(text, "{}", words(prediction, chunk.names))?,
                Form::Rows | Form::Pair => {
                    let place = Place { index: self.index, line: origin.line, pair_id: origin.pair_id.as_deref() };
                    let place = Some(place).filter(|_| self.form == Form::Rows);
                    serde_json::to_writer(&mut text, &line(prediction, place, chunk.names))?;
                    text.push(b'\n');
                }
            }
            self.index += 1;
        }
        // Whole lines at once: none is cut by what comes after it.
        self.target.write(&text)
    }
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, Serialize)]
struct Place<'a> {
    index: u64,
    line: u64,
    #[serde(rename = "pairID", skip_serializing_if = "Option::is_none")]
    pair_id: Option<&'a str>,
}

/// A row's prediction, under the names that `predictions.jsonl` has.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    place: Option<Place<'a>>,
    prediction: String,
    probabilities: ByLabel<'a>,
    logits: &'a [f32],
}

fn line<'a>(prediction: &'a Prediction, place: Option<Place<'a>>, names: &'a [String]) -> Line<'a> {
    let probabilities = ByLabel { names, values: softmax(&prediction.logits) };
    Line { place, prediction: name_of(prediction, names), probabilities, logits: &prediction.logits }
}

fn name_of(prediction: &Prediction, names: &[String]) -> String {
    label_name(names, prediction.label() as usize)
}

/// A number for each label, by its name, in label order.
#[derive(Debug)]
struct ByLabel<'a> {
    names: &'a [String],
    values: Vec<f64>,
}

impl Serialize for ByLabel<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        self.values
            .iter()
            .enumerate()
            .try_for_each(|(id, value)| map.serialize_entry(&label_name(self.names, id), value))?;
        map.end()
    }
}

/// `entailment 93.1 %, neutral 5.2 %, contradiction 1.7 %`: the prediction first.
fn words(prediction: &Prediction, names: &[String]) -> String {
    let mut shares: Vec<(usize, f64)> = softmax(&prediction.logits).into_iter().enumerate().collect();
    // The first of equals is the prediction, and stays the first.
    shares.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let share = |(id, share): &(usize, f64)| format!("{} {:.1} %", label_name(names, *id), 100.0 * share);
    shares.iter().map(share).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use medley_common::evaluation::Tally;
    use medley_common::identity::{RowId, Split, Update};

    use super::*;
    use crate::archive::RowOrigin;
    use crate::run::report::EvaluationReport;

    fn report(rows: &[&[f32]]) -> EvaluationReport {
        let row = |(row, logits): (u32, &&[f32])| Prediction { row: RowId(row), logits: logits.to_vec(), loss: None };
        EvaluationReport {
            split: Split::Test,
            update: Update(0),
            epoch: 0.0,
            tally: Tally::default(),
            predictions: (0..).zip(rows).map(row).collect(),
            labels: vec![None; rows.len()],
            seconds: 1.0,
        }
    }

    fn names() -> Vec<String> {
        ["no", "yes"].map(str::to_owned).into()
    }

    /// What two chunks are written as to a file.
    fn written(form: Form) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.jsonl");
        let mut lines = Lines::new(Target::File(path.clone(), None), form);
        for (logits, line, id) in [([0.0, 0.0], 1, None), ([-1.0, 1.0], 4, Some("a\"4"))] {
            let origins = [RowOrigin { line, pair_id: id.map(str::to_owned) }];
            lines.take(&Predicted { names: &names(), origins: &origins, report: &report(&[&logits]) }).unwrap();
        }
        lines.finish().unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn rows_are_numbered_through_all_chunks() {
        let sure = 1.0 / (1.0 + f64::exp(-2.0));
        let unsure = f64::exp(-2.0) / (1.0 + f64::exp(-2.0));
        let expected = format!(
            "{{\"index\":0,\"line\":1,\"prediction\":\"no\",\"probabilities\":{{\"no\":0.5,\"yes\":0.5}},\"logits\":[0.0,0.0]}}\n\
             {{\"index\":1,\"line\":4,\"pairID\":\"a\\\"4\",\"prediction\":\"yes\",\"probabilities\":{{\"no\":{unsure},\
             \"yes\":{sure}}},\"logits\":[-1.0,1.0]}}\n"
        );
        assert_eq!(written(Form::Rows), expected);
    }

    #[test]
    fn a_pair_comes_from_nowhere() {
        let pair = written(Form::Pair);
        assert!(
            pair.starts_with(
                "{\"prediction\":\"no\",\"probabilities\":{\"no\":0.5,\"yes\":0.5},\"logits\":[0.0,0.0]}\n"
            )
        );
        assert_eq!(written(Form::Words), "no 50.0 %, yes 50.0 %\nyes 88.1 %, no 11.9 %\n");
    }

    #[test]
    fn what_was_there_stays_until_there_is_something_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.jsonl");
        std::fs::write(&path, "precious").unwrap();
        let mut lines = Lines::new(Target::File(path.clone(), None), Form::Rows);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        lines.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn the_rows_are_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let (rows, link) = (folder.path().join("rows.jsonl"), folder.path().join("link.jsonl"));
        std::fs::write(&rows, "{}").unwrap();
        std::fs::hard_link(&rows, &link).unwrap();
        let refused = Target::new(Some(link), &Source::File(rows.clone())).unwrap_err();
        assert!(refused.message.contains("is the file that is read"), "{}", refused.message);
        assert!(Target::new(Some(folder.path().join("other.jsonl")), &Source::File(rows)).is_ok());
    }
}
