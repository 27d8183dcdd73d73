//! `profile.json`: where the time of a run went.

use std::path::Path;

use serde::Serialize;

use super::durable;
use super::error::ArchiveError;
use super::json_text::pretty;

/// Its name.
pub const PROFILE_FILE: &str = "profile.json";

/// Puts a profile in the place of the one in `folder`, all or nothing. Blocks.
///
/// # Errors
/// The operating system refuses: the one before is as it was.
pub fn save_profile(folder: &Path, profile: &impl Serialize) -> Result<(), ArchiveError> {
    let mut text = pretty(profile, "  ");
    text.push(b'\n');
    durable::replace(&folder.join(PROFILE_FILE), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::faults;

    #[test]
    fn a_profile_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        save_profile(folder.path(), &["old"]).unwrap();
        let read = || std::fs::read_to_string(folder.path().join(PROFILE_FILE)).unwrap();
        faults::fail(0, u64::MAX, faults::FULL);
        let refused = save_profile(folder.path(), &["new"]).unwrap_err();
        assert!(faults::heal());
        assert!(refused.to_string().contains("profile.json"), "{refused}");
        assert_eq!(read(), "[\n  \"old\"\n]\n");
        save_profile(folder.path(), &["new"]).unwrap();
        assert_eq!(read(), "[\n  \"new\"\n]\n");
    }
}
