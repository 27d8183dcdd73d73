//! A death, a full disk or an ill one at every single change of the file system: of a save, and of the export.

use std::fs;
use std::path::Path;

use medley_common::identity::Update;
use medley_common::message::ArtifactKind;

use super::fixture::{
    AGREED, CONTINUE, Writing, begin, begun, checkpoint_of, facts, names, newest, record, resume, saved, staged, state,
    trained,
};
use super::*;

/// As a coordinator that lives: however slow the machine, nothing is given up.
fn patience() -> Patience {
    Patience::new(|_| {}, || true).brisk()
}

/// What a process does after update 4: all of it may be tried again.
fn save(begun: &mut Writing) -> Result<(), ArchiveError> {
    let update = Update(4);
    let staging = begun.archive.stage((update, 2), &patience())?;
    fixture::receive(&staging, ArtifactKind::Weights, &fixture::weights(update))?;
    fixture::receive(&staging, ArtifactKind::Optimizer, b"mo")?;
    patience().keep_trying(|| begun.archive.commit(&mut begun.ledger, &staging, &AGREED, &state(update)).map(drop))
}

/// A run with a checkpoint of update 2, which the next one replaces, of update 4; it has gone on through another.
fn trained_through(update: u64) -> (tempfile::TempDir, Writing) {
    let (folder, mut begun) = begun(Some(1));
    trained(&mut begun, update, &[2]);
    (folder, begun)
}

fn before_the_save() -> (tempfile::TempDir, Writing) {
    trained_through(4)
}

/// Whatever happened: there is a valid checkpoint, the ledger reaches it, and the run goes on to its end.
fn goes_on(folder: &Path, when: &str) {
    let found = OutputDir::open(folder).unwrap().find_start(&CONTINUE, &crate::archive::fixture::recipe()).unwrap();
    let checkpoint = checkpoint_of(found.start);
    assert!([2, 4].contains(&checkpoint.update().0), "{when}");
    assert_eq!(found.passed_over, [], "{when}");
    let mut begun = resume(folder, Some(1));
    assert_eq!(begun.ledger.last(), checkpoint.update(), "{when}");
    trained(&mut begun, 6, &[4, 6]);
    assert_eq!(newest(folder).update(), Update(6), "{when}");
    let recovered = Ledger::recover(begun.ledger.path()).unwrap();
    assert_eq!((recovered.history.last(), recovered.dropped), (Update(6), None), "{when}");
    assert_eq!(recovered.history.checkpoints().iter().map(|kept| kept.update.0).collect::<Vec<_>>(), [2, 4, 6]);
    assert_eq!(names(folder), [".medley.lock", "checkpoint-6", "ledger.jsonl"], "{when}");
}

#[test]
fn a_death_at_any_change_of_a_save_leaves_a_valid_checkpoint() {
    for through in [4, 6] {
        for change in 0.. {
            let (folder, mut begun) = trained_through(through);
            faults::die(change);
            let saved = save(&mut begun);
            if !faults::heal() {
                assert!(saved.is_ok() && change > 20, "{change} changes");
                break;
            }
            drop(begun);
            goes_on(folder.path(), &format!("killed at change {change}, after update {through}"));
        }
    }
}

#[test]
fn a_disk_that_refuses_at_any_change_of_a_save_is_waited_for() {
    for errno in [faults::FULL, faults::ILL] {
        for change in 0.. {
            let (folder, mut begun) = before_the_save();
            // Staging begins anew where it failed, as the recorder does it.
            faults::fail(change, 3, errno);
            patience().keep_trying(|| save(&mut begun)).unwrap();
            if !faults::heal() {
                break;
            }
            let when = format!("errno {errno} at change {change}");
            assert_eq!(newest(folder.path()).update(), Update(4), "{when}");
            begun.ledger.append(Record::Update(record(5))).unwrap();
            let recovered = Ledger::recover(begun.ledger.path()).unwrap();
            assert_eq!((recovered.history.last(), recovered.dropped), (Update(5), None), "{when}");
            assert_eq!(recovered.history.checkpoints().len(), 2, "{when}");
        }
    }
}

fn export(begun: &mut Writing, staging: &Staging) -> Result<(), ArchiveError> {
    patience().keep_trying(|| begun.archive.export(&mut begun.ledger, &ModelSource::Staged(staging), facts()).map(drop))
}

#[test]
fn a_death_at_any_change_of_an_export_leaves_the_run_complete_or_resumable() {
    for change in 0.. {
        let (folder, mut begun) = before_the_save();
        saved(&mut begun, 4);
        let staging = staged(&begun.archive, Update(4));
        faults::die(change);
        let exported = export(&mut begun, &staging);
        if !faults::heal() {
            assert!(exported.is_ok() && change > 10, "{change} changes");
            break;
        }
        drop(begun);
        let output = OutputDir::open(folder.path()).unwrap();
        match output.find_start(&CONTINUE, &crate::archive::fixture::recipe()).unwrap().start {
            Start::Finished(certificate) => assert_eq!(certificate.update, Update(4)),
            Start::Ledger(unfinished) => {
                let update = unfinished.checkpoint.as_ref().map(Checkpoint::update);
                assert_eq!(update, Some(Update(4)), "killed at change {change}");
                let mut begun = begin(output, &Origin::Ledger(unfinished), Some(1));
                let staging = staged(&begun.archive, Update(4));
                export(&mut begun, &staging).unwrap();
                assert!(Certificate::read(folder.path()).unwrap().is_some());
            }
            Start::Checkpoint(_) => panic!("killed at change {change}: the ledger is passed over"),
            Start::Fresh => panic!("killed at change {change}: nothing is left"),
        }
    }
}

#[test]
fn a_disk_that_refuses_at_any_change_of_an_export_is_waited_for() {
    for errno in [faults::FULL, faults::ILL] {
        for change in 0.. {
            let (folder, mut begun) = before_the_save();
            saved(&mut begun, 4);
            let staging = staged(&begun.archive, Update(4));
            faults::fail(change, 3, errno);
            export(&mut begun, &staging).unwrap();
            if !faults::heal() {
                break;
            }
            let certificate = Certificate::read(folder.path()).unwrap().unwrap();
            let recovered = Ledger::recover(begun.ledger.path()).unwrap();
            assert_eq!(certificate.ledger, recovered.head, "errno {errno} at change {change}");
            assert_eq!(fs::read(folder.path().join(WEIGHTS_FILE)).unwrap(), fixture::weights(Update(4)));
        }
    }
}
