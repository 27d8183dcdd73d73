use std::fs;

use medley_common::identity::Digest;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::archive::fixture::{cadence, identity, record};
use crate::archive::trainer_state::LogEntry;
use crate::run::Occasion;
use crate::run::report::{TrainLog, UpdateRecord};

fn update(update: u64) -> Record {
    Record::Update(record(update))
}

fn rewind(to: u64) -> Record {
    Record::Rewind(RewindRecord { to: Update(to), reason: "all workers were lost".to_owned() })
}

fn log(update: u64, occasion: Occasion) -> Record {
    let record = record(update);
    let UpdateRecord { epoch, loss, grad_norm, learning_rate, .. } = record;
    let entry =
        LogEntry::of_training(&TrainLog { update: record.update, epoch, loss, grad_norm, learning_rate, skipped: 0 });
    Record::Log(Logged { update: record.update, occasion, entry })
}

fn ledger(updates: u64) -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::create(folder.path(), identity()).unwrap();
    (1..=updates).for_each(|number| ledger.append(update(number)).unwrap());
    (folder, ledger)
}

fn losses(history: &History) -> Vec<(u64, f64)> {
    history.updates().iter().map(|past| (past.update.0, past.loss)).collect()
}

#[test]
fn a_line_is_as_documented() {
    let (_folder, ledger) = ledger(2);
    let text = fs::read_to_string(ledger.path()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let first: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(first["previous"], identity().digest().to_string());
    assert_eq!((&first["kind"], &first["train"]["rows_per_update"]), (&"run".into(), &32.into()));
    let body = format!(
        "{{\"previous\":\"{}\",\"kind\":\"update\",\"update\":2,\"attempt\":1,\"epoch\":0.005698005698005698,\
         \"learning_rate\":3.4188034188034186e-8,\"loss\":0.55,\"grad_norm\":0.30000000000000004,\
         \"lanes\":[[3,1],[]],\"workers\":[1,2],\"tokens\":90",
        line::digest(lines[1].as_bytes())
    );
    assert_eq!(lines[2], format!("{body},\"digest\":\"{}\"}}\n", line::digest(body.as_bytes())));
    assert_eq!(ledger.head(), Head { records: 3, digest: line::digest(lines[2].as_bytes()) });
}

#[test]
fn records_come_in_turn() {
    let (_folder, mut ledger) = ledger(2);
    for number in [0, 2, 4] {
        let error = ledger.append(update(number)).unwrap_err();
        assert!(error.to_string().ends_with(&format!("is of update {number}; after update 2 comes 3")), "{error}");
    }
    for wrong in [rewind(3), log(1, Occasion::Training), Record::Run(Box::new(identity()))] {
        assert!(matches!(ledger.append(wrong), Err(ArchiveError::OutOfTurn { .. })));
    }
    assert_eq!((ledger.last(), ledger.head().records), (Update(2), 3));
}

/// Training goes on while a checkpoint is saved, so its record comes after later updates.
#[test]
fn a_checkpoint_may_come_late_but_not_out_of_order() {
    let (_folder, mut ledger) = ledger(6);
    let checkpoint = |update| {
        let name = format!("checkpoint-{update}");
        let (manifest, parameters) = (Digest([1; 32]), Digest([2; 32]));
        Record::Checkpoint(CheckpointRecord { update: Update(update), name, manifest, parameters })
    };
    for update in [3, 5] {
        ledger.append(checkpoint(update)).unwrap();
    }
    for wrong in [7, 4] {
        assert!(matches!(ledger.append(checkpoint(wrong)), Err(ArchiveError::OutOfTurn { .. })), "{wrong}");
    }
    ledger.append(rewind(4)).unwrap();
    ledger.append(checkpoint(4)).unwrap();
    let recovered = Ledger::recover(ledger.path()).unwrap().history;
    assert_eq!(recovered.checkpoints().iter().map(|kept| kept.update.0).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(recovered.last(), Update(4));
}

/// What a coordinator that was killed comes back with is what it had.
#[test]
fn everything_in_effect_is_recovered() {
    let (folder, mut ledger) = ledger(3);
    ledger.append(log(3, Occasion::Training)).unwrap();
    ledger.append(update(4)).unwrap();
    ledger.append(log(4, Occasion::End)).unwrap();
    ledger.append(rewind(3)).unwrap();
    ledger.append(Record::Update(UpdateRecord { loss: 0.125, tokens: 7, ..record(4) })).unwrap();
    let recovered = Ledger::recover(ledger.path()).unwrap();
    assert_eq!((&recovered.history, recovered.head), (ledger.history(), ledger.head()));
    let history = &recovered.history;
    assert_eq!(losses(history), [(1, 1.1), (2, 0.55), (3, 1.1 / 3.0), (4, 0.125)]);
    assert_eq!(history.rewound(), (1, 1));
    assert_eq!(history.losses(Update(2)), Some(vec![1.1, 0.55]));
    assert_eq!(history.losses(Update(5)), None);
    let state = history.trainer_state(&cadence());
    assert_eq!((state.global_step, state.num_input_tokens_seen), (4, 3 * 90 + 7));
    assert_eq!(state.log_history.len(), 1, "what followed the end of training is undone with it");
    assert_eq!(state.log_history[0].0["step"], 3);

    let mut ledger = Ledger::reopen(folder.path(), recovered).unwrap();
    ledger.append(update(5)).unwrap();
    assert_eq!(Ledger::recover(ledger.path()).unwrap().history.last(), Update(5));
}

#[test]
fn a_torn_last_line_is_told_and_cut_at_any_byte() {
    let (folder, ledger) = ledger(3);
    let whole = fs::read(ledger.path()).unwrap();
    let third = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
    for length in third..whole.len() {
        fs::write(ledger.path(), &whole[..length]).unwrap();
        let recovered = Ledger::recover(ledger.path()).unwrap();
        assert_eq!(recovered.history.last(), Update(2));
        let torn = (length > third).then(|| TornTail {
            path: ledger.path().to_owned(),
            line: 4,
            bytes: (length - third) as u64,
        });
        assert_eq!(recovered.dropped, torn);
        if length % 16 == 0 {
            let mut again = Ledger::reopen(folder.path(), recovered).unwrap();
            again.append(update(3)).unwrap();
            assert_eq!(fs::read(ledger.path()).unwrap(), whole);
        }
    }
    // As a power failure may leave it: the length is there, the content is not.
    fs::write(ledger.path(), [&whole[..third], &[0; 40], b"\n"].concat()).unwrap();
    assert!(Ledger::recover(ledger.path()).unwrap().dropped.is_some());
}

/// No crash writes a seal: such a line is kept, and the program that knows it is asked for.
#[test]
fn a_last_line_of_another_version_is_not_torn() {
    let (_folder, ledger) = ledger(2);
    let whole = fs::read_to_string(ledger.path()).unwrap();
    let last = line::digest(whole.split_inclusive('\n').next_back().unwrap().as_bytes());
    let body = format!("{{\"previous\":\"{last}\",\"kind\":\"novelty\"");
    let longer = format!("{whole}{body},\"digest\":\"{}\"}}\n", line::digest(body.as_bytes()));
    fs::write(ledger.path(), &longer).unwrap();
    let refused = Ledger::recover(ledger.path()).unwrap_err().to_string();
    assert!(refused.contains("ledger.jsonl:4: is whole, but was written by another version of Medley"), "{refused}");
    assert_eq!(fs::read_to_string(ledger.path()).unwrap(), longer);
}

/// Any changed byte is found, at its line.
#[test]
fn a_changed_byte_is_named_with_its_line() {
    let (_folder, ledger) = ledger(3);
    let whole = fs::read(ledger.path()).unwrap();
    let mut line = 1;
    for place in 0..whole.len() {
        for flip in [1, 0x20] {
            // The first line is long: its lengths are sampled.
            if line == 1 && place > 2_000 && whole[place] != b'\n' && place % 97 != 0 {
                continue;
            }
            let mut changed = whole.clone();
            changed[place] ^= flip;
            fs::write(ledger.path(), changed).unwrap();
            match Ledger::recover(ledger.path()) {
                Err(ArchiveError::Ledger { line: found, .. }) => assert_eq!(found, line, "byte {place}"),
                // Without the break after it, the third line is one with the last.
                Ok(Recovered { dropped: Some(torn), .. }) if line == 3 => {
                    assert_eq!((torn.line, whole[place]), (3, b'\n'), "byte {place}");
                }
                Ok(Recovered { dropped: Some(torn), .. }) => assert_eq!((torn.line, line), (4, 4), "byte {place}"),
                other => panic!("byte {place}: {other:?}"),
            }
        }
        line += u64::from(whole[place] == b'\n');
    }
}

#[test]
fn a_line_taken_out_or_put_elsewhere_is_named() {
    let (_folder, ledger) = ledger(4);
    let whole = fs::read_to_string(ledger.path()).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for (kept, damaged) in [([0, 1, 3, 4], 3), ([0, 2, 1, 3], 2), ([1, 2, 3, 4], 1), ([0, 1, 1, 2], 3)] {
        fs::write(ledger.path(), kept.map(|line| lines[line]).concat()).unwrap();
        let error = Ledger::recover(ledger.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("ledger.jsonl:{damaged}: ")), "{error}");
        assert!(error.to_string().contains("move it away"), "the way out: {error}");
    }
}

#[test]
fn a_full_disk_leaves_no_part_of_a_line() {
    let (_folder, mut ledger) = ledger(2);
    let whole = fs::read(ledger.path()).unwrap();
    let file = std::mem::replace(&mut ledger.file, File::options().append(true).open("/dev/full").unwrap());
    let error = ledger.append(update(3)).unwrap_err();
    assert!(error.may_pass());
    assert!(error.to_string().starts_with(&format!("write {}: No space", ledger.path().display())), "{error}");
    // A device cannot be cut, so the part that the disk took is still there when the next line comes.
    assert!(ledger.torn);
    fs::write(ledger.path(), [whole.as_slice(), b"{\"upd"].concat()).unwrap();
    ledger.file = file;
    assert_eq!(ledger.last(), Update(2));
    ledger.append(update(3)).unwrap();
    assert_eq!(Ledger::recover(ledger.path()).unwrap().history.last(), Update(3));
}

#[test]
fn what_a_failed_sync_may_have_lost_is_written_anew() {
    let (_folder, mut ledger) = ledger(2);
    ledger.doubtful = true;
    let whole = fs::read(ledger.path()).unwrap();
    ledger.sync().unwrap();
    assert!(!ledger.doubtful);
    assert_eq!(fs::read(ledger.path()).unwrap(), whole);
    ledger.append(update(3)).unwrap();
    assert_eq!(Ledger::recover(ledger.path()).unwrap().history.last(), Update(3), "the new file is appended to");
}

proptest! {
    /// Every finite number reads back to the same bits.
    #[test]
    fn numbers_round_trip(
        loss in prop::num::f64::NORMAL, grad_norm in prop::num::f64::POSITIVE, learning_rate in 0.0f64..1.0,
        epoch in 0.0f64..1e6,
    ) {
        let wrote = Record::Update(UpdateRecord { loss, grad_norm, epoch, learning_rate, ..record(1) });
        let text = line::write(identity().digest(), &wrote).unwrap();
        prop_assert_eq!(line::read(&text).unwrap().record, wrote);
    }
}
