//! `medley quickstart`: a small BERT, trained from scratch on real biomedical sentence pairs that come with the program.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::archive::{CERTIFICATE_FILE, Certificate, LEDGER_FILE};
use crate::cli::{self, Cli, CliError, Quickstart};
use crate::dataset::data_error::DataError;
use crate::dataset::labels::LabelSet;
use crate::dataset::layout::RowLayout;
use crate::dataset::rows::{Labels, read_rows};
use crate::display::say;
use crate::model_folder::CONFIG_FILE;
use crate::spec::RunSpec;
use crate::tokenizer::learning::learn_vocabulary;
use crate::tokenizer::settings::TokenizerSettings;
use crate::tokenizer::{PairTokenizer, TokenizerError};

/// Evidence Inference 2.0 (DeYoung et al., 2020; MIT), in MedNLI's format.
const FILES: [(&str, &str); 4] = [
    ("train.jsonl", include_str!("../data/evidence-inference/train.jsonl")),
    ("dev.jsonl", include_str!("../data/evidence-inference/dev.jsonl")),
    ("test.jsonl", include_str!("../data/evidence-inference/test.jsonl")),
    ("LICENSE", include_str!("../data/evidence-inference/LICENSE")),
];

/// Tokens of the vocabulary that is learnt from the training rows.
const VOCABULARY: u32 = 4_000;
/// The longest pair, in tokens.
const LENGTH: u32 = 128;
/// Where the model without weights goes, below the folder that is asked for.
const UNTRAINED: &str = "untrained";
/// Where the trained model goes, below the folder that is asked for.
const TRAINED: &str = "model";

/// Why the quickstart cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// A file cannot be written.
    #[error("write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The shipped rows cannot be read back.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No vocabulary can be learnt from them.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The command that it stands for is refused.
    #[error(transparent)]
    Command(#[from] CliError),
    /// Something else lies where the quickstart would write.
    #[error("{} is there already, and not the quickstart's own; name an empty folder with --output_dir", path.display())]
    Occupied {
        /// The file or folder.
        path: PathBuf,
    },
    /// The command that it stands for is no training, which is a fault of the program.
    #[error("the quickstart's own command is no training")]
    NoTraining,
}

impl QuickstartError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Write { .. } | Self::Occupied { .. } => 78,
            Self::Data(_) | Self::Tokenizer(_) => 65,
            Self::Command(_) | Self::NoTraining => 70,
        }
    }
}

/// Writes the data and a model without weights, and answers the run that trains it. Blocks.
///
/// # Errors
/// The folder cannot be written to.
pub fn prepare(arguments: &Quickstart) -> Result<RunSpec, QuickstartError> {
    refuse_foreign(&arguments.output_dir)?;
    let (data, model) = (arguments.output_dir.join("data"), arguments.output_dir.join(UNTRAINED));
    for folder in [&data, &model] {
        std::fs::create_dir_all(folder).map_err(|source| QuickstartError::Write { path: folder.clone(), source })?;
    }
    for (name, content) in FILES {
        write(&data.join(name), content)?;
    }
    let (layout, labels) = (RowLayout::default(), LabelSet::default());
    let read = read_rows(&data.join("train.jsonl"), &layout, &labels, Labels::Required)?;
    let texts = read.rows.iter().flat_map(|row| row.text.sentences());
    let vocabulary = learn_vocabulary(texts, VOCABULARY)?;
    PairTokenizer::from_word_pieces(&vocabulary, TokenizerSettings::default())?.save(&model, LENGTH)?;
    let config = json!({
        "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 512, "max_position_embeddings": LENGTH, "type_vocab_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "pad_token_id": 0,
    });
    write(&model.join(CONFIG_FILE), &format!("{config:#}\n"))?;
    say(&format!("quickstart stands for this command:\n\n  {}\n", command(arguments).join(" ")));
    match cli::parse(command(arguments))? {
        Cli::Train(spec) => Ok(*spec),
        _ => Err(QuickstartError::NoTraining),
    }
}

/// Refuses a folder in which another file than one of an earlier quickstart would be replaced.
///
/// Models are the quickstart's own only beside its rows, which are written first. The trained one is also known by its
/// record, or by the ledger of a run that has none yet.
fn refuse_foreign(folder: &Path) -> Result<(), QuickstartError> {
    let occupied = |path: PathBuf| Err(QuickstartError::Occupied { path });
    let mut has_rows = true;
    for (name, content) in FILES {
        let path = folder.join("data").join(name);
        match std::fs::read(&path) {
            Ok(found) if found == content.as_bytes() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => has_rows = false,
            Ok(_) | Err(_) => return occupied(path),
        }
    }
    for name in [UNTRAINED, TRAINED] {
        if !has_rows && !is_empty(&folder.join(name)) {
            return occupied(folder.join(name));
        }
    }
    let trained = folder.join(TRAINED);
    let own = match Certificate::read_alone(&trained) {
        Ok(Some(record)) => is_quickstart(&record.command),
        Ok(None) => trained.join(LEDGER_FILE).exists() || is_empty(&trained),
        Err(_) => return occupied(trained.join(CERTIFICATE_FILE)),
    };
    if own { Ok(()) } else { occupied(trained) }
}

/// Whether a folder holds nothing but hidden files, or is not there.
fn is_empty(folder: &Path) -> bool {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.flatten().all(|entry| entry.file_name().as_encoded_bytes().starts_with(b".")),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether a recorded command is that of a quickstart.
fn is_quickstart(command: &[String]) -> bool {
    command.get(1).is_some_and(|word| word == "quickstart")
}

/// What to type next.
#[must_use]
pub fn farewell(arguments: &Quickstart) -> String {
    let (folder, model) = (arguments.output_dir.display(), arguments.output_dir.join(TRAINED));
    format!(
        "\nA BERT of 2 layers, its vocabulary included, trained from nothing by {} worker processes, on pairs from trial \n\
         reports. Guessing the most frequent label would get 0.48 of the test rows.\n\n  \
         {model}    the model, as transformers loads it\n  {model}/predict_results.txt    its predictions for the test \
         rows\n  {folder}/data    the rows (Evidence Inference 2.0, MIT)\n\n\
         Next, your own data on a published model:\n\n  medley train --model_name_or_path \
         michiyasunaga/BioLinkBERT-base --do_train --train_file train.jsonl \\\n      --do_eval --validation_file \
         dev.jsonl --max_seq_length 128 --learning_rate 3e-5 --output_dir out --workers 2\n\n\
         The same rows, step by step, from a file to Python: docs/tutorial.md in Medley's repository\n",
        arguments.workers,
        model = model.display(),
    )
}

/// The command that a quickstart stands for.
#[must_use]
pub fn command(arguments: &Quickstart) -> Vec<String> {
    let file = |name: &str| arguments.output_dir.join("data").join(name).display().to_string();
    let flags = [
        ("--model_name_or_path", arguments.output_dir.join(UNTRAINED).display().to_string()),
        ("--do_train", "True".into()),
        ("--train_file", file("train.jsonl")),
        ("--do_eval", "True".into()),
        ("--validation_file", file("dev.jsonl")),
        ("--do_predict", "True".into()),
        ("--test_file", file("test.jsonl")),
        ("--max_seq_length", LENGTH.to_string()),
        ("--per_device_train_batch_size", "32".into()),
        ("--learning_rate", "1e-3".into()),
        ("--warmup_ratio", "0.1".into()),
        ("--num_train_epochs", "15".into()),
        ("--evaluation_strategy", "epoch".into()),
        ("--logging_strategy", "epoch".into()),
        ("--save_strategy", "no".into()),
        ("--from_scratch", "True".into()),
        ("--overwrite_output_dir", "True".into()),
        ("--output_dir", arguments.output_dir.join(TRAINED).display().to_string()),
        ("--workers", arguments.workers.to_string()),
    ];
    let words = ["medley".to_owned(), "train".to_owned()];
    words.into_iter().chain(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value])).collect()
}

fn write(path: &Path, content: &str) -> Result<(), QuickstartError> {
    std::fs::write(path, content).map_err(|source| QuickstartError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, content: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The folder that is refused, below the one that was asked for.
    fn refused(folder: &Path) -> Option<String> {
        let arguments = Quickstart { output_dir: folder.to_owned(), workers: 1, prepare_only: false };
        match prepare(&arguments) {
            Ok(_) => None,
            Err(QuickstartError::Occupied { path }) => Some(path.strip_prefix(folder).unwrap().display().to_string()),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_another_program_left_is_not_replaced() {
        for file in ["data/train.jsonl", "untrained/config.json", "model/model.safetensors", "model/medley_run.json"] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path().join(file), "mine");
            let named = refused(folder.path()).unwrap();
            assert!(file.starts_with(&named), "{file}: {named}");
            assert_eq!(std::fs::read(folder.path().join(file)).unwrap(), b"mine");
            let entries = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(entries, 1, "nothing is written before the check");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refused(folder.path()), None);
        assert_eq!(refused(folder.path()), None, "its own rows and untrained model");
        write(folder.path().join("model/ledger.jsonl"), "");
        assert_eq!(refused(folder.path()), None, "its own run, not complete");
        write(folder.path().join("model/medley_run.json"), "{}");
        assert_eq!(refused(folder.path()), Some("model/medley_run.json".to_owned()));
        std::fs::remove_dir_all(folder.path().join("model")).unwrap();
        write(folder.path().join("model/config.json"), "{}");
        assert_eq!(refused(folder.path()), Some("model".to_owned()));
    }

    #[test]
    fn a_quickstart_is_known_by_its_command() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(is_quickstart(&words(&["medley", "quickstart", "--workers", "1"])));
        assert!(!is_quickstart(&words(&["medley", "train", "--output_dir", "quickstart"])));
        assert!(!is_quickstart(&[]));
    }
}
