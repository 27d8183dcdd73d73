//! Bytes round and round, and counters that cannot be.

use medley_common::plan::mix;

use super::*;
use crate::collective::shared_memory::{Offered, open};

type Ends = (Reader, Writer);

/// Both sides of one memory: its maker's, and its peer's.
fn pair() -> [Ends; 2] {
    let offered = Offered::new().unwrap();
    let (nonce, theirs) = open(std::process::id(), offered.descriptor()).unwrap();
    assert_eq!(nonce, *offered.nonce());
    assert!(nonce.iter().any(|byte| *byte != 0));
    [offered.accepted(), theirs]
}

fn byte(count: u64) -> u8 {
    mix(count) as u8
}

#[test]
fn bytes_come_in_their_order_round_and_round() {
    let [one, other] = pair();
    for ((mut reader, _), (_, mut writer)) in [(other.0, one.1), (one.0, other.1)].map(|(r, w)| ((r, ()), ((), w))) {
        let (mut written, mut read) = (0u64, 0u64);
        let mut is_full = false;
        for step in 0..2000 {
            let bytes: Vec<u8> = (written..).take(mix(step) as usize % (RING_BYTES + 100)).map(byte).collect();
            let count = writer.write(&bytes).unwrap();
            assert_eq!(count, bytes.len().min(RING_BYTES - (written - read) as usize));
            is_full |= count < bytes.len();
            written += count as u64;
            let mut into = vec![0; mix(step + 7000) as usize % (RING_BYTES + 100)];
            let count = reader.read(&mut into, step % 2 == 0).unwrap();
            assert!(!reader.tells(true), "nobody sleeps");
            assert_eq!(count, into.len().min((written - read) as usize));
            assert!(into[..count].iter().zip(read..).all(|(there, count)| *there == byte(count)), "step {step}");
            read += count as u64;
        }
        assert!(is_full && read > 100 * RING_BYTES as u64);
    }
}

/// Either side sees what the other has done, or is woken for it.
#[test]
fn who_sleeps_is_woken_once_it_is_worth_the_while() {
    let [(mut reader, _), (_, mut writer)] = pair();
    assert!(!writer.wakes(), "nobody sleeps");
    assert!(reader.sleeps().unwrap());
    assert_eq!(writer.write(&[1; RING_BYTES]).unwrap(), RING_BYTES);
    assert!(writer.wakes() && !writer.wakes(), "told once");
    assert!(!reader.sleeps().unwrap(), "there is something");
    reader.rises();
    assert!(!writer.wakes());
    assert!(writer.sleeps().unwrap());
    let mut into = [0; RING_BYTES / 2 - 1];
    assert_eq!(reader.read(&mut into, true).unwrap(), into.len());
    assert!(!reader.tells(false) && writer.sleeps().unwrap(), "less than half is free");
    assert_eq!(reader.read(&mut [0], true).unwrap(), 1);
    assert!(!reader.tells(false), "one byte is not worth the while");
    assert!(writer.sleeps().unwrap());
    assert!(reader.tells(true) && !reader.tells(true));
    assert!(!writer.sleeps().unwrap());
}

/// What the other side counts is a stranger's word.
#[test]
fn counters_that_cannot_be_are_refused() {
    let size = RING_BYTES as u64;
    // Eight bytes are written and five of them read.
    for wild in [4, size + 6, size * 2, u64::MAX, u64::MAX / 2, 1 << 63] {
        let [(mut reader, _), (_, mut writer)] = pair();
        assert_eq!((writer.write(&[7; 8]).unwrap(), reader.read(&mut [0; 5], true).unwrap()), (8, 5));
        reader.ring.counters().written.0.store(wild, Ordering::Release);
        let error = reader.read(&mut [0; 8], true).unwrap_err().to_string();
        assert!(error.contains(&format!("is {wild}, where 8 to {} was due", size + 5)), "{error}");
        assert!(reader.filled().is_err() && reader.sleeps().is_err());
    }
    for wild in [4, 9, u64::MAX, 1 << 63] {
        let [(mut reader, _), (_, mut writer)] = pair();
        assert_eq!((writer.write(&[7; 8]).unwrap(), reader.read(&mut [0; 5], true).unwrap()), (8, 5));
        assert!(!reader.tells(true));
        assert_eq!(writer.free().unwrap(), RING_BYTES - 3);
        writer.ring.counters().read.0.store(wild, Ordering::Release);
        let error = writer.write(&[0; RING_BYTES]).unwrap_err().to_string();
        assert!(error.contains(&format!("is {wild}, where 5 to 8 was due")), "{error}");
        assert!(writer.is_half_free().is_err() && writer.sleeps().is_err());
    }
}

/// Counters begin at 0, and would take centuries to come round: they may.
#[test]
fn counters_come_round() {
    let [(mut reader, _), (_, mut writer)] = pair();
    let start = u64::MAX - 99;
    (reader.read, reader.told, reader.written) = (start, start, start);
    (writer.read, writer.written) = (start, start);
    let counters = writer.ring.counters();
    counters.read.0.store(start, Ordering::Release);
    counters.written.0.store(start, Ordering::Release);
    for turn in 0..10 {
        let bytes = [turn; 300];
        assert_eq!(writer.write(&bytes).unwrap(), 300);
        let mut into = [0; RING_BYTES];
        assert_eq!(reader.read(&mut into, true).unwrap(), 300);
        assert_eq!(into[..300], bytes);
        assert!(!reader.tells(true));
    }
    assert!(reader.read < start);
}
