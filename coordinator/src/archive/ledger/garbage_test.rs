//! Ledgers that were changed, and sealed again by somebody who knows how: refused, cut or read, never a panic.

use std::fs;

use medley_common::identity::Digest;
use proptest::prelude::*;

use super::*;
use crate::archive::fixture::{cadence, identity, record};

/// A ledger of a few records.
fn text() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::create(folder.path(), identity()).unwrap();
    (1..=3).for_each(|number| ledger.append(Record::Update(record(number))).unwrap());
    ledger.append(Record::Rewind(RewindRecord { to: Update(2), reason: "all were lost".to_owned() })).unwrap();
    fs::read(ledger.path()).unwrap()
}

/// Reads a ledger in every way there is.
fn read(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LEDGER_FILE);
    fs::write(&path, bytes).unwrap();
    if let Ok(recovered) = Ledger::recover(&path) {
        let history = &recovered.history;
        let updates = history.updates().len() as u64;
        assert!(history.past().losses.len() as u64 <= updates && history.log().len() <= bytes.len());
        assert!(history.trainer_state(&cadence()).log_history.len() <= bytes.len());
        assert!(history.best().is_none_or(|best| best.update <= history.last()));
    }
    fs::write(&path, bytes).unwrap();
    crate::verify::verify(folder.path()).ok();
}

/// Chains and seals the lines of a ledger anew.
fn sealed(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut previous: Option<Digest> = None;
    for line in String::from_utf8_lossy(text).lines() {
        let body = line.rsplit_once(",\"digest\":\"").map_or(line, |(body, _)| body).to_owned();
        let start = "{\"previous\":\"".len();
        let body = match previous.filter(|_| body.is_char_boundary(start) && body.is_char_boundary(start + 64)) {
            Some(previous) => format!("{}{previous}{}", &body[..start], &body[start + 64..]),
            None => body,
        };
        let line = format!("{body},\"digest\":\"{}\"}}\n", line::digest(body.as_bytes()));
        previous = Some(line::digest(line.as_bytes()));
        out.extend_from_slice(line.as_bytes());
    }
    out
}

/// Puts another number in the place of one of a text's.
fn renumbered(text: &str, which: usize, number: &str) -> String {
    let is_part = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let starts = |(place, c): (usize, char)| {
        let before = text[..place].chars().next_back().unwrap_or(' ');
        (c.is_ascii_digit() && ":[,".contains(before)).then_some(place)
    };
    let places: Vec<usize> = text.char_indices().filter_map(starts).collect();
    let start = places[which % places.len()];
    let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |length| start + length);
    format!("{}{number}{}", &text[..start], &text[end..])
}

#[test]
fn what_is_sealed_anew_and_unchanged_is_the_same() {
    assert_eq!(sealed(&text()), text());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes);
    }

    #[test]
    fn bytes_changed_and_sealed_anew(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = text();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read(&bytes);
        read(&sealed(&bytes));
    }

    #[test]
    fn numbers_changed_and_sealed_anew(
        which in any::<usize>(),
        number in prop::sample::select(vec!["0", "-1", "1e308", "18446744073709551615", "4294967296", "0.5", "1000000"]),
    ) {
        let text = String::from_utf8(text()).unwrap();
        read(&sealed(renumbered(&text, which, number).as_bytes()));
    }
}
