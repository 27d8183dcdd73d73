use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use medley_common::identity::Update;

use crate::archive::Certificate;
use crate::archive::fixture::{begun, facts, names, patience, recipe, saved, staged, trained, weights};

#[test]
fn a_staged_model_moves_into_the_folder() {
    let (folder, mut begun) = begun(None);
    trained(&mut begun, 9, &[]);
    let staging = staged(&begun.archive, Update(9));
    let record = begun.archive.export(&mut begun.ledger, &ModelSource::Staged(&staging), facts()).unwrap();
    assert_eq!(Certificate::read(folder.path()), Ok(Some(record.clone())));
    assert_eq!((record.update, record.recipe), (Update(9), recipe()));
    assert_eq!(fs::read(folder.path().join(WEIGHTS_FILE)).unwrap(), weights(Update(9)));
    let expected = [".medley.lock", "config.json", "ledger.jsonl", "medley_run.json", "model.safetensors", "vocab.txt"];
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn a_full_disk_can_be_cleared_and_the_export_tried_again() {
    let (folder, mut begun) = begun(None);
    let staging = staged(&begun.archive, Update(9));
    let link = folder.path().join(".vocab.txt.partial");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    let error = begun.archive.export(&mut begun.ledger, &ModelSource::Staged(&staging), facts()).unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert_eq!(Certificate::read(folder.path()), Ok(None));
    fs::remove_file(link).unwrap();
    let record = begun.archive.export(&mut begun.ledger, &ModelSource::Staged(&staging), facts()).unwrap();
    assert_eq!(Certificate::read(folder.path()), Ok(Some(record)));
}

#[test]
fn a_checkpoints_model_is_shared() {
    let (folder, mut begun) = begun(None);
    let checkpoint = saved(&mut begun, 9).checkpoint;
    let weights = folder.path().join(WEIGHTS_FILE);
    // Twice: the second time both names are of one file already.
    for _ in 0..2 {
        begun.archive.export(&mut begun.ledger, &ModelSource::Checkpoint(&checkpoint), facts()).unwrap();
        assert_eq!(weights.metadata().unwrap().nlink(), 2);
        assert!(Certificate::read(folder.path()).unwrap().is_some());
    }
    let staging = staged(&begun.archive, Update(10));
    begun.archive.export(&mut begun.ledger, &ModelSource::Staged(&staging), facts()).unwrap();
    assert!(Checkpoint::open(checkpoint.path()).is_ok(), "replacing the model leaves the checkpoint alone");
}

#[test]
fn without_weights_nothing_is_exported() {
    let (folder, mut begun) = begun(None);
    let staging = begun.archive.stage((Update(9), 1), &patience()).unwrap();
    let error = begun.archive.export(&mut begun.ledger, &ModelSource::Staged(&staging), facts()).unwrap_err();
    assert_eq!(error.to_string(), "checkpoint of update 9 lacks model.safetensors");
    assert_eq!(Certificate::read(folder.path()), Ok(None));
}

#[test]
fn a_changed_record_or_file_is_no_complete_run() {
    let (folder, mut begun) = begun(None);
    begun.archive.export(&mut begun.ledger, &ModelSource::Staged(&staged(&begun.archive, Update(9))), facts()).unwrap();
    for name in [CERTIFICATE_FILE, WEIGHTS_FILE, "config.json", "vocab.txt"] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        fs::write(&path, changed).unwrap();
        let reason = Certificate::read(folder.path()).unwrap_err();
        assert!(reason.contains(name), "{reason}");
        fs::write(&path, whole).unwrap();
    }
    assert!(Certificate::read(folder.path()).unwrap().is_some());
}
