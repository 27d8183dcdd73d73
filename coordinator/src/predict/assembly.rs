//! From what `medley predict` was asked to a run that can start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use medley_common::identity::{Digest, Update, WorkerId};
use medley_common::message::{ArtifactKind, Failure, FailureKind};
use sha2::{Digest as _, Sha256};

use super::desk::Desk;
use super::feed::Feed;
use super::reading::Reading;
use super::{Asked, TrainedModel};
use crate::archive::{LEDGER_FILE, checkpoints_of};
use crate::assembly::{Assembly, artifacts, patience};
use crate::encoder::Encoder;
use crate::live::Live;
use crate::model_folder::{CONFIG_FILE, ModelFolder, Start};
use crate::run::{Base, Job, Past};
use crate::run_sources::run_sources;
use crate::service::Store;
use crate::spec::{Device, Machine, Note};
use crate::sweep::refuse_sweep;

/// Reads the model, and opens the rows. Blocks; changes nothing but the download cache.
///
/// # Errors
/// The first thing that is wrong, with whose fault it is.
pub(super) fn assemble(asked: Asked, machine: &Machine) -> Result<Assembly, Failure> {
    let Asked { model: TrainedModel { spec, max_seq_length, columns }, source, need, sink, secret } = asked;
    let path = Encoder::locate(&spec.sources().model, true)?;
    if let Some(message) = no_model_yet(&path) {
        return Err(Failure { kind: FailureKind::Data, message });
    }
    let folder = ModelFolder::open(&path, Start::Pretrained).map_err(data)?;
    let labels = folder.classifier_labels().map_err(data)?;
    folder.check_head().map_err(data)?;
    let made = run_sources(&path);
    let reading = Reading::new(columns, made.as_ref())?;
    let length = max_seq_length.or(made.map(|made| made.max_seq_length)).unwrap_or(spec.sources().max_seq_length);
    let encoder = Encoder::new(folder, labels, length)?;
    let bound = spec.bind(0, machine).map_err(config)?;
    let mut notes: Vec<String> = bound.notes.iter().map(Note::to_string).collect();
    notes.extend(encoder.notes.iter().cloned());
    // What the run itself did without is no news.
    notes.extend(max_seq_length.and_then(|asked| encoder.shortened(asked)));
    let weights = encoder.folder.weights().map(|weights| (ArtifactKind::Weights, weights.path().to_owned()));
    let files: BTreeMap<ArtifactKind, PathBuf> = weights.into_iter().collect();
    let base = Base { update: Update(0), artifacts: artifacts(&files, encoder.model.parameters())? };
    let files = files.into_iter().map(|(kind, path)| ((base.update, kind), path)).collect();
    let placement = spec.placement();
    let job = Job {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // Nobody comes back to it, and no other is like it.
        run: Digest(Sha256::new().chain_update("run").chain_update(secret.0).finalize().into()),
        spec: bound.train.clone(),
        model: encoder.model.clone(),
        training: None,
        validation: None,
        test: None,
        is_stream: true,
        labels: encoder.labels.names().to_vec(),
        past: Past::default(),
        base,
        workers: bound.team.workers,
        on_gpus: bound.team.device == Device::Cuda,
        min_workers: placement.min_workers.min(bound.team.workers),
        rebalance: None,
        shard_optimizer_state: false,
        patience: patience(placement),
        secret,
    };
    let names = job.labels.clone();
    let feed = Feed::open(source, encoder, (reading, need))?;
    Ok(Assembly {
        job,
        store: Store { examples: BTreeMap::new(), files },
        keeper: Box::new(Desk { feed, sink, names }),
        folder: PathBuf::new(),
        log: Vec::new(),
        live: Live::default(),
        last_worker: WorkerId::default(),
        team: bound.team,
        summary: None,
        notes,
        is_complete: false,
    })
}

/// What a folder of Medley's is that has no model, or not yet, and where one is.
fn no_model_yet(folder: &Path) -> Option<String> {
    if folder.join(CONFIG_FILE).exists() {
        return None;
    }
    if let Err(error) = refuse_sweep(folder) {
        return Some(error.to_string());
    }
    let shown = folder.display();
    if !folder.join(LEDGER_FILE).exists() {
        return None;
    }
    let newest =
        checkpoints_of(folder).ok().and_then(|all| all.last().map(|path| format!(", or name {}", path.display())));
    let checkpoint = newest.unwrap_or_default();
    Some(format!("{shown} is a run that is not complete: give its command again{checkpoint}"))
}

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}
