//! JSON files that know their own digest, so that a change of any byte is seen.

use medley_common::identity::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::json_text::pretty;

/// The version of the format of sealed files.
pub(super) const FORMAT: u32 = 1;

/// A sealed file: `digest` is the SHA-256 of the whole text with its own 64 digits as zeros.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    digest: Digest,
    format: u32,
    content: T,
}

/// All that another version of the format is sure to have.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Writes `content` with its digest.
pub(super) fn seal<T: Serialize>(content: &T) -> Vec<u8> {
    let open = pretty(&Sealed { digest: UNSEALED, format: FORMAT, content }, "  ");
    let digest = Digest(Sha256::digest(&open).into());
    let mut sealed = pretty(&Sealed { digest, format: FORMAT, content }, "  ");
    sealed.push(b'\n');
    sealed
}

/// Reads what [`seal`] wrote.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let version: Version = serde_json::from_str(text).map_err(|error| format!("is not a manifest: {error}"))?;
    if version.format != FORMAT {
        return Err(format!("has format {}; this version reads format {FORMAT}", version.format));
    }
    let sealed: Sealed<T> = serde_json::from_str(text).map_err(|error| format!("is not a manifest: {error}"))?;
    let open = text.replacen(&sealed.digest.to_string(), &UNSEALED.to_string(), 1);
    let intact = open.strip_suffix('\n').is_some_and(|open| Digest(Sha256::digest(open).into()) == sealed.digest);
    if intact { Ok(sealed.content) } else { Err("has been changed: its digest differs".to_owned()) }
}

const UNSEALED: Digest = Digest([0; 32]);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Content = BTreeMap<String, f64>;

    #[test]
    fn any_changed_byte_is_seen() {
        let content = Content::from([("epoch".to_owned(), 1.0 / 3.0), ("update".to_owned(), 500.0)]);
        let sealed = seal(&content);
        assert_eq!(unseal::<Content>(&sealed), Ok(content));
        for place in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[place] ^= 1 << bit;
                assert!(unseal::<Content>(&changed).is_err(), "bit {bit} of byte {place}");
            }
            assert!(unseal::<Content>(&sealed[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn another_format_is_named() {
        assert_eq!(
            unseal::<Content>(br#"{"format": 2, "novel": true}"#).unwrap_err(),
            "has format 2; this version reads format 1"
        );
    }
}
