//! A model's folder as Hugging Face lays it out: `config.json`, weights, tokenizer.
//!
//! Only the shape is read here; the weights are found by [`WeightsFile::find`] and opened by the workers.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use medley_common::model::{ModelConfig, ModelError};
use serde_json::{Map, Value, json};

use crate::bounded_file::{FileError, read_object};
use crate::dataset::labels::LabelSet;
use crate::tokenizer::Vocabulary;
use crate::weights_file::{WeightsFile, WeightsFileError};

mod classifier;
mod family;

use family::FamilyFiles;

/// The settings of the model.
pub const CONFIG_FILE: &str = "config.json";
/// Fields of `config.json` that tell of another place, or that would mislead a reader of the fine-tuned model.
const DROPPED_FIELDS: [&str; 7] = [
    "_name_or_path",
    "_attn_implementation_autoset",
    "_attn_implementation",
    "auto_map",
    "custom_pipelines",
    "finetuning_task",
    "num_labels",
];

/// Whether a run starts from weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From the folder's weights, which must be there.
    Pretrained,
    /// From newly initialised weights; the folder's are not looked at.
    Scratch,
}

/// A checked model folder.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    raw: Map<String, Value>,
    family: &'static FamilyFiles,
    shape: ModelConfig,
    labels: Option<LabelSet>,
    weights: Option<WeightsFile>,
}

/// What a user should know about a folder that works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelWarning {
    /// The weights are a pickle.
    #[error("{} is a pickle; convert it to model.safetensors if its origin is not trusted", path.display())]
    PickleWeights {
        /// The file.
        path: PathBuf,
    },
    /// The folder's classifier has other labels than the run.
    #[error("the model's labels are {found}; the run orders them {wanted}")]
    OtherLabels {
        /// The labels of `config.json`.
        found: String,
        /// The labels of the run.
        wanted: String,
    },
}

/// Why a model folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelFolderError {
    /// It is no folder.
    #[error("{} is not a folder; expected a model's folder with config.json", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// `config.json` cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A field cannot be used.
    #[error("{}: {field} is {found}; expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value, cut.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A field that tells the shape is not there. transformers would put in that of BERT-base, which the weights would
    /// then hardly have.
    #[error("{}: {field} is missing; copy the config.json that belongs to the model", path.display())]
    NoField {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// The fields do not fit each other.
    #[error("{}: {source}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: ModelError,
    },
    /// It does not say what its classifier tells apart.
    #[error("{} {why}; expected a model that was trained to classify; train it first, with medley train", path.display())]
    NoClassifier {
        /// The file.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// There is no tokenizer.
    #[error("{} has neither tokenizer.json nor {files}; copy them from the model's repository", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
        /// The files that would do as well.
        files: String,
    },
    /// The weights are missing or no use.
    #[error(transparent)]
    Weights(#[from] WeightsFileError),
}

impl ModelFolder {
    /// Reads and checks a folder; the weights are found, not loaded.
    ///
    /// # Errors
    /// A part is missing or malformed, or the model is none that can be computed here.
    pub fn open(path: &Path, start: Start) -> Result<Self, ModelFolderError> {
        if !path.is_dir() {
            return Err(ModelFolderError::NotAFolder { path: path.into() });
        }
        let config_path = path.join(CONFIG_FILE);
        let raw = read_object(&config_path)?;
        let fields = Fields { path: &config_path, raw: &raw };
        let family = FamilyFiles::of(&fields)?;
        let shape = read_shape(&fields, family)?;
        let labels = labels_of(&raw);
        if !family.vocabulary.is_among(|file| path.join(file).exists()) {
            let files = family.vocabulary.files().join(" and ");
            return Err(ModelFolderError::NoTokenizer { folder: path.into(), files });
        }
        let weights = match start {
            Start::Pretrained => Some(WeightsFile::find(path)?),
            Start::Scratch => None,
        };
        Ok(Self { path: path.into(), raw, family, shape, labels, weights })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of vocabulary that the model's tokenizer has.
    #[must_use]
    pub fn vocabulary(&self) -> Vocabulary {
        self.family.vocabulary
    }

    /// The shape of the model with a classifier for `labels`.
    #[must_use]
    pub fn config(&self, labels: &LabelSet) -> ModelConfig {
        ModelConfig { num_labels: labels.count(), ..self.shape.clone() }
    }

    /// The weights to start from; `None` from scratch.
    #[must_use]
    pub fn weights(&self) -> Option<&WeightsFile> {
        self.weights.as_ref()
    }

    /// The labels that `config.json` names, unless they are placeholders (`LABEL_0`).
    #[must_use]
    pub fn labels(&self) -> Option<&LabelSet> {
        self.labels.as_ref()
    }

    /// What the user should know before a run with `labels`.
    #[must_use]
    pub fn warnings(&self, labels: &LabelSet) -> Vec<ModelWarning> {
        let pickle = match &self.weights {
            Some(WeightsFile::Pickle(path)) => Some(ModelWarning::PickleWeights { path: path.clone() }),
            _ => None,
        };
        let other = self.labels.as_ref().filter(|found| *found != labels).map(|found| ModelWarning::OtherLabels {
            found: found.names().join(", "),
            wanted: labels.names().join(", "),
        });
        pickle.into_iter().chain(other).collect()
    }

    /// The `config.json` of the fine-tuned model: the folder's own, unknown fields kept, with the run's labels.
    #[must_use]
    pub fn export_config(&self, labels: &LabelSet) -> Value {
        let mut out = self.raw.clone();
        DROPPED_FIELDS.iter().for_each(|field| drop(out.remove(*field)));
        let mut set = |field: &str, value: Value| out.insert(field.to_owned(), value);
        let shape = &self.shape;
        for (field, size) in [
            ("vocab_size", shape.vocab_size),
            ("hidden_size", shape.hidden_size),
            ("num_hidden_layers", shape.num_hidden_layers),
            ("num_attention_heads", shape.num_attention_heads),
            ("intermediate_size", shape.intermediate_size),
            ("max_position_embeddings", shape.max_position_embeddings),
            ("type_vocab_size", shape.type_vocab_size),
        ] {
            set(field, json!(size));
        }
        if let Some((field, number)) = (self.family.own_field)(shape.family) {
            set(field, json!(number));
        }
        set("architectures", json!([self.family.architecture]));
        set("model_type", json!(self.family.model_type));
        set("hidden_act", json!("gelu"));
        set("problem_type", json!("single_label_classification"));
        set("torch_dtype", json!("float32"));
        if self.raw.contains_key("dtype") {
            set("dtype", json!("float32"));
        }
        let names = || labels.names().iter().enumerate();
        set("id2label", names().map(|(index, name)| (index.to_string(), json!(name))).collect());
        set("label2id", names().map(|(index, name)| (name.clone(), json!(index))).collect());
        Value::Object(out)
    }
}

/// The shape in `config.json`, with transformers' defaults for what every file of a published model does not say; one label
/// stands for those of the run.
fn read_shape(fields: &Fields<'_>, family: &FamilyFiles) -> Result<ModelConfig, ModelFolderError> {
    fields.only("hidden_act", &["gelu", "gelu_python"], "gelu, the exact erf form")?;
    fields.only("position_embedding_type", &["absolute"], "absolute")?;
    fields.off("is_decoder")?;
    fields.off("add_cross_attention")?;
    fields.off("quantization_config")?;
    let hidden_dropout = fields.rate("hidden_dropout_prob", 0.1)?;
    let shape = ModelConfig {
        family: (family.read)(fields)?,
        vocab_size: fields.own_size("vocab_size", 1 << 24)?,
        hidden_size: fields.own_size("hidden_size", 1 << 16)?,
        num_hidden_layers: fields.own_size("num_hidden_layers", 1 << 10)?,
        num_attention_heads: fields.own_size("num_attention_heads", 1 << 12)?,
        intermediate_size: fields.own_size("intermediate_size", 1 << 18)?,
        max_position_embeddings: fields.size("max_position_embeddings", 512, 1 << 20)?,
        type_vocab_size: fields.size("type_vocab_size", 2, 1 << 10)?,
        layer_norm_eps: fields.rate("layer_norm_eps", 1e-12)?,
        hidden_dropout,
        attention_dropout: fields.rate("attention_probs_dropout_prob", 0.1)?,
        classifier_dropout: fields.rate("classifier_dropout", hidden_dropout)?,
        initializer_range: fields.rate("initializer_range", 0.02)?,
        num_labels: 1,
    };
    shape.validate().map_err(|source| ModelFolderError::Shape { path: fields.path.into(), source })?;
    if shape.type_vocab_size < family.vocabulary.segments() {
        return Err(fields.wrong(
            "type_vocab_size",
            &json!(shape.type_vocab_size),
            "at least 2: a pair has 2 segments",
        ));
    }
    Ok(shape)
}

/// The fields of `config.json`, checked one by one.
struct Fields<'a> {
    path: &'a Path,
    raw: &'a Map<String, Value>,
}

impl Fields<'_> {
    /// A field that is there; `null` counts as absent, as it does for `BertConfig`'s optional fields.
    fn get(&self, field: &str) -> Option<&Value> {
        self.raw.get(field).filter(|value| !value.is_null())
    }

    /// A size without a default.
    fn own_size(&self, field: &'static str, most: u32) -> Result<u32, ModelFolderError> {
        match self.get(field) {
            Some(_) => self.size(field, 1, most),
            None => Err(ModelFolderError::NoField { path: self.path.into(), field }),
        }
    }

    fn size(&self, field: &'static str, default: u32, most: u32) -> Result<u32, ModelFolderError> {
        self.number(field, default, 1..=most)
    }

    fn number(&self, field: &'static str, default: u32, range: RangeInclusive<u32>) -> Result<u32, ModelFolderError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|size| range.contains(size));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        number.ok_or_else(|| self.wrong(field, value, &expected()))
    }

    fn rate(&self, field: &'static str, default: f64) -> Result<f64, ModelFolderError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(field, value, "a number"))
    }

    fn only(&self, field: &'static str, allowed: &[&str], expected: &str) -> Result<(), ModelFolderError> {
        match self.get(field) {
            Some(value) if !allowed.iter().any(|allowed| value == *allowed) => Err(self.wrong(field, value, expected)),
            _ => Ok(()),
        }
    }

    fn off(&self, field: &'static str) -> Result<(), ModelFolderError> {
        match self.get(field) {
            Some(value) if *value != json!(false) => Err(self.wrong(field, value, "no such setting: an encoder")),
            _ => Ok(()),
        }
    }

    fn wrong(&self, field: &'static str, found: &Value, expected: &str) -> ModelFolderError {
        let found = found.to_string().chars().take(40).collect();
        ModelFolderError::Field { path: self.path.into(), field, found, expected: expected.to_owned() }
    }
}

/// `id2label` in class order; `None` if it is absent, odd or made of placeholders.
fn labels_of(raw: &Map<String, Value>) -> Option<LabelSet> {
    let names = raw.get("id2label")?.as_object()?;
    let ordered = (0..names.len()).map(|index| names.get(&index.to_string()).and_then(Value::as_str));
    let ordered: Vec<&str> = ordered.collect::<Option<_>>()?;
    if ordered.iter().any(|name| name.starts_with("LABEL_")) {
        return None;
    }
    LabelSet::new(ordered).ok()
}

#[cfg(test)]
#[path = "model_folder_test.rs"]
mod tests;
