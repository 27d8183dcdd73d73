use std::fs;

use medley_common::identity::{Split, Update};

use super::*;
use crate::archive::fixture::{AGREED, begun, names, newest, patience, record, resume, saved, staged, state, trained};
use crate::archive::{Archive, Evaluated, LogEntry, Record, WEIGHTS_FILE};
use crate::run::Occasion;

fn plan(archive: &Archive, staging: &Staging) -> Plan {
    Plan::new(&archive.frame(), staging, &AGREED, &state(staging.update())).unwrap()
}

/// Kills the commit of update 4 after each of its operations, and in the middle of each write, with a checkpoint of
/// update 2 before it; and finishes the run afterwards.
#[test]
fn a_crash_at_any_step_leaves_the_old_checkpoint_or_the_new_one() {
    let steps = {
        let (_folder, mut begun) = begun(None);
        trained(&mut begun, 4, &[2]);
        plan(&begun.archive, &staged(&begun.archive, Update(4))).operations.len()
    };
    for step in 0..=steps {
        for half in [false, true] {
            let (folder, mut begun) = begun(Some(1));
            trained(&mut begun, 4, &[2]);
            let staging = staged(&begun.archive, Update(4));
            let operations = plan(&begun.archive, &staging).operations;
            durable::perform(&operations[..step]).unwrap();
            match operations.get(step) {
                Some(Operation::Write { path, bytes }) if half => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
                _ if half => continue,
                _ => {}
            }
            let renamed = steps - 1;
            assert_eq!(
                newest(folder.path()).update().0,
                if step >= renamed { 4 } else { 2 },
                "after {step} of {steps}"
            );

            // A new process goes on from there, past update 4.
            drop(begun);
            let mut begun = resume(folder.path(), Some(1));
            trained(&mut begun, 6, &[4, 6]);
            assert_eq!(newest(folder.path()).update().0, 6);
            let expected = [".medley.lock", "checkpoint-6", "ledger.jsonl"];
            assert_eq!(names(folder.path()), expected, "after {step} of {steps}");
        }
    }
}

#[test]
fn the_manifest_comes_after_its_files_and_the_name_after_the_manifest() {
    let (_folder, mut begun) = begun(None);
    trained(&mut begun, 1, &[]);
    let staging = staged(&begun.archive, Update(1));
    let plan = plan(&begun.archive, &staging);
    let steps: Vec<String> = plan
        .operations
        .iter()
        .map(|operation| {
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            match operation {
                Operation::Write { path, .. } => format!("write {}", name(path)),
                Operation::Sync(path) if path == begun.archive.output().path() => "sync output_dir".to_owned(),
                Operation::Sync(path) if path == staging.folder() => "sync staging".to_owned(),
                Operation::Sync(path) => format!("sync {}", name(path)),
                Operation::Rename { to, .. } => format!("rename to {}", name(to)),
                Operation::Remove(path) => format!("remove {}", name(path)),
            }
        })
        .collect();
    assert_eq!(
        steps,
        [
            "write config.json",
            "write vocab.txt",
            "write trainer_state.json",
            "write .medley.json.partial",
            "rename to medley.json",
            "sync staging",
            "rename to checkpoint-1",
            "sync output_dir",
        ]
    );
}

#[test]
fn the_limit_keeps_the_newest() {
    let (folder, mut begun) = begun(Some(2));
    fs::create_dir(folder.path().join("checkpoint-1")).unwrap();
    saved(&mut begun, 2);
    saved(&mut begun, 4);
    let committed = saved(&mut begun, 6);
    assert_eq!(committed.removed, [folder.path().join("checkpoint-2")]);
    assert_eq!(committed.warning, None);
    let present = names(folder.path());
    let present: Vec<&String> = present.iter().filter(|name| name.starts_with("checkpoint")).collect();
    assert_eq!(present, ["checkpoint-1", "checkpoint-4", "checkpoint-6"], "another program's stays");
}

/// As in Hugging Face, a limit of 1 keeps two where the best is not the newest.
#[test]
fn the_best_is_never_removed() {
    for (limit, expected) in
        [(1, vec!["checkpoint-2", "checkpoint-5"]), (3, vec!["checkpoint-2", "checkpoint-4", "checkpoint-5"])]
    {
        let (folder, mut begun) = begun(Some(limit));
        for (update, accuracy) in [(1, 0.5), (2, 0.75), (3, 0.625), (4, 0.75), (5, 0.25)] {
            trained(&mut begun, update, &[]);
            let entry = LogEntry([("eval_accuracy".to_owned(), accuracy.into())].into());
            let (update, split, occasion) = (Update(update), Split::Validation, Occasion::Training);
            begun.ledger.append(Record::Evaluation(Evaluated { update, split, occasion, entry })).unwrap();
            saved(&mut begun, update.0);
        }
        assert_eq!(begun.ledger.history().best().map(|best| best.update), Some(Update(2)));
        let mut present = names(folder.path());
        present.retain(|name| name.starts_with("checkpoint"));
        assert_eq!(present, expected, "limit {limit}");
    }
}

#[test]
fn the_name_is_freed_of_what_is_no_checkpoint() {
    let (folder, mut begun) = begun(None);
    let target = folder.path().join("checkpoint-2");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("pytorch_model.bin"), "theirs").unwrap();
    let committed = saved(&mut begun, 2);
    let aside = committed.aside.unwrap();
    assert_eq!(aside, folder.path().join("checkpoint-2.replaced-1"));
    assert_eq!(fs::read(aside.join("pytorch_model.bin")).unwrap(), b"theirs");
    assert_eq!(Checkpoint::open(&target).unwrap(), committed.checkpoint);

    fs::write(target.join(WEIGHTS_FILE), "damaged").unwrap();
    let again = saved(&mut begun, 2);
    assert_eq!(again.aside, None);
    assert_eq!(Checkpoint::open(&target).unwrap(), again.checkpoint, "a damaged one of ours is replaced");
    saved(&mut begun, 2);
    assert!(names(folder.path()).iter().all(|name| !name.ends_with(".partial")), "a valid one stays");
}

#[test]
fn a_full_disk_fails_the_commit_and_nothing_else() {
    let (folder, mut begun) = begun(Some(1));
    trained(&mut begun, 4, &[2]);
    let staging = staged(&begun.archive, Update(4));
    let link = staging.folder().join("config.json");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    let error = begun.archive.commit(&mut begun.ledger, &staging, &AGREED, &state(Update(4))).unwrap_err();
    assert!(error.may_pass(), "{error}");
    let expected = format!("write {}: No space left on device (os error 28)", link.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(newest(folder.path()).update().0, 2);

    fs::remove_file(link).unwrap();
    begun.archive.commit(&mut begun.ledger, &staging, &AGREED, &state(Update(4))).unwrap();
    assert_eq!(newest(folder.path()).update().0, 4, "the same staging can be committed again");
    begun.ledger.append(Record::Update(record(5))).unwrap();
    assert_eq!(names(folder.path()), [".medley.lock", "checkpoint-4", "ledger.jsonl"]);
}

#[test]
fn a_checkpoint_needs_weights_and_moments() {
    let (_folder, mut begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    let error = begun.archive.commit(&mut begun.ledger, &staging, &AGREED, &state(Update(1))).unwrap_err();
    assert_eq!(error.to_string(), "checkpoint of update 1 lacks model.safetensors");
}

#[test]
fn only_known_files_enter() {
    assert!(ModelFile::new("tokenizer.json", Vec::new()).is_ok());
    let error = ModelFile::new("../config.json", Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("\"../config.json\" is not a file of a checkpoint"), "{error}");
}
