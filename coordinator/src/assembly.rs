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

use crate::archive::{self, ArchiveError, History, OutputDir, Recipe, RunContents, RunIdentity, SpaceNeed};
use crate::inputs::{INITIAL_WEIGHTS, Inputs, file_digest};
use crate::launch::find_binary;
use crate::model_folder::CONFIG_FILE;
use crate::origin::Origin;
use crate::recorder::Setting;
use crate::run::report::TrainLog;
use crate::run::{Base, Job, Past, Patience, SplitRows, TrainingJob};
use crate::service::Store;
use crate::spec::{Bound, Device, InitialWeights, Machine, Note, PlanSummary, Role, RunLength, RunSpec, Team};

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
    /// The lines of the training log that were written before this process.
    pub log: Vec<TrainLog>,
    /// The last worker that has computed for this run; later ones are numbered after it.
    pub last_worker: WorkerId,
    /// Who computes.
    pub team: Team,
    /// The plan, for people.
    pub summary: PlanSummary,
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
    let labels = inputs.splits.get(&Split::Train).map_or_else(Vec::new, |rows| labels(rows));
    let bound = spec.bind(train_rows, machine).and_then(|bound| bound.on(spec, &inputs.model, &labels));
    let bound = bound.map_err(config)?;
    refuse_own_model(spec, &inputs)?;
    let output = OutputDir::open(&spec.output().dir).map_err(archived)?;
    let mut notes: Vec<String> = bound.notes.iter().map(Note::to_string).collect();
    notes.extend(inputs.notes.iter().cloned());
    notes.extend(output.warning().map(|warning| format!("warning: {warning}")));
    let trains = spec.sources().train_file.is_some();
    let recipe = recipe(&bound, &inputs);
    let origin = if trains { Origin::find(spec, &output, &recipe, &mut notes)? } else { Origin::fresh() };
    let complete = origin.complete;
    let trains = trains && complete.is_none();
    if trains {
        output.preflight(&space_need(spec, &bound, &inputs, &origin), origin.checkpoint()).map_err(archived)?;
    }
    let save_total_limit = spec.output().save_total_limit.and_then(std::num::NonZeroU32::new);
    let identity = RunIdentity { start: origin.start(), ..identity(request, &bound, &inputs, recipe) };
    let known = origin.recovered.as_ref().map(|recovered| &recovered.history);
    let run = known.map_or(&identity, |history| history.identity()).digest();
    let log = known.map(History::log).unwrap_or_default();
    let last_worker = known.map(|history| last_name(history, output.times_opened())).unwrap_or_default();
    let (artifacts, store) = state_files(spec, &inputs, &origin, &output)?;
    let summary = bound.summary(spec, train_rows, &inputs.model);
    let training = trains.then(|| inputs.splits.get(&Split::Train)).flatten();
    let base = Base { update: origin.start(), artifacts };
    let files = store.into_iter().map(|(kind, path)| ((base.update, kind), path)).collect();
    let asked = Asked { run, past: if trains { origin.past() } else { Past::default() }, base, secret: request.secret };
    let job = job(spec, &bound, &inputs, training, asked);
    let lost = complete.filter(|_| origin.recovered.is_none());
    let lost = lost.map(|start| Box::new(RunIdentity { start, ..identity.clone() }));
    let contents = trains.then(|| RunContents { identity, model_files: inputs.files.clone(), save_total_limit });
    let setting = Setting { until: request.until, lost, ..setting(spec, &bound, &inputs, origin, programs(spec)?) };
    let examples = inputs.splits.into_iter().map(|(split, rows)| (split, Arc::new(rows))).collect();
    let store = Store { examples, files };
    let team = bound.team;
    Ok(Assembly {
        job,
        store,
        output,
        contents,
        setting,
        log,
        last_worker,
        team,
        summary,
        notes,
        is_complete: complete.is_some(),
    })
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

/// The last name that a coordinator of this run may have given. The ledger does not have those of sessions in which no
/// group stood, and a worker that comes back tells its names: so each coordinator begins another thousand.
fn last_name(history: &History, coordinators: u64) -> WorkerId {
    history.last_worker().max(WorkerId(1_000 * coordinators))
}

fn recipe(bound: &Bound, inputs: &Inputs) -> Recipe {
    let rows = inputs.digests.get("train_rows").copied().unwrap_or(Digest([0; 32]));
    let weights = inputs.digests.get(INITIAL_WEIGHTS).map_or_else(|| "from scratch".to_owned(), Digest::to_string);
    Recipe::new(&bound.train, &inputs.model, rows).with(INITIAL_WEIGHTS, weights)
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

fn labels(rows: &[Example]) -> Vec<Option<u32>> {
    rows.iter().map(|row| row.label).collect()
}

fn lengths(rows: &[Example]) -> Vec<u32> {
    rows.iter().map(|row| u32::try_from(row.len()).unwrap_or(u32::MAX)).collect()
}

/// The files that workers read the state from: as they are announced, and where they lie.
type StateFiles = (Vec<Artifact>, BTreeMap<ArtifactKind, std::path::PathBuf>);

fn state_files(spec: &RunSpec, inputs: &Inputs, origin: &Origin, output: &OutputDir) -> Result<StateFiles, Failure> {
    let mut files = BTreeMap::new();
    if let Some(checkpoint) = origin.checkpoint() {
        files.extend(checkpoint.artifacts().into_iter().map(|stored| (stored.artifact.kind, stored.path)));
    } else if origin.complete.is_some() {
        files.insert(ArtifactKind::Weights, output.path().join(archive::WEIGHTS_FILE));
    } else if spec.sources().weights == InitialWeights::Pretrained {
        files.extend(inputs.folder.weights().map(|weights| (ArtifactKind::Weights, weights.path().to_owned())));
    }
    let mut artifacts = Vec::new();
    for (kind, path) in &files {
        let unreadable =
            |error| Failure { kind: FailureKind::Data, message: format!("read {}: {error}", path.display()) };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        let most = most_state_bytes(inputs.model.parameters());
        if bytes > most {
            let message = format!(
                "{} has {bytes} bytes; expected {most} at most for a model of {} parameters: it is not that of config.json",
                path.display(),
                inputs.model.parameters()
            );
            return Err(Failure { kind: FailureKind::Data, message });
        }
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        artifacts.push(Artifact { kind: *kind, file_name, bytes });
    }
    Ok((artifacts, files))
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
        Some(SplitRows { lengths: lengths(rows), labels: labels(rows) })
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
        }),
        validation: rows(Split::Validation),
        test: rows(Split::Test),
        past: asked.past,
        base: asked.base,
        workers: bound.team.workers,
        on_gpus: bound.team.device == Device::Cuda,
        min_workers: placement.min_workers.min(bound.team.workers),
        rebalance: placement.rebalance.then_some(REBALANCE_EVERY),
        patience: Patience {
            join: placement.join_timeout,
            heartbeat: placement.heartbeat_timeout,
            // Local workers end with their launcher.
            reattach: if placement.role == Role::Serve { placement.heartbeat_timeout } else { Duration::ZERO },
            heartbeat_every: (placement.heartbeat_timeout / 5).max(Duration::from_millis(20)),
            window: WINDOW,
        },
        secret: asked.secret,
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
    let done = origin.start().0;
    let saved = (1..=done).filter(|update| bound.cadence.saves_after(Update(*update))).count() as u64;
    SpaceNeed {
        parameter_bytes: 4 * inputs.model.parameters(),
        optimizer_bytes: 4 * inputs.model.parameters() * bound.train.optimizer.kind.memory().len() as u64,
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
