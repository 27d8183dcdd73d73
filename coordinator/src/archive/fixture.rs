//! A tiny run for the archive's tests.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use medley_common::identity::{Digest, RowId, Update, WorkerId};
use medley_common::message::ArtifactKind;
use medley_common::model::ModelConfig;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec};
use tempfile::TempDir;

use super::*;
use crate::run::report::UpdateRecord;

pub(super) const AGREED: Agreed = Agreed { layout: Digest([7; 32]), parameters: Digest([8; 32]) };

pub(super) fn spec() -> TrainSpec {
    TrainSpec {
        seed: 42,
        rows_per_update: 32,
        lanes: 8,
        schedule: LrSchedule { decay: Decay::Linear, peak: 3e-5, warmup_updates: 1755, total_updates: 3510 },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwHf,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
        },
        label_smoothing: 0.0,
        compute: ComputeSpec::default(),
    }
}

pub(super) fn model() -> ModelConfig {
    ModelConfig {
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

pub(super) fn recipe() -> Recipe {
    Recipe::new(&spec(), &model(), Digest([3; 32]))
}

pub(super) fn contents(limit: Option<u32>) -> RunContents {
    let file = |name, text: &str| ModelFile::new(name, text.as_bytes().to_vec()).unwrap();
    RunContents {
        recipe: recipe(),
        model_files: vec![file("config.json", "{}"), file("vocab.txt", "[PAD]\n")],
        save_total_limit: limit.and_then(NonZeroU32::new),
    }
}

pub(super) fn cadence() -> Cadence {
    Cadence {
        max_steps: 3510,
        num_train_epochs: 10.0,
        train_batch_size: 16,
        logging_steps: 500,
        eval_steps: None,
        save_steps: Some(500),
    }
}

pub(super) fn state(update: Update) -> TrainerState {
    let mut state = TrainerState::new(&cadence());
    state.advance(update, update.0 as f64 / 351.0, 1000);
    state
}

pub(super) fn record(update: u64) -> UpdateRecord {
    UpdateRecord {
        update: Update(update),
        epoch: update as f64 / 351.0,
        learning_rate: 3e-5 / 1755.0 * update as f64,
        loss: 1.1 / update as f64,
        grad_norm: 0.1 + 0.2,
        lanes: vec![vec![RowId(3), RowId(1)], vec![]],
        workers: vec![WorkerId(1), WorkerId(2)],
        attempt: 1,
        tokens: 90,
    }
}

/// A fresh run in a new folder.
pub(super) fn begun(limit: Option<u32>) -> (TempDir, Begun) {
    let folder = tempfile::tempdir().unwrap();
    let begun = Archive::begin(OutputDir::open(folder.path()).unwrap(), None, contents(limit)).unwrap();
    (folder, begun)
}

/// The weights after `update`.
pub(super) fn weights(update: Update) -> Vec<u8> {
    format!("weights after {update}").into_bytes()
}

/// A staging that has received everything.
pub(super) fn staged(archive: &Archive, update: Update) -> Staging {
    let mut staging = archive.stage(update).unwrap();
    for (kind, bytes) in [(ArtifactKind::Weights, weights(update)), (ArtifactKind::Optimizer, b"two moments".to_vec())]
    {
        let mut file = staging.file(kind, bytes.len() as u64).unwrap();
        bytes.chunks(4).for_each(|chunk| file.write(chunk).unwrap());
        staging.accept(file.finish().unwrap()).unwrap();
    }
    staging
}

pub(super) fn saved(archive: &Archive, update: u64) -> Committed {
    let update = Update(update);
    archive.commit(&staged(archive, update), &AGREED, &state(update)).unwrap()
}

/// Records updates `1..=through` and saves after each of `saves`.
pub(super) fn trained(begun: &mut Begun, through: u64, saves: &[u64]) {
    for update in begun.ledger.last().0 + 1..=through {
        begun.ledger.append(&record(update)).unwrap();
        if saves.contains(&update) {
            saved(&begun.archive, update);
        }
    }
}

pub(super) fn facts() -> RunFacts {
    let flags = JsonObject::from([("learning_rate".to_owned(), 3e-5.into())]);
    let inputs = [("train.jsonl".to_owned(), Digest([5; 32]))].into();
    RunFacts { epoch: 10.0, agreed: AGREED, flags, inputs }
}

/// The names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(super) const CONTINUE: StartRequest = StartRequest { existing: Existing::Continue, from: None };
pub(super) const REPLACE: StartRequest = StartRequest { existing: Existing::Replace, from: None };
pub(super) const DISCARD: StartRequest = StartRequest { existing: Existing::Discard, from: None };
