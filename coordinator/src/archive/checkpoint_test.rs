use std::fs;

use medley_common::message::FailureKind;

use super::*;
use crate::archive::fixture::{begun, model, recipe, saved, spec, weights};
use crate::archive::{MANIFEST_FILE, OPTIMIZER_FILE, TRAINER_STATE_FILE, WEIGHTS_FILE};
use medley_common::model::ModelConfig;
use medley_common::schedule::LrSchedule;
use medley_common::spec::{OptimizerKind, OptimizerSpec, SgdSpec, TrainSpec, TuningSpec};

#[test]
fn a_checkpoint_reads_back_as_it_was_written() {
    let (folder, mut begun) = begun(None);
    let committed = saved(&mut begun, 500).checkpoint;
    let read = Checkpoint::open(&folder.path().join("checkpoint-500")).unwrap();
    assert_eq!(read, committed);
    assert_eq!(read.trainer_state().global_step, 500);
    assert_eq!(read.manifest().recipe, recipe());
    let artifacts = read.artifacts();
    assert_eq!(artifacts[0].artifact.file_name, WEIGHTS_FILE);
    assert_eq!(fs::read(&artifacts[0].path).unwrap(), weights(Update(500)));
    assert_eq!(artifacts[1].artifact.file_name, OPTIMIZER_FILE);
    assert_eq!(artifacts[1].artifact.bytes, 11);
}

/// Flips a bit of a byte of every file, and cuts it there. (That a manifest knows each of its bytes is tested where it
/// is sealed.)
#[test]
fn any_changed_byte_is_refused_and_the_older_checkpoint_taken() {
    let (folder, mut begun) = begun(None);
    saved(&mut begun, 2);
    let newest = saved(&mut begun, 4).checkpoint;
    let mut files: Vec<String> = newest.manifest().files.keys().cloned().collect();
    files.push(MANIFEST_FILE.to_owned());
    assert_eq!(files.len(), 6);
    for file in files {
        let path = newest.path().join(&file);
        let whole = fs::read(&path).unwrap();
        let check = |changed: &[u8], what: &str, place: usize| {
            fs::write(&path, changed).unwrap();
            let scan = Scan::of(folder.path()).unwrap();
            assert_eq!(scan.newest.unwrap().update(), Update(2), "{file} {what} at {place}");
            assert_eq!(scan.passed_over[0].path, newest.path());
            assert!(scan.passed_over[0].to_string().contains(&file), "{}", scan.passed_over[0]);
        };
        let stride = whole.len().div_ceil(100);
        for place in (0..whole.len()).step_by(stride) {
            let mut changed = whole.clone();
            changed[place] ^= 0x20;
            check(&changed, "flipped", place);
            check(&whole[..place], "cut", place);
        }
        fs::remove_file(&path).unwrap();
        let error = Checkpoint::open(newest.path()).unwrap_err();
        assert!(error.to_string().contains(&file), "{error}");
        fs::write(&path, &whole).unwrap();
        assert!(Checkpoint::open(newest.path()).is_ok());
    }
}

#[test]
fn what_is_not_ours_is_named() {
    let (folder, mut begun) = begun(None);
    saved(&mut begun, 4);
    for name in ["checkpoint-9", "checkpoint-3"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("pytorch_model.bin"), "theirs").unwrap();
    }
    fs::rename(folder.path().join("checkpoint-4"), folder.path().join("checkpoint-7")).unwrap();
    saved(&mut begun, 4);
    std::os::unix::fs::symlink("checkpoint-4", folder.path().join("checkpoint-8")).unwrap();
    fs::create_dir(folder.path().join("checkpoint-007")).unwrap();
    let scan = Scan::of(folder.path()).unwrap();
    assert_eq!(scan.newest.unwrap().update(), Update(4));
    let passed: Vec<String> = scan.passed_over.iter().map(ToString::to_string).collect();
    assert_eq!(
        passed,
        [
            "checkpoint-9: has no medley.json, so Medley did not write or finish it",
            "checkpoint-7: its manifest is of update 4",
            "checkpoint-3: has no medley.json, so Medley did not write or finish it",
        ]
    );
}

#[test]
fn files_that_lead_elsewhere_are_refused() {
    let (folder, mut begun) = begun(None);
    let checkpoint = saved(&mut begun, 4).checkpoint;
    let path = checkpoint.path().join(WEIGHTS_FILE);
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
    let error = Checkpoint::open(checkpoint.path()).unwrap_err();
    assert!(error.to_string().ends_with("model.safetensors: is not a regular file"), "{error}");
    assert_eq!(error.kind(), FailureKind::Data);

    let mut manifest = checkpoint.manifest().clone();
    let weights = manifest.files[TRAINER_STATE_FILE];
    manifest.files.insert("../elsewhere".to_owned(), weights);
    fs::write(checkpoint.path().join(MANIFEST_FILE), manifest.to_bytes()).unwrap();
    let error = Checkpoint::open(checkpoint.path()).unwrap_err();
    assert!(error.to_string().contains("\"../elsewhere\", which is no plain name"), "{error}");
}

#[test]
fn a_changed_recipe_is_refused_by_name() {
    let (_folder, mut begun) = begun(None);
    let checkpoint = saved(&mut begun, 4).checkpoint;
    checkpoint.check_recipe(&recipe()).unwrap();
    let train_rows = Digest([3; 32]);
    let schedule = LrSchedule { peak: 2e-5, total_updates: 7020, ..spec().schedule };
    let now = Recipe::new(&TrainSpec { schedule, ..spec() }, &model(), train_rows);
    let error = checkpoint.check_recipe(&now).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "resume from {}: learning_rate was 3e-5, now 2e-5, max_steps was 3510, now 7020; use the same flags, or \
             --overwrite_output_dir to start afresh",
            checkpoint.path().display()
        )
    );
    assert_eq!(error.kind(), FailureKind::Config);
    let differing = |recipe: &Recipe| -> Vec<String> {
        recipe.differences(&checkpoint.manifest().recipe).into_iter().map(|difference| difference.name).collect()
    };
    let mut optimizer = spec().optimizer;
    optimizer.max_grad_norm = None;
    let unclipped = Recipe::new(&TrainSpec { optimizer, ..spec() }, &model(), train_rows);
    assert_eq!(differing(&unclipped), ["max_grad_norm"]);
    let of = |spec: TrainSpec| Recipe::new(&spec, &model(), train_rows);
    let kind = OptimizerKind::Sgd(SgdSpec { momentum: 0.9, ..SgdSpec::default() });
    let sgd = of(TrainSpec { optimizer: OptimizerSpec { kind, ..spec().optimizer }, ..spec() });
    assert_eq!(differing(&sgd), ["adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"]);
    let tuning = TuningSpec { frozen_layers: Some(2), layer_lr_decay: Some(0.9) };
    assert_eq!(differing(&of(TrainSpec { tuning, ..spec() })), ["freeze_layers", "layer_lr_decay"]);
    let tuning = TuningSpec { frozen_layers: Some(0), layer_lr_decay: None };
    assert_eq!(differing(&of(TrainSpec { tuning, ..spec() })), ["freeze_embeddings"]);
    assert_eq!(differing(&of(TrainSpec { class_weights: vec![1.0, 2.0, 3.0], ..spec() })), ["class_weights"]);
    let other = ModelConfig { hidden_dropout: 0.0, ..model() };
    assert_eq!(
        differing(&Recipe::new(&spec(), &other, Digest([4; 32]))),
        ["model.hidden_dropout", "train_rows_sha256"]
    );
    assert_eq!(differing(&recipe().with("precision", "bf16")), ["precision"]);
}
