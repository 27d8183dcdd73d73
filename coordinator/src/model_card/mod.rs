//! `README.md` beside the final model: its card, as the hub reads it. It says what the run was and what came of it, from what
//! the run has written; no sentence of the data is in it.

mod body;
mod header;
mod text;

use std::path::{Path, PathBuf};

use medley_common::identity::{Digest, Split};
use medley_common::model::Family;
use serde_json::{Map, Value};

use crate::archive::{ArchiveError, CARD_FILE, CERTIFICATE_FILE, Certificate, LEDGER_FILE, save_card};
use crate::bounded_file::read_object;
use crate::dataset::layout::TextColumns;
use crate::hub::repository::Repository;
use crate::model_folder::{ModelFolder, Start};
use crate::spec::{InitialWeights, RunSpec};

/// What a card tells.
#[derive(Debug)]
struct Facts {
    /// What the model is called.
    name: String,
    /// The model that training started from, where it is one of the hub.
    base_model: Option<String>,
    /// Whether its weights were used.
    is_pretrained: bool,
    /// The labels, by id.
    labels: Vec<String>,
    /// What kind of encoder it is.
    family: &'static str,
    /// Whether it classifies pairs of sentences, or single ones.
    is_pair: bool,
    /// Tokens that rows were cut to.
    max_seq_length: u32,
    data: Vec<Data>,
    certificate: Certificate,
}

/// A file of rows, and what came of it.
#[derive(Debug)]
struct Data {
    /// `train`, `validation` or `test`, as the hub has it.
    split: &'static str,
    /// The file's name, without its folder.
    file: String,
    /// SHA-256 of the file, in hexadecimal digits.
    sha256: String,
    /// What the keys of its results begin with.
    prefix: &'static str,
    /// Its results.
    results: Map<String, Value>,
}

impl Data {
    /// A number of its results.
    fn number(&self, key: &str) -> Option<f64> {
        self.results.get(&format!("{}_{key}", self.prefix))?.as_f64()
    }

    /// The interval of a number of its results.
    fn interval(&self, key: &str) -> Option<[f64; 2]> {
        let ends = self.results.get(&format!("{}_{key}_interval", self.prefix))?.as_array()?;
        Some([ends.first()?.as_f64()?, ends.get(1)?.as_f64()?])
    }
}

/// What became of the card of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is in this file.
    Here(PathBuf),
    /// This file is somebody else's, or was changed, and left alone.
    LeftAlone(PathBuf),
    /// There is no complete run to write a card of.
    Nothing,
}

/// Writes the card of the run of `spec`, as it ends. Blocks.
///
/// # Errors
/// The file cannot be written.
pub fn conclude(spec: &RunSpec) -> Result<Written, ArchiveError> {
    let folder = &spec.output().dir;
    let Some(facts) = facts(spec) else { return Ok(Written::Nothing) };
    let path = folder.join(CARD_FILE);
    let text = format!("{}---\n\n{}", header::header(&facts), body::body(&facts));
    Ok(if save_card(folder, &text)? { Written::Here(path) } else { Written::LeftAlone(path) })
}

/// What there is to tell; `None` where the run of `spec` has trained nothing, or is not complete.
fn facts(spec: &RunSpec) -> Option<Facts> {
    let (folder, sources) = (&spec.output().dir, spec.sources());
    sources.train_file.as_ref()?;
    let certificate = Certificate::read_alone(folder).ok().flatten()?;
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.clone());
    let named = absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned();
    let data = sources.files().map(|(split, _, file)| {
        let (split, prefix) = match split {
            Split::Train => ("train", "train"),
            Split::Validation => ("validation", "eval"),
            Split::Test => ("test", "predict"),
        };
        let results = format!("{prefix}_results.json");
        let results =
            certificate.results.contains_key(&results).then(|| read_object(&folder.join(results)).ok()).flatten();
        let digest = certificate.inputs.get(&format!("{split}_file"));
        Data {
            split,
            file: file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned(),
            sha256: digest.map(Digest::to_string).unwrap_or_default(),
            prefix,
            results: results.unwrap_or_default(),
        }
    });
    let model = ModelFolder::open(folder, Start::Pretrained).ok()?;
    let labels = model.labels()?;
    let shape = model.config(labels);
    Some(Facts {
        name: spec.tracking().run_name.clone().unwrap_or(named),
        base_model: base_model(&sources.model),
        is_pretrained: sources.weights == InitialWeights::Pretrained,
        family: match shape.family {
            Family::Bert => "BERT",
            Family::Roberta { .. } => "RoBERTa",
            Family::Electra { .. } => "ELECTRA",
        },
        is_pair: matches!(sources.layout.text, TextColumns::Pair(..)),
        max_seq_length: sources.max_seq_length.min(shape.max_tokens()),
        labels: labels.names().to_vec(),
        data: data.collect(),
        certificate,
    })
}

/// The hub's name of a model that is no folder here.
fn base_model(model: &str) -> Option<String> {
    let repository = Repository::parse(model).ok().filter(|_| !Path::new(model).exists())?;
    Some(repository.id().to_owned())
}

#[cfg(test)]
#[path = "model_card_test.rs"]
mod tests;
