//! A folder for one test: a tiny model, real rows, runs of Medley on them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::process::{Ended, Running, lines};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// The files of a tiny BERT that a run needs; there are others of the same weights.
const BERT_FILES: [&str; 5] =
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"];

/// A temporary folder with `model/` (a tiny model with dropout) and `train.jsonl`, `dev.jsonl`, `test.jsonl`.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    /// A folder with a BERT, whose splits have `train`, 30 and 20 real rows.
    #[must_use]
    pub fn new(train: usize) -> Self {
        Self::with(("tiny-bert", &BERT_FILES), train)
    }

    /// The same with a RoBERTa, its tokenizer in one file and in the two that were before it.
    #[must_use]
    pub fn roberta(train: usize) -> Self {
        let [config, weights, whole, settings, _] = BERT_FILES;
        Self::with(("tiny-roberta", &[config, weights, whole, settings, "vocab.json", "merges.txt"]), train)
    }

    /// The same with an ELECTRA.
    #[must_use]
    pub fn electra(train: usize) -> Self {
        Self::with(("tiny-electra", &BERT_FILES), train)
    }

    fn with((fixture, files): (&str, &[&str]), train: usize) -> Self {
        let scratch = Self { folder: tempfile::tempdir().expect("make a temporary folder") };
        let model = scratch.path("model");
        std::fs::create_dir(&model).expect("make the model's folder");
        for file in files {
            let from = Path::new(FIXTURES).join(fixture).join("model").join(file);
            std::fs::copy(&from, model.join(file)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        // The fixture has none, for parity; dropout is where runs would first differ.
        let config = std::fs::read_to_string(model.join("config.json")).expect("read the configuration");
        let config = config.replace("dropout_prob\": 0.0", "dropout_prob\": 0.1");
        std::fs::write(model.join("config.json"), config).expect("write the configuration");
        let rows = lines(&Path::new(FIXTURES).join("tiny-bert/rows.jsonl"));
        scratch.write("train.jsonl", &rows[..train].join("\n"));
        scratch.write("dev.jsonl", &rows[rows.len() - 50..rows.len() - 20].join("\n"));
        scratch.write("test.jsonl", &rows[rows.len() - 20..].join("\n"));
        scratch
    }

    /// A path inside the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("write a file");
    }

    /// Reads a text file.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Reads a JSON file.
    #[must_use]
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Reads a file of JSON lines.
    #[must_use]
    pub fn json_lines(&self, name: &str) -> Vec<Value> {
        lines(&self.path(name)).iter().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// The updates of a ledger that are in effect, as its records have them, without what ties a record to its line.
    #[must_use]
    pub fn updates(&self, ledger: &str) -> Vec<Value> {
        let mut updates: Vec<Value> = Vec::new();
        for mut record in self.json_lines(ledger) {
            match record["kind"].as_str().expect("a kind") {
                "update" => {
                    let fields = record.as_object_mut().expect("an object");
                    fields.retain(|name, _| name != "previous" && name != "digest");
                    updates.push(record);
                }
                "rewind" => updates.truncate(record["to"].as_u64().expect("an update") as usize),
                _ => {}
            }
        }
        updates
    }

    /// SHA-256 of a file.
    #[must_use]
    pub fn sha256(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Starts `medley` with `arguments`, split at spaces, in this folder.
    #[must_use]
    pub fn start(&self, arguments: &str) -> Running {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        Running::start("medley", &arguments, self.folder.path())
    }

    /// Runs `medley` to its end.
    #[must_use]
    pub fn run(&self, arguments: &str) -> Ended {
        self.start(arguments).end()
    }

    /// Runs `medley` to its end with `arguments`, split at spaces, and `more`, as they are.
    #[must_use]
    pub fn run_with(&self, arguments: &str, more: &[&str]) -> Ended {
        let arguments: Vec<&str> = arguments.split_whitespace().chain(more.iter().copied()).collect();
        Running::start("medley", &arguments, self.folder.path()).end()
    }

    /// Starts `medley-worker` with `arguments`, split at spaces, in this folder.
    #[must_use]
    pub fn start_worker(&self, arguments: &str) -> Running {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        Running::start("medley-worker", &arguments, self.folder.path())
    }
}
