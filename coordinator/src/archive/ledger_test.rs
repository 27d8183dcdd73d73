use proptest::prelude::*;

use super::*;
use crate::archive::fixture::record;

fn ledger(updates: u64) -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::create(folder.path()).unwrap();
    (1..=updates).for_each(|update| ledger.append(&record(update)).unwrap());
    (folder, ledger)
}

fn records(updates: u64) -> Vec<UpdateRecord> {
    (1..=updates).map(record).collect()
}

fn resume(ledger: &Ledger, through: u64) -> (Ledger, LedgerCut) {
    Ledger::resume(&durable::parent(&ledger.path), &ledger.path, Update(through)).unwrap()
}

#[test]
fn a_line_is_as_documented() {
    let (_folder, ledger) = ledger(1);
    assert_eq!(
        fs::read_to_string(ledger.path()).unwrap(),
        "{\"update\":1,\"epoch\":0.002849002849002849,\"learning_rate\":1.7094017094017093e-8,\"loss\":1.1,\
         \"grad_norm\":0.30000000000000004,\"lanes\":[[3,1],[]],\"workers\":[1,2],\"attempt\":1,\"tokens\":90}\n"
    );
    assert_eq!(Ledger::read(ledger.path()).unwrap(), records(1));
}

#[test]
fn updates_come_in_turn() {
    let (_folder, mut ledger) = ledger(2);
    for update in [0, 2, 4] {
        let error = ledger.append(&record(update)).unwrap_err();
        assert!(error.to_string().ends_with(&format!("update {update} does not follow update 2")), "{error}");
    }
    assert_eq!(ledger.last(), Update(2));
}

#[test]
fn going_back_cuts_the_lines_after() {
    let (_folder, mut ledger) = ledger(5);
    let cut = ledger.cut_after(Update(3)).unwrap();
    assert_eq!(cut, LedgerCut { kept: Update(3), through: Update(3), aside: None });
    assert_eq!(Ledger::read(ledger.path()).unwrap(), records(3));
    ledger.append(&record(4)).unwrap();
    assert_eq!(Ledger::read(ledger.path()).unwrap(), records(4));
    ledger.cut_after(Update(0)).unwrap();
    assert_eq!(fs::read(ledger.path()).unwrap(), b"");
}

#[test]
fn a_torn_last_line_is_cut_at_any_byte() {
    let (_folder, ledger) = ledger(3);
    let whole = fs::read(ledger.path()).unwrap();
    let second = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 1;
    for length in second..whole.len() {
        fs::write(ledger.path(), &whole[..length]).unwrap();
        assert_eq!(Ledger::read(ledger.path()).unwrap(), records(2));
        if length % 16 != 0 {
            continue;
        }
        let (mut ledger, cut) = resume(&ledger, 2);
        assert_eq!((cut.kept, cut.aside), (Update(2), None));
        ledger.append(&record(3)).unwrap();
        assert_eq!(fs::read(ledger.path()).unwrap(), whole);
    }
}

#[test]
fn a_damaged_line_is_named_and_nothing_lost() {
    let (folder, ledger) = ledger(4);
    let damaged = fs::read_to_string(ledger.path()).unwrap().replace("\"update\":2,", "\"update\":8,");
    fs::write(ledger.path(), &damaged).unwrap();
    let error = Ledger::read(ledger.path()).unwrap_err();
    assert!(error.to_string().ends_with("ledger.jsonl:2: is of update 8 instead of 2"), "{error}");

    let (mut ledger, cut) = resume(&ledger, 3);
    let aside = folder.path().join("ledger.jsonl.replaced-1");
    assert_eq!(cut, LedgerCut { kept: Update(1), through: Update(3), aside: Some(aside.clone()) });
    assert_eq!(fs::read_to_string(aside).unwrap(), damaged);
    ledger.append(&record(4)).unwrap();
    let error = Ledger::read(ledger.path()).unwrap_err();
    assert!(error.to_string().ends_with("ledger.jsonl:2: is of update 4 instead of 2"), "a gap shows: {error}");
}

#[test]
fn a_missing_ledger_is_told() {
    let (_folder, ledger) = ledger(2);
    fs::remove_file(ledger.path()).unwrap();
    let (ledger, cut) = resume(&ledger, 2);
    assert_eq!((cut.kept, ledger.last()), (Update(0), Update(2)));
    assert!(Ledger::read(&ledger.path.with_file_name("none")).is_err());
}

#[test]
fn a_full_disk_leaves_no_part_of_a_line() {
    let (_folder, mut ledger) = ledger(2);
    let whole = fs::read(ledger.path()).unwrap();
    let file = std::mem::replace(&mut ledger.file, File::options().append(true).open("/dev/full").unwrap());
    let error = ledger.append(&record(3)).unwrap_err();
    assert!(error.is_storage_full());
    assert!(error.to_string().starts_with(&format!("write {}: No space", ledger.path().display())), "{error}");
    // A device cannot be cut, so the part that the disk took is still there when the next line comes.
    assert!(ledger.torn);
    fs::write(ledger.path(), [whole.as_slice(), b"{\"upd"].concat()).unwrap();
    ledger.file = file;
    assert_eq!(ledger.last(), Update(2));
    ledger.append(&record(3)).unwrap();
    assert_eq!(Ledger::read(ledger.path()).unwrap(), records(3));
}

proptest! {
    /// Every finite number reads back to the same bits; what JSON lacks reads back as NaN.
    #[test]
    fn numbers_round_trip(loss: f64, grad_norm: f64, epoch: f64, learning_rate: f64) {
        let text = LedgerLine::text(&UpdateRecord { loss, grad_norm, epoch, learning_rate, ..record(1) }).unwrap();
        let read = serde_json::from_slice::<LedgerLine>(&text).unwrap().record();
        for (wrote, read) in
            [(loss, read.loss), (grad_norm, read.grad_norm), (epoch, read.epoch), (learning_rate, read.learning_rate)]
        {
            prop_assert!(wrote.to_bits() == read.to_bits() || !wrote.is_finite() && read.is_nan());
        }
    }
}
