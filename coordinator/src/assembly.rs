//! From what the flags say to a run that can start: finds the model, reads and encodes the rows, decides where
//! training starts. Everything that can be wrong with the input is found here, before a worker is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use medley_common::example::Example;
use medley_common::identity::{Digest, Split, Update};
use medley_common::message::{Artifact, ArtifactKind, Failure, FailureKind};

use crate::archive::{
    self, ArchiveError, Checkpoint, Found, OutputDir, Recipe, Recovered, RunContents, RunIdentity, SpaceNeed, Start,
    StartRequest, recover_for,
};
use crate::inputs::{INITIAL_WEIGHTS, Inputs, file_digest};
use crate::launch::find_binary;
use crate::model_folder::CONFIG_FILE;
use crate::recorder::Setting;
use crate::run::{Job, Patience, SplitRows, TrainingJob};
use crate::service::Store;
use crate::spec::{
    Bound, Device, Existing, InitialWeights, Machine, Note, Output, PlanSummary, Resume, Role, RunLength, RunSpec, Team,
};

/// Updates that workers may make ahead of the slowest one's report: enough to hide a round trip, few enough that a
/// stop comes at once.
const WINDOW: u64 = 4;

/// Updates between two groups that are formed to share lanes by speed: many times what a new group costs.
const REBALANCE_EVERY: u64 = 20;

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
    /// The folder that its relative paths begin at.
    pub folder: PathBuf,
    /// The update after which it is to stop, other than by its recipe.
    pub until: Option<Update>,
    /// What the workers of this run share.
    pub secret: [u8; 32],
}

/// Where training starts.
struct Origin {
    resumed: Option<Checkpoint>,
    /// The ledger beside the checkpoint.
    recovered: Option<Recovered>,
    /// The folder holds this run, complete: only its results are asked for.
    complete: bool,
}

impl Origin {
    fn none(complete: bool) -> Self {
        Self { resumed: None, recovered: None, complete }
    }
}

/// Reads everything that the request names and checks that it fits together. Blocks; changes nothing but the download
/// cache.
///
/// # Errors
/// The first thing that is wrong, with whose fault it is.
pub fn assemble(request: &Request, machine: &Machine) -> Result<Assembly, Failure> {
    let spec = &request.spec;
    spec.sources().check_files().map_err(data)?;
    refuse_own_inputs(spec)?;
    let inputs = Inputs::read(spec)?;
    let train_rows = inputs.splits.get(&Split::Train).map_or(0, |rows| rows.len() as u64);
    let bound = spec.bind(train_rows, machine).map_err(config)?;
    refuse_own_model(spec, &inputs)?;
    let output = OutputDir::open(&spec.output().dir).map_err(archived)?;
    let mut notes: Vec<String> = bound.notes.iter().map(Note::to_string).collect();
    notes.extend(inputs.notes.iter().cloned());
    notes.extend(output.warning().map(|warning| format!("warning: {warning}")));
    let trains = spec.sources().train_file.is_some();
    let recipe = recipe(&bound, &inputs);
    let origin = if trains { origin(spec, &output, &recipe, &mut notes)? } else { Origin::none(false) };
    let trains = trains && !origin.complete;
    if trains {
        output.preflight(&space_need(spec, &bound, &inputs, &origin), origin.resumed.as_ref()).map_err(archived)?;
    }
    let save_total_limit = spec.output().save_total_limit.and_then(std::num::NonZeroU32::new);
    let identity = identity(request, &bound, &inputs, recipe);
    let contents = trains.then(|| RunContents { identity, model_files: inputs.files.clone(), save_total_limit });
    let (artifacts, store) = state_files(spec, &inputs, &origin, &output)?;
    let summary = bound.summary(spec, train_rows);
    let training = trains.then(|| inputs.splits.get(&Split::Train)).flatten();
    let start = origin.resumed.as_ref().map_or(Update(0), Checkpoint::update);
    let job = Job {
        artifacts,
        start,
        past_losses: past_losses(&origin),
        past_skipped: past_skipped(&origin),
        secret: request.secret,
        ..job(spec, &bound, &inputs, training)
    };
    let setting = Setting { until: request.until, ..setting(spec, &bound, &inputs, origin, programs(spec)?) };
    let examples = inputs.splits.into_iter().map(|(split, rows)| (split, Arc::new(rows))).collect();
    let files = store.into_iter().map(|(kind, path)| ((start, kind), path)).collect();
    let store = Store { examples, files };
    Ok(Assembly { job, store, output, contents, setting, team: bound.team, summary, notes })
}

/// A row file that the run itself would write over or remove is not an input to begin with.
fn refuse_own_inputs(spec: &RunSpec) -> Result<(), Failure> {
    let dir = &spec.output().dir;
    match spec.sources().files().find(|(_, _, file)| archive::may_replace(dir, file)) {
        None => Ok(()),
        Some((_, flag, file)) => Err(refused(format!(
            "{flag} {} lies in --output_dir {} under a name that Medley writes there, so the run would replace it; \
             move it, or name another --output_dir",
            file.display(),
            dir.display()
        ))),
    }
}

/// Training into the folder that the weights come from would replace them, and a checkpoint of an earlier run goes
/// when another run writes.
fn refuse_own_model(spec: &RunSpec, inputs: &Inputs) -> Result<(), Failure> {
    let dir = &spec.output().dir;
    if spec.sources().train_file.is_some() && archive::may_replace(dir, &inputs.folder.path().join(CONFIG_FILE)) {
        return Err(refused(format!(
            "--output_dir {} holds the model {} that training starts from, and would replace it; name another",
            dir.display(),
            inputs.folder.path().display()
        )));
    }
    Ok(())
}

fn recipe(bound: &Bound, inputs: &Inputs) -> Recipe {
    let rows = inputs.digests.get("train_rows").copied().unwrap_or(Digest([0; 32]));
    let weights = inputs.digests.get(INITIAL_WEIGHTS).map_or_else(|| "from scratch".to_owned(), Digest::to_string);
    Recipe::new(&bound.train, &inputs.model, rows).with(INITIAL_WEIGHTS, weights)
}

/// Decides where training starts; refuses what would lose or mix runs.
fn origin(spec: &RunSpec, output: &OutputDir, recipe: &Recipe, notes: &mut Vec<String>) -> Result<Origin, Failure> {
    let existing = match (spec.output().existing, &spec.output().resume) {
        (Existing::Keep, _) => archive::Existing::Continue,
        (Existing::Overwrite, Resume::Never) => archive::Existing::Discard,
        (Existing::Overwrite, _) => archive::Existing::Replace,
    };
    let from = match &spec.output().resume {
        Resume::From(path) => Some(path.clone()),
        Resume::IfPresent | Resume::Latest | Resume::Never => None,
    };
    let Found { start, passed_over } = output.find_start(&StartRequest { existing, from }, recipe).map_err(archived)?;
    notes.extend(passed_over.iter().map(|passed| format!("warning: passed over {passed}")));
    let dir = spec.output().dir.display();
    match (start, &spec.output().resume) {
        (Start::Fresh, Resume::Latest) => {
            Err(refused(format!("{dir} holds no valid checkpoint; drop --resume_from_checkpoint to start afresh")))
        }
        (Start::Fresh, _) => {
            let replaced = output.foreign_replaced().map_err(archived)?;
            if !replaced.is_empty() {
                notes.push(format!("note: {} in {dir} will be replaced", replaced.join(", ")));
            }
            Ok(Origin::none(false))
        }
        (Start::Resume(_) | Start::Finished(_), Resume::Never) => Err(refused(format!(
            "{dir} holds an earlier run; use --overwrite_output_dir to replace it, or drop --resume_from_checkpoint \
             False to go on with it"
        ))),
        (Start::Resume(checkpoint), _) => {
            checkpoint.check_recipe(recipe).map_err(archived)?;
            notes.extend(gone_on_with(spec, &checkpoint));
            notes.push(format!("resuming from {}", checkpoint.path().display()));
            // A damaged ledger is known before anything starts.
            let recovered = recover_for(&checkpoint).map_err(archived)?;
            Ok(Origin { resumed: Some(*checkpoint), recovered, complete: false })
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
            Ok(Origin::none(true))
        }
    }
}

/// The note on a run that is gone on with although the flags, read by the letter, ask for something else.
fn gone_on_with(spec: &RunSpec, checkpoint: &Checkpoint) -> Option<String> {
    let Output { dir, existing, resume, .. } = spec.output();
    let instead = match (existing, resume) {
        (_, Resume::From(other)) if !checkpoint.path().starts_with(other) => format!("not with {}", other.display()),
        (Existing::Overwrite, Resume::IfPresent) => {
            "to start afresh, add --resume_from_checkpoint False or name another --output_dir".to_owned()
        }
        _ => return None,
    };
    Some(format!("note: {} holds this very run, unfinished, so it is gone on with: {instead}", dir.display()))
}

/// The losses of the updates done, where the ledger beside the checkpoint has all of them.
fn past_losses(origin: &Origin) -> Vec<f64> {
    let through = origin.resumed.as_ref().map_or(Update(0), Checkpoint::update);
    let losses = origin.recovered.as_ref().and_then(|recovered| recovered.history.losses(through));
    losses.unwrap_or_default()
}

/// The updates done that moved no weight, as far as the ledger beside the checkpoint has them.
fn past_skipped(origin: &Origin) -> Vec<Update> {
    let through = origin.resumed.as_ref().map_or(Update(0), Checkpoint::update);
    let updates = origin.recovered.iter().flat_map(|recovered| recovered.history.updates());
    updates.filter(|past| past.skipped && past.update <= through).map(|past| past.update).collect()
}

/// What the first record of the ledger says.
fn identity(request: &Request, bound: &Bound, inputs: &Inputs, recipe: Recipe) -> RunIdentity {
    RunIdentity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recipe,
        train: bound.train.clone(),
        lengths: inputs.splits.get(&Split::Train).map_or_else(Vec::new, |rows| lengths(rows)),
        start: Update(0),
        command: request.command.clone(),
        folder: request.folder.clone(),
    }
}

fn lengths(rows: &[Example]) -> Vec<u32> {
    rows.iter().map(|row| u32::try_from(row.len()).unwrap_or(u32::MAX)).collect()
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
        past_losses: Vec::new(),
        past_skipped: Vec::new(),
        artifacts: Vec::new(),
        workers: bound.team.workers,
        on_gpus: bound.team.device == Device::Cuda,
        min_workers: placement.min_workers.min(bound.team.workers),
        rebalance: placement.rebalance.then_some(REBALANCE_EVERY),
        patience: Patience {
            join: placement.join_timeout,
            heartbeat: placement.heartbeat_timeout,
            heartbeat_every: (placement.heartbeat_timeout / 5).max(Duration::from_millis(20)),
            window: WINDOW,
        },
        secret: [0; 32],
    }
}

fn setting(
    spec: &RunSpec,
    bound: &Bound,
    inputs: &Inputs,
    origin: Origin,
    programs: BTreeMap<String, Digest>,
) -> Setting {
    let train_rows = inputs.splits.get(&Split::Train).map_or(0, |rows| rows.len() as u64);
    let recipe = spec.recipe();
    let num_train_epochs = match recipe.length {
        RunLength::Epochs(epochs) => epochs,
        RunLength::Updates(updates) => updates as f64 / bound.cadence.updates_per_epoch.max(1) as f64,
    };
    Setting {
        origin: match origin.resumed {
            Some(checkpoint) => archive::Origin::Checkpoint(Box::new(checkpoint)),
            None => archive::Origin::Fresh,
        },
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
        test_rows: inputs.test_rows.clone(),
        inputs: inputs.digests.clone(),
        programs,
        until: None,
    }
}

/// Digests of the programs that run on this machine.
fn programs(spec: &RunSpec) -> Result<BTreeMap<String, Digest>, Failure> {
    let own = std::env::current_exe().map_err(|error| data(&error))?;
    let mut programs = BTreeMap::from([("medley".to_owned(), file_digest(&own)?)]);
    if spec.placement().role == Role::Train {
        let worker = find_binary().map_err(config)?;
        programs.insert("medley-worker".to_owned(), file_digest(&worker)?);
        // What it becomes where there is a GPU.
        let cuda = worker.with_file_name("medley-worker-cuda");
        if cuda.is_file() {
            programs.insert("medley-worker-cuda".to_owned(), file_digest(&cuda)?);
        }
    }
    Ok(programs)
}

fn space_need(spec: &RunSpec, bound: &Bound, inputs: &Inputs, origin: &Origin) -> SpaceNeed {
    let done = origin.resumed.as_ref().map_or(0, |checkpoint| checkpoint.update().0);
    let saved = (1..=done).filter(|update| bound.cadence.saves_after(Update(*update))).count() as u64;
    SpaceNeed {
        parameter_bytes: 4 * inputs.model.parameters(),
        text_bytes: inputs.files.iter().map(|file| file.bytes().len() as u64).sum(),
        checkpoints: bound.cadence.checkpoints().saturating_sub(saved),
        save_total_limit: spec.output().save_total_limit.and_then(std::num::NonZeroU32::new),
        keeps_best: bound.cadence.evaluations() > 0,
    }
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
