//! Examples of the data: what the model is sure of and wrong about. They are text of the data, so they are in the page only
//! where they are asked for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use medley_common::identity::Digest;
use medley_common::message::Failure;
use serde::Deserialize;

use super::html::escaped;
use super::portrait::Portrait;
use crate::archive::PREDICTIONS_LINES;
use crate::dataset::data_error::DataError;
use crate::dataset::labels::LabelSet;
use crate::dataset::rows::{Labels, Text, read_rows};
use crate::inputs::file_digest;
use crate::run_sources::run_sources;

/// The name of the test file's digest in the certificate.
const TEST_FILE: &str = "test_file";

/// Why there are no examples to show.
#[derive(Debug, thiserror::Error)]
pub enum ExamplesError {
    /// It has predicted nothing, or is not complete.
    #[error(
        "the run has no {PREDICTIONS_LINES} and no digest of a test file; it is complete only once it has predicted, with --do_predict and --test_file"
    )]
    NoPredictions,
    /// Its command does not say.
    #[error("the run's command does not tell what it has read")]
    NoSources,
    /// Its model does not name its labels.
    #[error("the run's config.json does not name its labels, each once; put it back as it was")]
    NoLabels,
    /// The file cannot be found again, or not be read.
    #[error("{0}; put the test file back to where the run has read it")]
    NoFile(Failure),
    /// Another file lies there now.
    #[error("{} has changed since: its sha256 is {found}, and the run has read {expected}; put that file back", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// That of the file that the run has read.
        expected: Digest,
    },
    /// A row is no row.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The predictions are not those of its rows.
    #[error("{PREDICTIONS_LINES}:{line}: {problem}")]
    Predictions {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// No row has a label.
    #[error("{}: no row has a label, so nothing can be wrong", .0.display())]
    Unlabelled(PathBuf),
}

/// A line of the predictions.
#[derive(Debug, Deserialize)]
struct Predicted {
    index: usize,
    prediction: String,
    probabilities: Vec<Option<f64>>,
}

/// A row that was predicted wrongly. It has no `Debug` output, which would show its text.
struct Example {
    line: u64,
    text: Text,
    gold: String,
    predicted: String,
    /// Of the label that was predicted.
    probability: f64,
}

/// The rows that the model was surest of, and wrong about.
pub(super) struct Examples {
    file: PathBuf,
    /// Rows with a label.
    labelled: usize,
    /// Those that were predicted wrongly.
    wrong: usize,
    /// The surest of them first.
    shown: Vec<Example>,
}

impl Examples {
    /// The `most` surest of the complete run in `folder`. Blocks: it reads the test file, which must be the one that the run has
    /// read.
    ///
    /// # Errors
    /// There are no predictions, or the file is gone or another one.
    pub(super) fn read(folder: &Path, portrait: &Portrait, most: u32) -> Result<Self, ExamplesError> {
        let predictions = folder.join(PREDICTIONS_LINES);
        let expected = *portrait.inputs.get(TEST_FILE).ok_or(ExamplesError::NoPredictions)?;
        if !predictions.is_file() {
            return Err(ExamplesError::NoPredictions);
        }
        let sources = run_sources(folder).ok_or(ExamplesError::NoSources)?;
        let file = portrait.identity.folder.join(sources.test_file.as_ref().ok_or(ExamplesError::NoSources)?);
        let found = file_digest(&file).map_err(ExamplesError::NoFile)?;
        if found != expected {
            return Err(ExamplesError::Changed { path: file, found, expected });
        }
        let names: Vec<String> = portrait.labels.values().cloned().collect();
        let labels = LabelSet::new(names.iter().cloned()).map_err(|_| ExamplesError::NoLabels)?;
        let rows = read_rows(&file, &sources.layout, &labels, Labels::Optional)?.rows;
        let labelled = rows.iter().filter(|row| row.label.is_some()).count();
        if labelled == 0 {
            return Err(ExamplesError::Unlabelled(file));
        }
        let predicted = by_row(&predictions)?;
        let ids: BTreeMap<&str, usize> = names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
        let wrong = rows.into_iter().enumerate().filter_map(|(index, row)| {
            let (gold, predicted) = (names.get(row.label? as usize)?, predicted.get(&index)?);
            let id = *ids.get(predicted.prediction.as_str())?;
            (predicted.prediction != *gold).then(|| Example {
                line: row.line,
                text: row.text,
                gold: gold.clone(),
                predicted: predicted.prediction.clone(),
                probability: predicted.probabilities.get(id).copied().flatten().unwrap_or_default(),
            })
        });
        let mut shown: Vec<Example> = wrong.collect();
        let wrong = shown.len();
        // The earlier of equals first.
        shown.sort_by(|one, other| other.probability.total_cmp(&one.probability));
        shown.truncate(most as usize);
        Ok(Self { file, labelled, wrong, shown })
    }

    /// The table, and what to know of it.
    pub(super) fn html(&self) -> String {
        let Self { labelled, wrong, shown, .. } = self;
        let name = self.file.file_name().unwrap_or(self.file.as_os_str()).to_string_lossy();
        let mut out = format!(
            "<p><strong>This page holds text of {}.</strong> Licences such as MedNLI's, and the law on data of patients, \
             forbid to pass that on: then pass this page on to nobody who may not have the data.</p>\n\
             <p>{wrong} of {labelled} labelled rows were predicted wrongly; these are the {} that the model was surest of.</p>\n",
            escaped(&name),
            shown.len()
        );
        out.push_str(
            "<div class=\"wide\"><table class=\"examples\"><tr><th scope=\"col\">line</th><th scope=\"col\">text</th>\
             <th scope=\"col\">label</th><th scope=\"col\">predicted</th></tr>\n",
        );
        for Example { line, text, gold, predicted, probability } in shown {
            let sentences: String = text.sentences().map(|sentence| format!("<p>{}</p>", escaped(sentence))).collect();
            // Writing to a string cannot fail.
            writeln!(
                out,
                "<tr><th scope=\"row\">{line}</th><td>{sentences}</td><td>{}</td><td>{} <small>{:.1} %</small></td></tr>",
                escaped(gold),
                escaped(predicted),
                100.0 * probability
            )
            .ok();
        }
        out.push_str("</table></div>\n");
        out
    }
}

/// The predictions, by row id.
fn by_row(path: &Path) -> Result<BTreeMap<usize, Predicted>, ExamplesError> {
    let wrong = |line: usize, problem: String| ExamplesError::Predictions { line, problem };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(1, error.to_string()))?;
    let parsed = text.lines().enumerate().map(|(at, line)| {
        let predicted: Predicted = serde_json::from_str(line).map_err(|error| wrong(at + 1, error.to_string()))?;
        Ok((predicted.index, predicted))
    });
    parsed.collect()
}
