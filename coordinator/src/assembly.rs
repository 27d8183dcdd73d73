//! From what the flags say to a run that can start: finds the model, reads and encodes the rows, decides where
//! training starts. Everything that can be wrong with the input is found here, before a worker is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use medley_common::example::Example;
use medley_common::identity::{Digest, Split, Update, WorkerId};
use medley_common::message::{Artifact, ArtifactKind, Failure, FailureKind};
use medley_common::secret::Secret;

use crate::archive::{self, History, OutputDir, Recipe, RunContents, RunIdentity};
use crate::dataset::labels::LabelSet;
use crate::display::Display;
use crate::inputs::{Inputs, file_digest};
use crate::launch::find_binary;
use crate::live::Live;
use crate::origin::Origin;
use crate::recorder::{Keeper, Recorder, Setting};
use crate::run::report::TrainLog;
use crate::run::{Base, Job, Past, Patience, SplitRows, TrainingJob};
use crate::service::Store;
use crate::spec::{
    Bound, Device, InitialWeights, Machine, Placement, PlanSummary, Role, RunLength, RunSpec, Sources, Team,
};
use crate::survey::Survey;
use crate::tracker::{Subject, Tracking};

/// Updates that workers may make ahead of the slowest one's report: enough to hide a round trip, few enough that a
/// stop comes at once.
const WINDOW: u64 = 4;

/// Updates between two groups that are formed to share lanes by speed: many times what a new group costs.
const REBALANCE_EVERY: u64 = 20;

/// Lines of the plan that name files.
const NAMES_FILES: [&str; 4] = ["model", "evaluation", "prediction", "output"];

/// A run that can start.
#[derive(Debug)]
pub struct Assembly {
    /// What the run is asked to do.
    pub job: Job,
    /// What workers fetch.
    pub store: Store,
    /// Who takes in what the run produces.
    pub keeper: Box<dyn Keeper>,
    /// The output folder; empty where there is none.
    pub folder: PathBuf,
    /// The lines of the training log that were written before this process.
    pub log: Vec<TrainLog>,
    /// What who watches in a browser is shown of it.
    pub live: Live,
    /// The last worker that has computed for this run; later ones are numbered after it.
    pub last_worker: WorkerId,
    /// Who computes.
    pub team: Team,
    /// The plan; `None` where there is none to tell of.
    pub summary: Option<PlanSummary>,
    /// What to tell before the run starts.
    pub notes: Vec<String>,
    /// Whether the folder holds this run, trained: only results are asked for.
    pub is_complete: bool,
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
    pub secret: Secret,
    /// Where it tells how it goes.
    pub display: Display,
}

/// Reads everything that the request names and checks that it fits together. Blocks; changes nothing but the download
/// cache.
///
/// # Errors
/// The first thing that is wrong, with whose fault it is.
pub fn assemble(request: &Request, machine: &Machine) -> Result<Assembly, Failure> {
    let spec = &request.spec;
    let Survey { inputs, bound, output, notes, recipe, origin, trains, train_rows, .. } =
        Survey::of(spec, machine, OutputDir::open)?;
    let complete = origin.complete;
    let save_total_limit = spec.output().save_total_limit.and_then(std::num::NonZeroU32::new);
    let (start, measured) = (origin.start(), origin.measured_before(spec.criterion()));
    let identity = RunIdentity { start, measured, ..identity(request, &bound, &inputs, recipe) };
    let known = origin.recovered.as_ref().map(|recovered| &recovered.history);
    let run = known.map_or(&identity, |history| history.identity()).digest();
    let tracking = tracking(spec, &inputs.labels, (run, &identity))?;
    let log = known.map(History::log).unwrap_or_default();
    let last_worker = known.map(|history| last_name(history, output.times_opened())).unwrap_or_default();
    let (artifacts, store) = state_files(spec, &inputs, &origin, &output)?;
    let summary = bound.summary(spec, train_rows, &inputs.model);
    let plan = summary.lines().filter(|(name, _)| !NAMES_FILES.contains(name));
    let live = Live::new(plan, inputs.labels.names(), known, shown_through(spec, &origin));
    let training = trains.then(|| inputs.splits.get(&Split::Train)).flatten();
    let base = Base { update: origin.start(), artifacts };
    let files = store.into_iter().map(|(kind, path)| ((base.update, kind), path)).collect();
    let asked = Asked {
        run,
        past: if trains { origin.past(spec.criterion()) } else { Past::default() },
        base,
        secret: request.secret,
    };
    let job = job(spec, &bound, &inputs, training, asked);
    let lost = complete.filter(|_| origin.recovered.is_none());
    let lost = lost.map(|start| Box::new(RunIdentity { start, ..identity.clone() }));
    let contents = trains.then(|| RunContents { identity, model_files: inputs.files.clone(), save_total_limit });
    let setting =
        Setting { until: request.until, lost, tracking, ..setting(spec, &bound, &inputs, origin, programs(spec)?) };
    let examples = inputs.splits.into_iter().map(|(split, rows)| (split, Arc::new(rows))).collect();
    let store = Store { examples, files };
    let team = bound.team;
    Ok(Assembly {
        job,
        store,
        folder: output.path().to_owned(),
        keeper: Box::new(Recorder { output, contents, setting }),
        log,
        live,
        last_worker,
        team,
        summary: Some(summary),
        notes,
        is_complete: complete.is_some(),
    })
}

/// The last update that what was done before is in effect through.
fn shown_through(spec: &RunSpec, origin: &Origin) -> Update {
    match origin.complete {
        Some(update) => update,
        None => origin.past(spec.criterion()).update,
    }
}

/// The last name that a coordinator of this run may have given. The ledger does not have those of sessions in which no
/// group stood, and a worker that comes back tells its names: so each coordinator begins another thousand.
fn last_name(history: &History, coordinators: u64) -> WorkerId {
    history.last_worker().max(WorkerId(1_000 * coordinators))
}

/// What the first record of the ledger says.
fn identity(request: &Request, bound: &Bound, inputs: &Inputs, recipe: Recipe) -> RunIdentity {
    RunIdentity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recipe,
        train: bound.train.clone(),
        lengths: inputs.splits.get(&Split::Train).map_or_else(Vec::new, |rows| lengths(rows)),
        criterion: request.spec.criterion().cloned(),
        cadence: request.spec.criterion().map(|_| bound.cadence),
        start: Update(0),
        measured: Vec::new(),
        command: request.command.clone(),
        folder: request.folder.clone(),
    }
}

/// The trackers of a run, which are told what decides its weights and where its rows come from.
fn tracking(spec: &RunSpec, labels: &LabelSet, (run, identity): (Digest, &RunIdentity)) -> Result<Tracking, Failure> {
    let mut settings = identity.recipe.fields().clone();
    let Sources { model, max_seq_length, .. } = spec.sources();
    settings.insert("medley".to_owned(), identity.version.clone().into());
    settings.insert("model_name_or_path".to_owned(), model.clone().into());
    settings.insert("labels".to_owned(), labels.names().join(",").into());
    settings.insert("max_seq_length".to_owned(), (*max_seq_length).into());
    let files = spec.sources().files().map(|(_, flag, file)| (flag, file.display().to_string().into()));
    settings.extend(files.map(|(flag, file)| (flag.trim_start_matches('-').to_owned(), file)));
    let asked = spec.tracking();
    let (name, logging_dir) = (asked.run_name.clone(), asked.logging_dir.clone());
    let subject = Subject { run, name, logging_dir, output_dir: spec.output().dir.clone(), settings };
    Tracking::open(&asked.trackers, subject).map_err(|message| Failure { kind: FailureKind::Config, message })
}

fn labels(rows: &[Example]) -> Vec<Option<u32>> {
    rows.iter().map(|row| row.label).collect()
}

fn lengths(rows: &[Example]) -> Vec<u32> {
    rows.iter().map(|row| u32::try_from(row.len()).unwrap_or(u32::MAX)).collect()
}

/// The files that workers read the state from: as they are announced, and where they lie.
type StateFiles = (Vec<Artifact>, BTreeMap<ArtifactKind, PathBuf>);

fn state_files(spec: &RunSpec, inputs: &Inputs, origin: &Origin, output: &OutputDir) -> Result<StateFiles, Failure> {
    let mut files = BTreeMap::new();
    if let Some(checkpoint) = origin.checkpoint() {
        files.extend(checkpoint.artifacts().into_iter().map(|stored| (stored.artifact.kind, stored.path)));
    } else if origin.complete.is_some() {
        files.insert(ArtifactKind::Weights, output.path().join(archive::WEIGHTS_FILE));
    } else if spec.sources().weights == InitialWeights::Pretrained {
        files.extend(inputs.folder.weights().map(|weights| (ArtifactKind::Weights, weights.path().to_owned())));
    }
    Ok((artifacts(&files, inputs.model.parameters())?, files))
}

/// How workers are told of files of the state of a model with so many parameters.
///
/// # Errors
/// A file is not there, or is not that of such a model.
pub fn artifacts(files: &BTreeMap<ArtifactKind, PathBuf>, parameters: u64) -> Result<Vec<Artifact>, Failure> {
    let mut artifacts = Vec::new();
    for (kind, path) in files {
        let unreadable =
            |error| Failure { kind: FailureKind::Data, message: format!("read {}: {error}", path.display()) };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        let most = most_state_bytes(parameters);
        if bytes > most {
            let message = format!(
                "{} has {bytes} bytes; expected {most} at most for a model of {parameters} parameters: it is not that of \
                 config.json",
                path.display()
            );
            return Err(Failure { kind: FailureKind::Data, message });
        }
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        artifacts.push(Artifact { kind: *kind, file_name, bytes });
    }
    Ok(artifacts)
}

/// The largest file of weights or moments that workers are to take into memory: parameters, gradients and moments in
/// float32, and the heads of pre-training on top.
fn most_state_bytes(parameters: u64) -> u64 {
    const HEADS_BYTES: u64 = 256 << 20;
    parameters.saturating_mul(16).saturating_add(HEADS_BYTES)
}

/// What a job is made of beside what the flags and the inputs say.
struct Asked {
    run: Digest,
    past: Past,
    base: Base,
    secret: Secret,
}

fn job(spec: &RunSpec, bound: &Bound, inputs: &Inputs, training: Option<&Vec<Example>>, asked: Asked) -> Job {
    let rows = |split| {
        let rows: &Vec<Example> = inputs.splits.get(&split)?;
        Some(SplitRows { lengths: lengths(rows), labels: labels(rows), examples: Vec::new() })
    };
    let placement = spec.placement();
    Job {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        run: asked.run,
        spec: bound.train.clone(),
        model: inputs.model.clone(),
        training: training.map(|rows| TrainingJob {
            lengths: lengths(rows),
            labels: labels(rows),
            cadence: bound.cadence,
            criterion: spec.criterion().cloned(),
        }),
        validation: rows(Split::Validation),
        test: rows(Split::Test),
        is_stream: false,
        labels: inputs.labels.names().to_vec(),
        past: asked.past,
        base: asked.base,
        workers: bound.team.workers,
        on_gpus: bound.team.device == Device::Cuda,
        min_workers: placement.min_workers.min(bound.team.workers),
        rebalance: placement.rebalance.then_some(REBALANCE_EVERY),
        shard_optimizer_state: placement.shard_optimizer_state,
        patience: patience(placement),
        secret: asked.secret,
    }
}

/// How long a run waits for what.
#[must_use]
pub fn patience(placement: &Placement) -> Patience {
    Patience {
        join: placement.join_timeout,
        heartbeat: placement.heartbeat_timeout,
        // Local workers end with their launcher.
        reattach: if placement.role == Role::Serve { placement.heartbeat_timeout } else { Duration::ZERO },
        heartbeat_every: (placement.heartbeat_timeout / 5).max(Duration::from_millis(20)),
        window: WINDOW,
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
        origin: origin.place,
        cadence: archive::Cadence {
            max_steps: bound.cadence.total_updates,
            num_train_epochs,
            train_batch_size: recipe.per_device_train_batch_size,
            logging_steps: bound.cadence.logging.updates().unwrap_or(bound.cadence.updates_per_epoch),
            eval_steps: bound.cadence.evaluation.updates(),
            save_steps: bound.cadence.saving.updates(),
        },
        train_rows,
        trained_parameters: bound
            .train
            .tuning
            .frozen_layers
            .map(|layers| inputs.model.trained_parameters(Some(layers))),
        eval_batch_rows: recipe.per_device_eval_batch_size,
        labels: inputs.labels.names().to_vec(),
        test_rows: inputs.test_rows.clone(),
        inputs: inputs.digests.clone(),
        programs,
        lost: None,
        until: None,
        tracking: Tracking::default(),
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

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}
