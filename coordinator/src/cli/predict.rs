//! `medley predict` and `medley evaluate`: which model, which rows, and who computes.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::row_flags::QuotingFlag;
use super::run_flags::{DeviceFlag, WorkersFlag};
use super::{Cli, CliError};
use crate::dataset::layout::{Quoting, TextColumns};
use crate::spec::{RunSpec, SpecError};

/// As many lanes as there may be workers: nothing is trained in them.
const LANES: &str = "1024";

/// What `medley predict` was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Predict {
    /// The model and who computes.
    pub model: TrainedModel,
    /// What to predict.
    pub source: Source,
    /// Where to write; `None` for standard output.
    pub output: Option<PathBuf>,
}

/// What `medley evaluate` was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluate {
    /// The model and who computes.
    pub model: TrainedModel,
    /// The rows.
    pub source: Source,
    /// Whether to write JSON in the place of a table.
    pub json: bool,
    /// The folder for `eval_results.json`; `None` writes none.
    pub output_dir: Option<PathBuf>,
}

/// A model that was trained, and who computes with it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedModel {
    /// A run that reads this model and no rows.
    pub spec: RunSpec,
    /// Tokens that rows are cut to; `None` for as many as in the run that made the model.
    pub max_seq_length: Option<u32>,
    /// The columns of the rows.
    pub columns: ColumnChoice,
}

/// How rows are read, as far as flags say; `None` for as in the run that made the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColumnChoice {
    /// The columns of the texts.
    pub text: Option<TextColumns>,
    /// The column of the label.
    pub label: Option<String>,
    /// What quotes mean.
    pub quoting: Option<Quoting>,
}

/// Where rows come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// One pair, of the command line.
    Pair {
        /// The first sentence.
        premise: String,
        /// The second one.
        hypothesis: String,
    },
}

/// Without the sentences, which may be confidential.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stdin => f.write_str("Stdin"),
            Self::Pair { .. } => f.write_str("Pair"),
        }
    }
}

/// The flags of `medley predict`.
#[derive(Debug, Clone, clap::Args)]
#[command(rename_all = "snake_case", after_help = PREDICT_EXAMPLES)]
pub(super) struct PredictFlags {
    /// Rows to predict, .csv, .tsv or JSONL, labels optional; - or nothing for JSONL on standard input, however long
    #[arg(value_name = "FILE", conflicts_with_all = ["premise", "hypothesis"])]
    file: Option<PathBuf>,
    /// Predict this one pair: its first sentence
    #[arg(long, value_name = "TEXT", requires = "hypothesis", conflicts_with_all = COLUMN_FLAGS)]
    premise: Option<String>,
    /// Its second sentence
    #[arg(long, value_name = "TEXT", requires = "premise")]
    hypothesis: Option<String>,
    /// Write to FILE instead of standard output, in the place of what is there
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
}

/// Flags that a pair of the command line has no use for.
const COLUMN_FLAGS: [&str; 3] = ["text_column_names", "label_column_name", "quoting"];

const PREDICT_EXAMPLES: &str = "\
Each row becomes a JSON line, in the order of the rows: index from 0, line of the file, pairID where there is one,
prediction, probabilities by label, logits. A bad row ends it with exit code 65, when the rows before it are written.

Examples:
  medley predict --model out test.jsonl > predictions.jsonl
  producer | medley predict --model out/checkpoint-500 | consumer
  medley predict --model out --premise 'He has a cough.' --hypothesis 'He is ill.'";

/// The flags of `medley evaluate`.
#[derive(Debug, Clone, clap::Args)]
#[command(rename_all = "snake_case")]
pub(super) struct EvaluateFlags {
    /// Labelled rows, .csv, .tsv or JSONL; - for JSONL on standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the metrics as eval_results.json has them
    #[arg(long)]
    json: bool,
    /// Write eval_results.json to this folder [default: nothing is written]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
}

/// The model, and who computes.
#[derive(Debug, Clone, clap::Args)]
#[command(rename_all = "snake_case")]
struct ModelFlags {
    /// Trained model: a run's --output_dir, its checkpoint-N, or a name on the hub
    #[arg(long, value_name = "NAME|DIR")]
    model: String,
    /// Longer rows are cut to so many tokens [default: as in the run that made the model, else 128]
    #[arg(long, value_name = "TOKENS")]
    max_seq_length: Option<i64>,
    /// Columns of the texts, as many as in training [default: as in that run, else sentence1,sentence2]
    #[arg(long, value_name = "NAMES")]
    text_column_names: Option<String>,
    /// Column of a row's label [default: as in that run, else gold_label]
    #[arg(long, value_name = "NAME")]
    label_column_name: Option<String>,
    /// Quotes around fields of .csv and .tsv; none: they are text [default: as in that run, else minimal]
    #[arg(long, value_name = "minimal|none", value_enum, hide_possible_values = true)]
    quoting: Option<QuotingFlag>,
    /// Worker processes; auto is one on a CPU, else one for each GPU
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    workers: WorkersFlag,
    /// What they compute on
    #[arg(long, value_name = "auto|cpu|cuda", value_enum, default_value_t = DeviceFlag::Auto, hide_possible_values = true)]
    device: DeviceFlag,
    /// Threads of each worker [default: cores / workers]
    #[arg(long, value_name = "N")]
    threads: Option<i64>,
}

impl PredictFlags {
    /// # Errors
    /// Flags that make no run, or no rows.
    pub(super) fn checked(self) -> Result<Predict, CliError> {
        let source = match (self.premise, self.hypothesis, self.file) {
            (Some(premise), Some(hypothesis), _) => Source::Pair { premise, hypothesis },
            (_, _, Some(file)) => Source::of(file),
            (_, _, None) if std::io::stdin().is_terminal() => {
                let way_out = "name a file of rows, or give --premise and --hypothesis; - reads what you type";
                return Err(SpecError::Missing { flag: "FILE", way_out }.into());
            }
            (_, _, None) => Source::Stdin,
        };
        Ok(Predict { model: self.model.checked()?, source, output: self.output })
    }
}

impl EvaluateFlags {
    /// # Errors
    /// Flags that make no run.
    pub(super) fn checked(self) -> Result<Evaluate, CliError> {
        let (json, output_dir) = (self.json, self.output_dir);
        Ok(Evaluate { model: self.model.checked()?, source: Source::of(self.file), json, output_dir })
    }
}

impl Source {
    fn of(file: PathBuf) -> Self {
        if file == Path::new("-") { Self::Stdin } else { Self::File(file) }
    }
}

impl ModelFlags {
    /// The run is asked for as `medley train` asks for it, and so is checked as it is.
    fn checked(self) -> Result<TrainedModel, CliError> {
        let workers = match self.workers {
            WorkersFlag::Auto => "auto".to_owned(),
            WorkersFlag::Exactly(count) => count.to_string(),
        };
        let device = self.device.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let own = [
            ("model_name_or_path", self.model),
            ("do_predict", "True".to_owned()),
            ("test_file", "-".to_owned()),
            ("output_dir", ".".to_owned()),
            ("lanes", LANES.to_owned()),
            // What it answers is told elsewhere.
            ("log_level", "warning".to_owned()),
            ("workers", workers),
            ("device", device),
        ];
        let name = |quoting: QuotingFlag| Some(quoting.to_possible_value()?.get_name().to_owned());
        let asked = [
            ("threads", self.threads.map(|threads| threads.to_string())),
            ("max_seq_length", self.max_seq_length.map(|tokens| tokens.to_string())),
            ("text_column_names", self.text_column_names.clone()),
            ("label_column_name", self.label_column_name.clone()),
            ("quoting", self.quoting.and_then(name)),
        ];
        let asked = asked.into_iter().filter_map(|(flag, value)| Some((flag, value?)));
        let flags = own.into_iter().chain(asked).map(|(flag, value)| format!("--{flag}={value}"));
        let words = ["medley", "train"].map(str::to_owned).into_iter().chain(flags);
        let Cli::Train(spec) = super::parse(words)? else {
            return Err(SpecError::NothingToDo.into());
        };
        let sources = spec.sources();
        let max_seq_length = self.max_seq_length.map(|_| sources.max_seq_length);
        let columns = ColumnChoice {
            text: self.text_column_names.map(|_| sources.layout.text.clone()),
            label: self.label_column_name.map(|_| sources.layout.label.clone()),
            quoting: self.quoting.map(|_| sources.layout.quoting),
        };
        Ok(TrainedModel { spec: *spec, max_seq_length, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::spec::{DeviceChoice, Workers};

    fn predict(words: &str) -> Result<Predict, String> {
        match parse(words.split_whitespace()).map_err(|error| error.to_string())? {
            Cli::Predict(asked) => Ok(*asked),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn rows_come_from_a_file_or_standard_input() {
        let asked = predict("medley predict --model out test.jsonl --output predictions.jsonl").unwrap();
        assert_eq!(asked.source, Source::File("test.jsonl".into()));
        assert_eq!((asked.model.spec.sources().model.as_str(), asked.model.max_seq_length), ("out", None));
        assert_eq!(asked.output, Some("predictions.jsonl".into()));
        assert_eq!(predict("medley predict --model out -").unwrap().source, Source::Stdin);
        let placed =
            predict("medley predict --model=out --workers 20 --device cpu --threads 2 --max-seq-length 64 -").unwrap();
        let placement = placed.model.spec.placement();
        assert_eq!((placement.workers, placement.device), (Workers::Exactly(20), DeviceChoice::Cpu));
        assert_eq!((placement.threads, placed.model.max_seq_length), (Some(2), Some(64)));
    }

    #[test]
    fn columns_are_those_that_are_named() {
        let columns =
            |flags: &str| predict(&format!("medley predict --model out {flags} -")).map(|it| it.model.columns);
        assert_eq!(columns(""), Ok(ColumnChoice::default()));
        let named = ColumnChoice {
            text: Some(TextColumns::Single("text".into())),
            label: Some("y".into()),
            quoting: Some(Quoting::None),
        };
        assert_eq!(columns("--text_column_names text --label-column-name y --quoting none"), Ok(named));
        assert!(columns("--text_column_names a,b,c").unwrap_err().contains("one or two names of columns"));
        let pair = predict("medley predict --model out --premise a --hypothesis b --quoting none").unwrap_err();
        assert!(pair.contains("cannot be used with"), "{pair}");
    }

    #[test]
    fn a_pair_is_two_sentences_and_no_file() {
        let asked = predict("medley predict --model out --premise a --hypothesis b").unwrap();
        assert_eq!(asked.source, Source::Pair { premise: "a".into(), hypothesis: "b".into() });
        assert_eq!(format!("{:?}", asked.source), "Pair", "a sentence may be confidential");
        assert!(predict("medley predict --model out --premise a").unwrap_err().contains("--hypothesis <TEXT>"));
        let both = predict("medley predict --model out --premise a --hypothesis b test.jsonl").unwrap_err();
        assert!(both.contains("cannot be used with"), "{both}");
    }

    #[test]
    fn values_are_checked_as_those_of_a_run() {
        let refused = |flags: &str| predict(&format!("medley predict --model out {flags} -")).unwrap_err();
        assert_eq!(refused("--workers 0"), "--workers is 0; expected 1 to 1024");
        assert_eq!(refused("--max_seq_length 4"), "--max_seq_length is 4; expected 5 to 65536");
        assert!(predict("medley predict -").unwrap_err().contains("--model <NAME|DIR>"));
    }

    #[test]
    fn an_evaluation_needs_a_file() {
        let evaluate = |words: &str| parse(words.split_whitespace()).map_err(|error| error.to_string());
        let Cli::Evaluate(asked) = evaluate("medley evaluate --model out dev.jsonl --json").unwrap() else { panic!() };
        assert_eq!((&asked.source, asked.json, asked.output_dir), (&Source::File("dev.jsonl".into()), true, None));
        assert!(evaluate("medley evaluate --model out").unwrap_err().contains("<FILE>"));
    }
}
