//! One line of a ledger: a record that is chained to the line before it and sealed by its own digest.
//!
//! ```text
//! {"previous":"<64 digits>","kind":"update", ... ,"digest":"<64 digits>"}\n
//! ```
//!
//! `previous` is the SHA-256 of the line before, line break included (`sed -n 4p ledger.jsonl | sha256sum`); in the
//! first line it is that of the run's identity. `digest` is the SHA-256 of its own line up to the comma before it, so
//! that a change of the last line is seen as well, and the line that was changed is known. After Haber and Stornetta
//! (1991), How to time-stamp a digital document.

use std::io;

use medley_common::identity::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::record::Record;

const SEAL: &[u8] = b",\"digest\":\"";
const END: &[u8] = b"\"}\n";
const DIGITS: usize = 64;

#[derive(Serialize)]
struct Chained<'a> {
    previous: Digest,
    #[serde(flatten)]
    record: &'a Record,
}

/// A line that was read.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    /// The digest of the line before, as this one has it.
    pub(super) previous: Digest,
    /// What it tells.
    #[serde(flatten)]
    pub(super) record: Record,
}

/// The SHA-256 of a whole line.
pub(super) fn digest(line: &[u8]) -> Digest {
    Digest(Sha256::digest(line).into())
}

/// The line of `record` after the line whose digest is `previous`.
///
/// # Errors
/// Never in fact: records are maps of strings and numbers.
pub(super) fn write(previous: Digest, record: &Record) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Chained { previous, record })?;
    line.pop();
    let own = digest(&line).to_string();
    for part in [SEAL, own.as_bytes(), END] {
        line.extend_from_slice(part);
    }
    Ok(line)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(line: &[u8]) -> Result<Line, String> {
    let body = unseal(line)?;
    let problem = |error| format!("is whole, but was written by another version of Medley: {error}");
    serde_json::from_slice(&[body, b"}"].concat()).map_err(problem)
}

/// Whether a line was written to its end: such a one was not cut by a crash, whatever it says.
pub(super) fn is_sealed(line: &[u8]) -> bool {
    unseal(line).is_ok()
}

/// What a line's own digest is of.
fn unseal(line: &[u8]) -> Result<&[u8], String> {
    let unsealed = || "is no sealed record of a ledger".to_owned();
    let rest = line.strip_suffix(END).ok_or_else(unsealed)?;
    let (rest, own) = rest.split_at_checked(rest.len().saturating_sub(DIGITS)).ok_or_else(unsealed)?;
    let body = rest.strip_suffix(SEAL).ok_or_else(unsealed)?;
    // As text: a digit in the other case is a changed byte as well.
    if digest(body).to_string().as_bytes() != own {
        return Err("has been changed: its digest differs".to_owned());
    }
    Ok(body)
}
