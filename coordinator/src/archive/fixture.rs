//! A tiny run for the archive's tests.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use medley_common::identity::{Digest, RowId, Update, WorkerId};
use medley_common::message::ArtifactKind;
use medley_common::model::{Family, ModelConfig};
use medley_common::save::Piece;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec, TuningSpec};
use tempfile::TempDir;

use super::*;
use crate::run::report::UpdateRecord;

pub(crate) const AGREED: Agreed = Agreed { layout: Digest([7; 32]), parameters: Digest([8; 32]) };

pub(crate) fn spec() -> TrainSpec {
    TrainSpec {
        seed: 42,
        data_seed: None,
        rows_per_update: 32,
        lanes: 8,
        schedule: LrSchedule { decay: Decay::linear(), peak: 3e-5, warmup_updates: 1755, total_updates: 3510 },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwHf,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
        },
        tuning: TuningSpec::default(),
        label_smoothing: 0.0,
        class_weights: Vec::new(),
        compute: ComputeSpec::default(),
    }
}

pub(crate) fn model() -> ModelConfig {
    ModelConfig {
        family: Family::Bert,
        vocab_size: 100,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 128,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 3,
    }
}

pub(crate) fn recipe() -> Recipe {
    Recipe::new(&spec(), &model(), Digest([3; 32]))
}

pub(crate) fn identity() -> RunIdentity {
    RunIdentity {
        criterion: None,
        cadence: None,
        version: "0.1.0".to_owned(),
        recipe: recipe(),
        train: spec(),
        lengths: (0..11_232).map(|row| 20 + row % 60).collect(),
        start: Update(0),
        measured: Vec::new(),
        command: ["medley", "train"].map(str::to_owned).to_vec(),
        folder: "/somewhere".into(),
    }
}

pub(crate) fn contents(limit: Option<u32>) -> RunContents {
    let file = |name, text: &str| ModelFile::new(name, text.as_bytes().to_vec()).unwrap();
    RunContents {
        identity: identity(),
        model_files: vec![file("config.json", "{}"), file("vocab.txt", "[PAD]\n")],
        save_total_limit: limit.and_then(NonZeroU32::new),
    }
}

pub(crate) fn cadence() -> Cadence {
    Cadence {
        max_steps: 3510,
        num_train_epochs: 10.0,
        train_batch_size: 16,
        logging_steps: 500,
        eval_steps: None,
        save_steps: Some(500),
    }
}

pub(crate) fn state(update: Update) -> TrainerState {
    let mut state = TrainerState::new(&cadence());
    state.advance(update, update.0 as f64 / 351.0, 1000);
    state
}

pub(crate) fn record(update: u64) -> UpdateRecord {
    UpdateRecord {
        update: Update(update),
        attempt: 1,
        epoch: update as f64 / 351.0,
        learning_rate: 3e-5 / 1755.0 * update as f64,
        loss: 1.1 / update as f64,
        grad_norm: 0.1 + 0.2,
        skipped: false,
        lanes: vec![vec![RowId(3), RowId(1)], vec![]],
        workers: vec![WorkerId(1), WorkerId(2)],
        tokens: 90,
        parameters: None,
    }
}

/// A run that writes.
pub(crate) struct Writing {
    pub(crate) archive: Archive,
    pub(crate) ledger: Ledger,
    pub(crate) removed: Vec<PathBuf>,
}

/// A fresh run in a new folder.
pub(crate) fn begun(limit: Option<u32>) -> (TempDir, Writing) {
    let folder = tempfile::tempdir().unwrap();
    let begun = begin(OutputDir::open(folder.path()).unwrap(), &Origin::Fresh, limit);
    (folder, begun)
}

/// A run in `output`.
pub(crate) fn begin(output: OutputDir, origin: &Origin, limit: Option<u32>) -> Writing {
    let archive = Archive::new(output, contents(limit));
    let Begun { ledger, removed, .. } = archive.begin(origin).unwrap();
    Writing { archive, ledger, removed }
}

/// A run in `folder` that goes on from its newest valid checkpoint: nobody holds a newer state.
pub(crate) fn resume(folder: &Path, limit: Option<u32>) -> Writing {
    let output = OutputDir::open(folder).unwrap();
    let Start::Ledger(unfinished) = output.find_start(&CONTINUE, &recipe()).unwrap().start else {
        panic!("no unfinished run in {}", folder.display())
    };
    let base = unfinished.checkpoint.as_ref().map_or(Update(0), Checkpoint::update);
    let mut begun = begin(output, &Origin::Ledger(unfinished), limit);
    if begun.ledger.last() > base {
        let rewind = RewindRecord { to: base, reason: "nobody holds it any more".to_owned() };
        begun.ledger.append(Record::Rewind(rewind)).unwrap();
        begun.removed.extend(begun.archive.clear_after(base).unwrap());
    }
    begun
}

/// The checkpoint of a run that is to go on after its ledger.
pub(crate) fn checkpoint_of(start: Start) -> Checkpoint {
    match start {
        Start::Ledger(unfinished) => unfinished.checkpoint.expect("a checkpoint"),
        other => panic!("{other:?}"),
    }
}

/// The newest valid checkpoint.
pub(crate) fn newest(folder: &Path) -> Checkpoint {
    Scan::of(folder).unwrap().newest.unwrap()
}

/// The weights after `update`.
pub(crate) fn weights(update: Update) -> Vec<u8> {
    format!("weights after {update}").into_bytes()
}

/// Waits for what passes soon.
pub(crate) fn patience() -> Patience {
    Patience::new(|_| {}, || false).brisk()
}

/// A staging that has received everything.
pub(crate) fn staged(archive: &Archive, update: Update) -> Staging {
    let staging = archive.stage((update, 2), &patience()).unwrap();
    receive(&staging, ArtifactKind::Weights, &weights(update)).unwrap();
    receive(&staging, ArtifactKind::Optimizer, b"two moments").unwrap();
    staging
}

/// Takes a file in, in the two pieces that [`staged`] asks for; what has arrived is not sent again.
pub(crate) fn receive(staging: &Staging, kind: ArtifactKind, bytes: &[u8]) -> Result<(), ArchiveError> {
    for index in [1, 0] {
        send(staging, kind, (Piece { index, count: 2 }, bytes))?;
    }
    Ok(())
}

/// Sends one piece of a file.
pub(crate) fn send(staging: &Staging, kind: ArtifactKind, (piece, bytes): (Piece, &[u8])) -> Result<(), ArchiveError> {
    let range = piece.range(bytes.len() as u64);
    let part = &bytes[range.start as usize..range.end as usize];
    let Some(mut place) = staging.piece(kind, piece, bytes.len() as u64)? else { return Ok(()) };
    part.chunks(4).try_for_each(|chunk| place.write(chunk))?;
    place.finish(FileRecord::of_bytes(part).sha256)
}

/// Records updates through `update` and saves after it.
pub(crate) fn saved(begun: &mut Writing, update: u64) -> Committed {
    trained(begun, update, &[]);
    let update = Update(update);
    let staging = staged(&begun.archive, update);
    begun.archive.commit(&mut begun.ledger, &staging, &AGREED, &state(update)).unwrap()
}

/// Records updates through `through` and saves after each of `saves`.
pub(crate) fn trained(begun: &mut Writing, through: u64, saves: &[u64]) {
    for update in begun.ledger.last().0 + 1..=through {
        begun.ledger.append(Record::Update(record(update))).unwrap();
        if saves.contains(&update) {
            saved(begun, update);
        }
    }
}

pub(crate) fn facts() -> RunFacts {
    let inputs = [("train_file".to_owned(), Digest([5; 32]))].into();
    let programs = [("medley".to_owned(), Digest([6; 32]))].into();
    RunFacts { epoch: 10.0, agreed: AGREED, best: None, inputs, programs }
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) const CONTINUE: StartRequest = StartRequest { existing: Existing::Continue, from: None };
pub(crate) const REPLACE: StartRequest = StartRequest { existing: Existing::Replace, from: None };
pub(crate) const DISCARD: StartRequest = StartRequest { existing: Existing::Discard, from: None };
