//! What a run reads: the model's folder, and the rows of every split as token ids.

use std::collections::BTreeMap;
use std::path::Path;

use medley_common::example::Example;
use medley_common::identity::{Digest, Split};
use medley_common::message::{Failure, FailureKind};
use medley_common::model::ModelConfig;
use sha2::{Digest as _, Sha256};

use crate::archive::{CARD_FILE, MODEL_FILES, ModelFile, RowOrigin};
use crate::dataset::encode::encode_rows;
use crate::dataset::labels::LabelSet;
use crate::dataset::rows::{Labels, Row, read_labels, read_rows};
use crate::encoder::Encoder;
use crate::model_folder::{self, ModelFolder};
use crate::spec::{InitialWeights, LabelChoice, RunSpec, Sources};

/// The name of the initial weights' digest in the recipe and in the run's record.
pub const INITIAL_WEIGHTS: &str = "initial_weights_sha256";

/// The model, and the rows of every split as token ids.
#[derive(Debug)]
pub struct Inputs {
    /// The folder of the model.
    pub folder: ModelFolder,
    /// Its shape, with a classifier for the labels.
    pub model: ModelConfig,
    /// The labels, by id.
    pub labels: LabelSet,
    /// The rows of every split that is read.
    pub splits: BTreeMap<Split, Vec<Example>>,
    /// Where the test rows come from, by row id.
    pub test_rows: Vec<RowOrigin>,
    /// Configuration and tokenizer, as they go into every folder that the run writes.
    pub files: Vec<ModelFile>,
    /// Digests of the data files and their rows, of configuration and tokenizer, and of the initial weights.
    pub digests: BTreeMap<String, Digest>,
    /// What to tell before the run starts.
    pub notes: Vec<String>,
}

impl Inputs {
    /// Reads them. Blocks; changes nothing but the download cache.
    ///
    /// # Errors
    /// The first thing that is wrong, with whose fault it is.
    pub fn read(spec: &RunSpec) -> Result<Self, Failure> {
        let sources = spec.sources();
        let path = Encoder::locate(&sources.model, spec.output().console.shows_bars())?;
        let start = match sources.weights {
            InitialWeights::Pretrained => model_folder::Start::Pretrained,
            InitialWeights::Random => model_folder::Start::Scratch,
        };
        let folder = ModelFolder::open(&path, start).map_err(data)?;
        let labels = labels(sources, &folder)?;
        match sources.train_file {
            None => refuse_other_labels(&folder, &labels)?,
            Some(_) => refuse_another_size(&folder, &labels)?,
        }
        let encoder = Encoder::new(folder, labels, sources.max_seq_length)?;
        let cut = encoder.shortened(sources.max_seq_length);
        let Encoder { folder, model, labels, tokenizer, limit, notes: warnings } = encoder;
        let mut notes: Vec<String> = Vec::new();
        if sources.labels == LabelChoice::Auto {
            notes.push(format!("note: the labels found, by id: {}", shortened(labels.names())));
            if labels.index("-1").is_some() {
                let way_out = "where they are, leave them out, or write \"-\" there";
                notes.push(format!(
                    "warning: -1, which marks rows without a label elsewhere, is a label here; {way_out}"
                ));
            }
        }
        notes.extend(warnings);
        notes.extend(cut);
        let (mut splits, mut digests, mut test_rows) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (split, _, file) in sources.files() {
            let need = if split == Split::Test { Labels::Optional } else { Labels::Required };
            let read = read_rows(file, &sources.layout, &labels, need).map_err(data)?;
            let encoded = encode_rows(&tokenizer, &read.rows, limit).map_err(data)?;
            let name = file.display();
            let counts = [
                (read.no_consensus, "rows without an agreed label (\"-\") skipped"),
                (read.empty_sentences, "rows have an empty sentence"),
                (encoded.truncated, "rows cut to the maximal length"),
            ];
            notes.extend(
                counts
                    .iter()
                    .filter(|(count, _)| *count > 0)
                    .map(|(count, what)| format!("note: {name}: {count} {what}")),
            );
            digests.insert(format!("{split}_file"), file_digest(file)?);
            if split == Split::Test {
                let origin = |row: Row| RowOrigin { line: row.line, pair_id: row.pair_id };
                test_rows = read.rows.into_iter().map(origin).collect();
            }
            digests.insert(format!("{split}_rows"), rows_digest(&encoded.examples));
            splits.insert(split, encoded.examples);
        }
        if let Some(weights) = folder.weights().filter(|_| sources.train_file.is_some()) {
            digests.insert(INITIAL_WEIGHTS.to_owned(), file_digest(weights.path())?);
        }
        for name in MODEL_FILES.into_iter().filter(|name| path.join(name).is_file()) {
            digests.insert(name.to_owned(), file_digest(&path.join(name))?);
        }
        let files = model_files(&path, &folder, &labels)?;
        Ok(Self { folder, model, labels, splits, test_rows, files, digests, notes })
    }
}

/// The labels that are asked for, or those that are found.
fn labels(sources: &Sources, folder: &ModelFolder) -> Result<LabelSet, Failure> {
    match (&sources.labels, &sources.train_file) {
        (LabelChoice::Named(names), _) => LabelSet::new(names.iter().cloned()).map_err(config),
        (LabelChoice::Auto, Some(file)) => read_labels(file, &sources.layout).map_err(data),
        (LabelChoice::Auto, None) => folder.labels().cloned().ok_or_else(|| {
            let message =
                "--labels auto: there is no --train_file, and the model's config.json names no labels; list them";
            Failure { kind: FailureKind::Config, message: message.to_owned() }
        }),
    }
}

/// Without training, a classifier means what its own labels say: read in another order it would be wrong in silence.
fn refuse_other_labels(folder: &ModelFolder, labels: &LabelSet) -> Result<(), Failure> {
    match folder.labels().filter(|own| own.names() != labels.names()) {
        None => Ok(()),
        Some(own) => {
            let (own, wanted) = (own.names().join(","), labels.names().join(","));
            let message = format!("the model's labels are {own}, the run's {wanted}; give --labels {own}");
            Err(Failure { kind: FailureKind::Config, message })
        }
    }
}

/// A trained classifier cannot tell apart more labels than it has learnt, or fewer. Of an encoder alone, a classifier is drawn.
fn refuse_another_size(folder: &ModelFolder, labels: &LabelSet) -> Result<(), Failure> {
    let wanted = labels.names();
    let Some(own) = folder.trained_labels().map_err(data)?.filter(|own| *own != wanted.len()) else { return Ok(()) };
    let names = match folder.labels().filter(|labels| labels.names().len() == own) {
        Some(labels) => format!(" ({})", shortened(labels.names())),
        None => String::new(),
    };
    let message = format!(
        "the model's classifier tells {own} labels apart{names}, and the run has {} ({}); give --labels with as many, or \
         train from the model that it was made of, which has no classifier yet",
        wanted.len(),
        shortened(wanted)
    );
    Err(Failure { kind: FailureKind::Config, message })
}

/// Names in one line.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The configuration and the tokenizer, as they go into every folder that the run writes.
fn model_files(path: &Path, folder: &ModelFolder, labels: &LabelSet) -> Result<Vec<ModelFile>, Failure> {
    let config = format!("{:#}\n", folder.export_config(labels));
    let mut files = vec![ModelFile::new(model_folder::CONFIG_FILE, config.into_bytes()).map_err(data)?];
    let tokenizer_files =
        MODEL_FILES.into_iter().filter(|name| *name != model_folder::CONFIG_FILE && *name != CARD_FILE);
    for name in tokenizer_files {
        match std::fs::read(path.join(name)) {
            Ok(bytes) => files.push(ModelFile::new(name, bytes).map_err(data)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("read {}: {error}", path.join(name).display());
                return Err(Failure { kind: FailureKind::Data, message });
            }
        }
    }
    Ok(files)
}

/// SHA-256 of a file. Blocks.
///
/// # Errors
/// It cannot be read.
pub fn file_digest(path: &Path) -> Result<Digest, Failure> {
    let unreadable = |error| Failure { kind: FailureKind::Data, message: format!("read {}: {error}", path.display()) };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut chunk).map_err(unreadable)? {
            0 => return Ok(Digest(hash.finalize().into())),
            count => hash.update(&chunk[..count]),
        }
    }
}

/// A digest of the rows as the model sees them.
fn rows_digest(rows: &[Example]) -> Digest {
    let mut hash = Sha256::new();
    for row in rows {
        hash.update((row.tokens.len() as u64).to_le_bytes());
        row.tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        hash.update(row.first_segment.to_le_bytes());
        hash.update(row.label.map_or(u32::MAX, |label| label).to_le_bytes());
    }
    Digest(hash.finalize().into())
}

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}
