//! `README.md`: the card of a model, as the hub shows it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use medley_common::identity::Digest;
use sha2::{Digest as _, Sha256};

use super::durable;
use super::error::ArchiveError;

/// Its name in an output folder.
pub const CARD_FILE: &str = "README.md";

/// What every card begins with: the first line of its header, and a comment there, which the digest of the rest follows.
const BEGINNING: &str =
    "---\n# Written by Medley, which replaces it as long as nobody has changed it. SHA-256 of the rest: ";
/// No card of ours is as long.
const LONGEST_BYTES: u64 = 16 << 20;

/// Puts a card in the place of the one in `folder`, all or nothing; `text` is what comes after the line that opens the header.
/// Answers whether it did: what is there and is no card, or one that was changed, is left alone. Blocks.
///
/// # Errors
/// The operating system refuses: what was there is as it was.
pub fn save_card(folder: &Path, text: &str) -> Result<bool, ArchiveError> {
    let path = folder.join(CARD_FILE);
    match is_card(&path) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) => return Ok(false),
        Err(error) => return Err(ArchiveError::io("read", &path)(error)),
    }
    let card = format!("{BEGINNING}{}\n{text}", digest(text.as_bytes()));
    durable::replace(&path, card.into_bytes()).map(|()| true)
}

/// Whether a card of ours lies at `path`, as it was written.
pub(super) fn is_card(path: &Path) -> io::Result<bool> {
    // Reading from something else, a pipe say, might never end.
    if !path.metadata()?.is_file() {
        return Ok(false);
    }
    let mut card = Vec::new();
    File::open(path)?.take(LONGEST_BYTES).read_to_end(&mut card)?;
    let Some(rest) = card.strip_prefix(BEGINNING.as_bytes()) else { return Ok(false) };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(false) };
    Ok(rest[..end] == *digest(&rest[end + 1..]).to_string().as_bytes())
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{OutputDir, faults};

    #[test]
    fn a_card_is_replaced_whole_or_not_at_all_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CARD_FILE);
        let read = || std::fs::read_to_string(&path).unwrap();
        assert!(save_card(folder.path(), "tags:\n- a\n---\n# old\n").unwrap());
        let old = read();
        assert!(old.starts_with("---\n# Written by Medley") && old.ends_with("\n---\n# old\n"), "{old}");
        faults::fail(0, u64::MAX, faults::FULL);
        assert!(save_card(folder.path(), "---\n# new\n").unwrap_err().to_string().contains(CARD_FILE));
        assert!(faults::heal());
        assert_eq!(read(), old);
        assert!(save_card(folder.path(), "---\n# new\n").unwrap());
        assert!(read().ends_with("\n---\n# new\n"));
        let changed = read().replace("new", "my own words");
        for other in ["", "# mine\n", "---\nlicense: mit\n---\n", BEGINNING, &changed, &changed[..changed.len() - 1]] {
            std::fs::write(&path, other).unwrap();
            assert!(!save_card(folder.path(), "---\n# newer\n").unwrap(), "{other:?}");
            assert_eq!(read(), other);
        }
    }

    #[test]
    fn the_card_of_a_run_that_goes_on_is_removed_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CARD_FILE);
        let output = OutputDir::open(folder.path()).unwrap();
        save_card(folder.path(), "---\n").unwrap();
        assert_eq!(output.clear_unfinished().unwrap(), std::slice::from_ref(&path));
        assert!(!path.exists());
        std::fs::write(&path, "# mine\n").unwrap();
        assert!(output.foreign_replaced(true).unwrap().is_empty());
        assert!(output.clear_unfinished().unwrap().is_empty() && output.clear(None).unwrap().is_empty());
        assert!(path.exists());
    }
}
