use std::num::NonZeroU32;

use medley_common::message::FailureKind;

use super::*;
use crate::archive::fixture::{begun, saved};

#[test]
fn a_folder_is_made_and_locked() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("runs").join("one");
    let output = OutputDir::open(&path).unwrap();
    assert!(path.is_dir());
    assert_eq!(output.warning(), None);
    assert_eq!((output.times_opened(), output.entries().unwrap()), (0, Vec::new()));

    let error = OutputDir::open(&path).unwrap_err();
    assert!(matches!(error, ArchiveError::InUse { .. }));
    let holder = format!("is in use by process {} on ", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    fs::write(path.join("notes.txt"), "mine").unwrap();
    drop(output);
    assert!(path.join(LOCK_FILE).exists());
    let again = OutputDir::open(&path).expect("a lock file without a process locks nothing");
    assert_eq!((again.times_opened(), again.entries().unwrap().len()), (1, 1), "who was refused does not count");
}

#[test]
fn what_cannot_be_a_folder_is_refused() {
    let above = tempfile::tempdir().unwrap();
    let file = above.path().join("model.bin");
    fs::write(&file, "a file").unwrap();
    let error = OutputDir::open(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("output_dir {} is not a folder; choose another --output_dir", file.display())
    );
    let below = OutputDir::open(&file.join("run")).unwrap_err();
    assert!(below.to_string().contains("cannot be written to: Not a directory"), "{below}");
    assert_eq!(below.kind(), FailureKind::Config);
    // A file system that nobody, not even root, may write to.
    let error = OutputDir::open(Path::new("/proc/self")).unwrap_err();
    assert!(matches!(error, ArchiveError::Unwritable { .. }), "{error}");
}

#[test]
fn preflight_compares_with_the_real_disk() {
    let (folder, mut begun) = begun(None);
    let need = |parameter_bytes| SpaceNeed {
        parameter_bytes,
        optimizer_bytes: 2 * parameter_bytes,
        text_bytes: 900,
        checkpoints: 7,
        save_total_limit: NonZeroU32::new(2),
        keeps_best: false,
    };
    let output = begun.archive.output();
    output.preflight(&need(1000), None).unwrap();
    let error = output.preflight(&need(1 << 60), None).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("output_dir {}: the run needs ", folder.path().display())), "{text}");
    assert!(text.contains("(3 checkpoints of 3458764513.8 GB at most, and the final model of"), "{text}");
    assert!(text.contains("lower --save_total_limit"), "{text}");
    let checkpoint = saved(&mut begun, 2).checkpoint;
    begun.archive.output().preflight(&need(1000), Some(&checkpoint)).unwrap();
}

#[test]
fn leftovers_are_ours_alone() {
    for name in
        [".checkpoint-500.1.partial", ".checkpoint-500.removed", ".ledger.jsonl.partial", ".model.safetensors.partial"]
    {
        assert!(is_leftover(name), "{name}");
    }
    for name in
        ["checkpoint-500", ".medley.lock", ".notes.partial", "ledger.jsonl", ".ledger.jsonl.removed", ".partial"]
    {
        assert!(!is_leftover(name), "{name}");
    }
}

#[test]
fn what_a_run_would_replace_is_known_before() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("out");
    for checkpoint in ["checkpoint-5", "rows"] {
        fs::create_dir_all(folder.join(checkpoint)).unwrap();
    }
    let touched = |name: &str| {
        let path = folder.join(name);
        fs::write(&path, "rows").unwrap();
        may_replace(&folder, &path)
    };
    for name in ["ledger.jsonl", "predictions.jsonl", "config.json", "checkpoint-5/rows.jsonl"] {
        assert!(touched(name), "{name}");
    }
    for name in ["train.jsonl", "rows/ledger.jsonl", "../ledger.jsonl"] {
        assert!(!touched(name), "{name}");
    }
    let link = above.path().join("train.jsonl");
    std::os::unix::fs::symlink(folder.join("ledger.jsonl"), &link).unwrap();
    assert!(may_replace(&folder, &link), "what it leads to");
    let link = folder.join("medley_run.json");
    std::os::unix::fs::symlink(folder.join("train.jsonl"), &link).unwrap();
    assert!(may_replace(&folder, &link), "the link itself");
    assert!(!may_replace(&above.path().join("new"), &link));
}

#[test]
fn foreign_files_that_will_be_replaced_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "notes.txt", "config.json", "trace.json"] {
        fs::write(folder.path().join(name), "mine").unwrap();
    }
    let output = OutputDir::open(folder.path()).unwrap();
    assert_eq!(output.foreign_replaced(false).unwrap(), ["config.json", "model.safetensors"]);
    assert_eq!(output.foreign_replaced(true).unwrap(), ["config.json", "model.safetensors", "trace.json"]);
    fs::write(folder.path().join("ledger.jsonl"), "").unwrap();
    assert_eq!(output.foreign_replaced(false).unwrap(), [""; 0]);
}

#[test]
fn a_folder_that_was_made_for_nothing_goes() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("out");
    drop(OutputDir::open(&path).unwrap());
    assert!(!path.exists());
    let output = OutputDir::open(&path).unwrap();
    fs::write(path.join("eval_results.json"), "{}").unwrap();
    drop(output);
    assert!(path.join("eval_results.json").exists());
    let empty = above.path().join("empty");
    fs::create_dir(&empty).unwrap();
    drop(OutputDir::open(&empty).unwrap());
    assert!(empty.exists(), "it was there before");
}
