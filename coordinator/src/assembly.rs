//! From what the flags say to a run that can start: finds the model, reads and encodes the rows, decides where
//! training starts. Everything that can be wrong with the input is found here, before a worker is asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use medley_common::example::Example;
use medley_common::identity::{Digest, Split, Update};
use medley_common::message::{Artifact, ArtifactKind, Failure, FailureKind};
use medley_common::model::ModelConfig;
use sha2::{Digest as _, Sha256};

use crate::archive::{
    self, ArchiveError, Checkpoint, Found, MODEL_FILES, ModelFile, OutputDir, Recipe, RunContents, SpaceNeed, Start,
    StartRequest,
};
use crate::dataset::encode::encode_pairs;
use crate::dataset::labels::LabelSet;
use crate::dataset::rows::{Labels, read_pairs};
use crate::dataset::sequence_limit::SequenceLimit;
use crate::hub::{self, environment::HubEnv, progress_bar::DownloadBar};
use crate::model_folder::{self, ModelFolder};
use crate::recorder::Setting;
use crate::run::{Job, Patience, SplitRows, TrainingJob};
use crate::service::Store;
use crate::spec::{Bound, Existing, InitialWeights, Machine, Note, PlanSummary, Resume, RunLength, RunSpec, Team};
use crate::tokenizer::WordPieceTokenizer;

/// Updates that workers may make ahead of the slowest one's report: enough to hide a round trip, few enough that a
/// stop comes at once.
const WINDOW: u64 = 4;

/// A run that can start.
#[derive(Debug)]
pub struct Assembly {
    /// What the run is asked to do.
    pub job: Job,
    /// What workers fetch.
    pub store: Store,
    /// The output folder, locked.
    pub output: OutputDir,
    /// What all checkpoints share; `None` where nothing is trained.
    pub contents: Option<RunContents>,
    /// What the recorder needs to know.
    pub setting: Setting,
    /// Who computes.
    pub team: Team,
    /// The plan, for people.
    pub summary: PlanSummary,
    /// What to tell before the run starts.
    pub notes: Vec<String>,
}

/// How this process was asked to run.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the flags say.
    pub spec: RunSpec,
    /// The words of the command line, for the run's record.
    pub command: Vec<String>,
    /// What the workers of this run share.
    pub secret: [u8; 32],
}

/// The model, and the rows of every split as token ids.
struct Inputs {
    folder: ModelFolder,
    model: ModelConfig,
    labels: LabelSet,
    splits: BTreeMap<Split, Vec<Example>>,
    files: Vec<ModelFile>,
    digests: BTreeMap<String, Digest>,
    notes: Vec<String>,
}

/// Where training starts.
struct Origin {
    resumed: Option<Checkpoint>,
    /// The folder holds this run, complete: only its results are asked for.
    complete: bool,
}

/// Reads everything that the request names and checks that it fits together. Blocks; changes nothing but the download
/// cache.
///
/// # Errors
/// The first thing that is wrong, with whose fault it is.
pub fn assemble(request: &Request) -> Result<Assembly, Failure> {
    let spec = &request.spec;
    spec.sources().check_files().map_err(data)?;
    let inputs = read_inputs(spec)?;
    let train_rows = inputs.splits.get(&Split::Train).map_or(0, |rows| rows.len() as u64);
    let bound = spec.bind(train_rows, &Machine::here()).map_err(config)?;
    let output = OutputDir::open(&spec.output().dir).map_err(archived)?;
    let mut notes: Vec<String> = bound.notes.iter().map(Note::to_string).collect();
    notes.extend(inputs.notes.iter().cloned());
    notes.extend(output.warning().map(|warning| format!("warning: {warning}")));
    let trains = spec.sources().train_file.is_some();
    let recipe = recipe(&bound, &inputs);
    let origin =
        if trains { origin(spec, &output, &recipe, &mut notes)? } else { Origin { resumed: None, complete: false } };
    let trains = trains && !origin.complete;
    if trains {
        output.preflight(&space_need(spec, &bound, &inputs, &origin), origin.resumed.as_ref()).map_err(archived)?;
    }
    let save_total_limit = spec.output().save_total_limit.and_then(std::num::NonZeroU32::new);
    let contents = trains.then(|| RunContents { recipe, model_files: inputs.files.clone(), save_total_limit });
    let (artifacts, store) = state_files(spec, &inputs, &origin, &output)?;
    let summary = bound.summary(spec, train_rows);
    let training = trains.then(|| inputs.splits.get(&Split::Train)).flatten();
    let start = origin.resumed.as_ref().map_or(Update(0), Checkpoint::update);
    let job = Job { artifacts, start, secret: request.secret, ..job(spec, &bound, &inputs, training) };
    let setting = setting(spec, &bound, &inputs, origin, &request.command);
    let examples = inputs.splits.into_iter().map(|(split, rows)| (split, Arc::new(rows))).collect();
    let store = Store { examples, artifacts: store };
    Ok(Assembly { job, store, output, contents, setting, team: bound.team, summary, notes })
}

fn read_inputs(spec: &RunSpec) -> Result<Inputs, Failure> {
    let sources = spec.sources();
    let environment = HubEnv::from_env();
    let mut bar = DownloadBar::new(environment.bars);
    let path = hub::resolve(&sources.model, &environment, &mut |transfer| bar.show(transfer)).map_err(data)?;
    let start = match sources.weights {
        InitialWeights::Pretrained => model_folder::Start::Pretrained,
        InitialWeights::Random => model_folder::Start::Scratch,
    };
    let folder = ModelFolder::open(&path, start).map_err(data)?;
    let labels = LabelSet::new(sources.labels.clone()).map_err(config)?;
    let model = folder.config(&labels);
    model.validate().map_err(data)?;
    let tokenizer = WordPieceTokenizer::load(&path, None).map_err(data)?;
    tokenizer.check_fits(model.vocab_size).map_err(data)?;
    let limit =
        SequenceLimit::new(sources.max_seq_length, &tokenizer, model.max_position_embeddings).map_err(config)?;
    let mut notes: Vec<String> = tokenizer.warnings().iter().map(|warning| format!("warning: {warning}")).collect();
    notes.extend(folder.warnings(&labels).iter().map(|warning| format!("warning: {warning}")));
    if limit.tokens() < sources.max_seq_length {
        let (tokens, asked) = (limit.tokens(), sources.max_seq_length);
        notes.push(format!("warning: the model takes {tokens} tokens, so pairs are cut there, not at {asked}"));
    }
    let (mut splits, mut digests) = (BTreeMap::new(), BTreeMap::new());
    for (split, _, file) in sources.files() {
        let need = if split == Split::Test { Labels::Optional } else { Labels::Required };
        let pairs = read_pairs(file, &labels, need).map_err(data)?;
        let encoded = encode_pairs(&tokenizer, &pairs.rows, limit).map_err(data)?;
        let name = file.display();
        let counts = [
            (pairs.no_consensus, "rows without an agreed label (\"-\") skipped"),
            (pairs.empty_sentences, "rows have an empty sentence"),
            (encoded.truncated, "rows cut to the maximal length"),
        ];
        notes.extend(
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("note: {name}: {count} {what}")),
        );
        digests.insert(format!("{split}_rows"), rows_digest(&encoded.examples));
        splits.insert(split, encoded.examples);
    }
    let files = model_files(&path, &folder, &labels)?;
    Ok(Inputs { folder, model, labels, splits, files, digests, notes })
}

/// The configuration and the tokenizer, as they go into every folder that the run writes.
fn model_files(path: &Path, folder: &ModelFolder, labels: &LabelSet) -> Result<Vec<ModelFile>, Failure> {
    let config = format!("{:#}\n", folder.export_config(labels));
    let mut files = vec![ModelFile::new(model_folder::CONFIG_FILE, config.into_bytes()).map_err(archived)?];
    let tokenizer_files =
        MODEL_FILES.into_iter().filter(|name| *name != model_folder::CONFIG_FILE && *name != "README.md");
    for name in tokenizer_files {
        match std::fs::read(path.join(name)) {
            Ok(bytes) => files.push(ModelFile::new(name, bytes).map_err(archived)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("read {}: {error}", path.join(name).display());
                return Err(Failure { kind: FailureKind::Data, message });
            }
        }
    }
    Ok(files)
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

fn recipe(bound: &Bound, inputs: &Inputs) -> Recipe {
    let rows = inputs.digests.get("train_rows").copied().unwrap_or(Digest([0; 32]));
    Recipe::new(&bound.train, &inputs.model, rows)
}

/// Decides where training starts; refuses what would lose or mix runs.
fn origin(spec: &RunSpec, output: &OutputDir, recipe: &Recipe, notes: &mut Vec<String>) -> Result<Origin, Failure> {
    let existing = match spec.output().existing {
        Existing::Keep => archive::Existing::Continue,
        Existing::Overwrite => archive::Existing::Overwrite,
    };
    let from = match &spec.output().resume {
        Resume::From(path) => Some(path.clone()),
        Resume::IfPresent | Resume::Latest | Resume::Never => None,
    };
    let Found { start, passed_over } = output.find_start(&StartRequest { existing, from }).map_err(archived)?;
    notes.extend(passed_over.iter().map(|passed| format!("warning: passed over {passed}")));
    let dir = spec.output().dir.display();
    match (start, &spec.output().resume) {
        (Start::Fresh, Resume::Latest) => {
            Err(refused(format!("{dir} holds no valid checkpoint; drop --resume_from_checkpoint to start afresh")))
        }
        (Start::Fresh, _) => Ok(Origin { resumed: None, complete: false }),
        (Start::Resume(_) | Start::Finished(_), Resume::Never) => Err(refused(format!(
            "{dir} holds an earlier run; use --overwrite_output_dir to replace it, or drop --resume_from_checkpoint \
             False to go on with it"
        ))),
        (Start::Resume(checkpoint), _) => {
            checkpoint.check_recipe(recipe).map_err(archived)?;
            notes.push(format!("resuming from {}", checkpoint.path().display()));
            Ok(Origin { resumed: Some(*checkpoint), complete: false })
        }
        (Start::Finished(record), _) => {
            let differences: Vec<String> = recipe.differences(&record.recipe).iter().map(ToString::to_string).collect();
            if !differences.is_empty() {
                return Err(refused(format!(
                    "{dir} holds a complete run of another recipe: {}; use --overwrite_output_dir to replace it",
                    differences.join(", ")
                )));
            }
            notes.push(format!("note: {dir} holds this run, complete: nothing is left to train"));
            Ok(Origin { resumed: None, complete: true })
        }
    }
}

/// The files that workers read the state from: as they are announced, and where they lie.
type StateFiles = (Vec<Artifact>, BTreeMap<ArtifactKind, std::path::PathBuf>);

fn state_files(spec: &RunSpec, inputs: &Inputs, origin: &Origin, output: &OutputDir) -> Result<StateFiles, Failure> {
    let mut files = BTreeMap::new();
    if let Some(checkpoint) = &origin.resumed {
        files.extend(checkpoint.artifacts().into_iter().map(|stored| (stored.artifact.kind, stored.path)));
    } else if origin.complete {
        files.insert(ArtifactKind::Weights, output.path().join(archive::WEIGHTS_FILE));
    } else if spec.sources().weights == InitialWeights::Pretrained {
        files.extend(inputs.folder.weights().map(|weights| (ArtifactKind::Weights, weights.path().to_owned())));
    }
    let mut artifacts = Vec::new();
    for (kind, path) in &files {
        let unreadable =
            |error| Failure { kind: FailureKind::Data, message: format!("read {}: {error}", path.display()) };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        artifacts.push(Artifact { kind: *kind, file_name, bytes });
    }
    Ok((artifacts, files))
}

fn job(spec: &RunSpec, bound: &Bound, inputs: &Inputs, training: Option<&Vec<Example>>) -> Job {
    let lengths = |rows: &Vec<Example>| rows.iter().map(|row| u32::try_from(row.len()).unwrap_or(u32::MAX)).collect();
    let rows = |split| {
        let rows: &Vec<Example> = inputs.splits.get(&split)?;
        Some(SplitRows { lengths: lengths(rows), labels: rows.iter().map(|row| row.label).collect() })
    };
    let placement = spec.placement();
    Job {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spec: bound.train.clone(),
        model: inputs.model.clone(),
        training: training.map(|rows| TrainingJob { lengths: lengths(rows), cadence: bound.cadence }),
        validation: rows(Split::Validation),
        test: rows(Split::Test),
        start: Update(0),
        artifacts: Vec::new(),
        workers: bound.team.workers,
        patience: Patience {
            join: placement.join_timeout,
            heartbeat: placement.heartbeat_timeout,
            heartbeat_every: (placement.heartbeat_timeout / 5).max(Duration::from_millis(20)),
            window: WINDOW,
        },
        secret: [0; 32],
    }
}

fn setting(spec: &RunSpec, bound: &Bound, inputs: &Inputs, origin: Origin, command: &[String]) -> Setting {
    let train_rows = inputs.splits.get(&Split::Train).map_or(0, |rows| rows.len() as u64);
    let flags = archive::JsonObject::from([("command".to_owned(), command.into())]);
    let recipe = spec.recipe();
    let num_train_epochs = match recipe.length {
        RunLength::Epochs(epochs) => epochs,
        RunLength::Updates(updates) => updates as f64 / bound.cadence.updates_per_epoch.max(1) as f64,
    };
    Setting {
        resumed: origin.resumed,
        cadence: archive::Cadence {
            max_steps: bound.cadence.total_updates,
            num_train_epochs,
            train_batch_size: recipe.per_device_train_batch_size,
            logging_steps: bound.cadence.logging.updates().unwrap_or(bound.cadence.updates_per_epoch),
            eval_steps: bound.cadence.evaluation.updates(),
            save_steps: bound.cadence.saving.updates(),
        },
        train_rows,
        eval_batch_rows: recipe.per_device_eval_batch_size,
        labels: inputs.labels.names().to_vec(),
        flags,
        inputs: inputs.digests.clone(),
    }
}

fn space_need(spec: &RunSpec, bound: &Bound, inputs: &Inputs, origin: &Origin) -> SpaceNeed {
    let done = origin.resumed.as_ref().map_or(0, |checkpoint| checkpoint.update().0);
    let saved = (1..=done).filter(|update| bound.cadence.saves_after(Update(*update))).count() as u64;
    SpaceNeed {
        parameter_bytes: 4 * parameters(&inputs.model),
        checkpoints: bound.cadence.checkpoints().saturating_sub(saved),
        save_total_limit: spec.output().save_total_limit.and_then(std::num::NonZeroU32::new),
    }
}

/// Parameters of a BERT classifier of this shape.
fn parameters(model: &ModelConfig) -> u64 {
    let size = u64::from;
    let (hidden, intermediate) = (size(model.hidden_size), size(model.intermediate_size));
    let embeddings = size(model.vocab_size) + size(model.max_position_embeddings) + size(model.type_vocab_size);
    let layer = 4 * hidden * (hidden + 1) + 2 * hidden * intermediate + intermediate + hidden + 4 * hidden;
    let head = hidden * (hidden + 1) + size(model.num_labels) * (hidden + 1);
    (embeddings + 2) * hidden + size(model.num_hidden_layers) * layer + head
}

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Config, message }
}

fn archived(error: ArchiveError) -> Failure {
    Failure { kind: error.kind(), message: error.to_string() }
}
