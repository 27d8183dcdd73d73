//! What a run reads: the model and the files, one for each task that is asked for.

use std::path::{Path, PathBuf};

use medley_common::identity::Split;

use super::number::Number;
use super::text;
use crate::cli::run_flags::{RunFlags, StrategyFlag};
use crate::dataset::format::Format;
use crate::dataset::layout::{Quoting, RowLayout};
use crate::spec::{Baseline, LabelChoice, Note, SpecError};

/// Where the weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialWeights {
    /// From the model; only the classifier may be new.
    Pretrained,
    /// Drawn from the seed; the model gives its shape and its tokenizer.
    Random,
}

/// What a run reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// A model's name on the hub, or its folder.
    pub model: String,
    /// Where the weights come from.
    pub weights: InitialWeights,
    /// Rows to train on; `Some` if and only if the run trains.
    pub train_file: Option<PathBuf>,
    /// Rows to evaluate on; `Some` if and only if the run evaluates, at its end and perhaps in between.
    pub validation_file: Option<PathBuf>,
    /// Rows to predict; `Some` if and only if the run predicts.
    pub test_file: Option<PathBuf>,
    /// Which columns make a row.
    pub layout: RowLayout,
    /// Which of two texts alone is read, if only one is; `layout` has that one.
    pub baseline: Option<Baseline>,
    /// The classes, in the order of their ids.
    pub labels: LabelChoice,
    /// Tokens that a row is cut to, at least 5: the special tokens, and one of each sentence of a pair.
    pub max_seq_length: u32,
}

impl Sources {
    /// Each split that the run reads, with its flag and file.
    pub fn files(&self) -> impl Iterator<Item = (Split, &'static str, &Path)> {
        [
            (Split::Train, "--train_file", self.train_file.as_deref()),
            (Split::Validation, "--validation_file", self.validation_file.as_deref()),
            (Split::Test, "--test_file", self.test_file.as_deref()),
        ]
        .into_iter()
        .filter_map(|(split, flag, file)| file.map(|file| (split, flag, file)))
    }

    /// Checks that every file is there; reads the disk, but no file.
    ///
    /// # Errors
    /// The first flag whose value is not a file.
    pub fn check_files(&self) -> Result<(), SpecError> {
        match self.files().find(|(_, _, path)| !path.exists()) {
            Some((_, flag, path)) => Err(SpecError::NoFile { flag, path: path.to_path_buf() }),
            None => Ok(()),
        }
    }

    pub(super) fn parse(flags: &RunFlags, notes: &mut Vec<Note>) -> Result<Self, SpecError> {
        let (tasks, data) = (&flags.tasks, &flags.data);
        let model = data.model_name_or_path.clone().filter(|model| !model.trim().is_empty()).ok_or(
            SpecError::Missing {
                flag: "--model_name_or_path",
                way_out: "name a model on the hub or a folder, e.g. --model_name_or_path michiyasunaga/BioLinkBERT-base",
            },
        )?;
        let weights = if data.from_scratch.0 { InitialWeights::Random } else { InitialWeights::Pretrained };
        let chosen = [
            Choice::new(tasks.do_train.0.then_some("--do_train"), "--train_file", data.train_file.as_ref()),
            Choice::new(evaluation(flags), "--validation_file", data.validation_file.as_ref()),
            Choice::new(tasks.do_predict.0.then_some("--do_predict"), "--test_file", data.test_file.as_ref()),
        ];
        if chosen.iter().all(|choice| choice.asked_by.is_none()) {
            return Err(SpecError::NothingToDo);
        }
        let layout = text::layout(&flags.rows)?;
        let is_delimited = |choice: &Choice<'_>| choice.file.is_some_and(|file| Format::of(file) != Format::JsonLines);
        if layout.quoting == Quoting::None && !chosen.iter().any(is_delimited) {
            notes.push(Note::plain("--quoting has no effect: no file ends with .csv or .tsv"));
        }
        let [train_file, validation_file, test_file] = chosen.map(|choice| choice.decide(notes));
        Ok(Self {
            model,
            weights,
            train_file: train_file?,
            validation_file: validation_file?,
            test_file: test_file?,
            layout,
            baseline: Baseline::parse(&flags.rows)?,
            labels: LabelChoice::parse(&data.labels)?,
            max_seq_length: Number::new("--max_seq_length", data.max_seq_length).within(5, 65_536)?,
        })
    }
}

/// The flag that asks for an evaluation, if any does: as in Hugging Face, a strategy implies `--do_eval`.
fn evaluation(flags: &RunFlags) -> Option<&'static str> {
    match (flags.tasks.do_eval.0, flags.cadence.evaluation_strategy) {
        (true, _) => Some("--do_eval"),
        (false, StrategyFlag::Steps | StrategyFlag::Epoch) => Some("--evaluation_strategy"),
        (false, StrategyFlag::No) => None,
    }
}

/// A file, and the task that would read it.
struct Choice<'a> {
    asked_by: Option<&'static str>,
    flag: &'static str,
    file: Option<&'a PathBuf>,
}

impl<'a> Choice<'a> {
    fn new(asked_by: Option<&'static str>, flag: &'static str, file: Option<&'a PathBuf>) -> Self {
        Self { asked_by, flag, file: file.filter(|file| !file.as_os_str().is_empty()) }
    }

    fn decide(self, notes: &mut Vec<Note>) -> Result<Option<PathBuf>, SpecError> {
        match (self.asked_by, self.file) {
            (Some(_), Some(file)) => Ok(Some(file.clone())),
            (Some(task), None) => Err(SpecError::Needs {
                flag: task.into(),
                needs: self.flag,
                way_out: "name the file that holds the rows",
            }),
            (None, Some(file)) => {
                let task = match self.flag {
                    "--train_file" => "--do_train",
                    "--validation_file" => "--do_eval",
                    _ => "--do_predict",
                };
                let file = file.display();
                notes.push(Note::warning(format!("{} {file} is not read, because {task} is not given", self.flag)));
                Ok(None)
            }
            (None, None) => Ok(None),
        }
    }
}
