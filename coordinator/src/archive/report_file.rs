//! `report.html`: pictures of a run.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::durable;
use super::error::ArchiveError;

/// Its name in an output folder.
pub const REPORT_FILE: &str = "report.html";

/// What every page begins with.
const BEGINNING: &str = "<!doctype html>";

/// Puts a page in the place of the one at `path`, all or nothing. Blocks.
///
/// # Errors
/// What is there is no page, or the operating system refuses: what was there is as it was.
pub fn save_report(path: &Path, page: &str) -> Result<(), ArchiveError> {
    if !may_go(path).map_err(ArchiveError::io("read", path))? {
        let reason = "it exists, and is no page; name another file with --output";
        return Err(ArchiveError::io("write", path)(io::Error::new(io::ErrorKind::AlreadyExists, reason)));
    }
    durable::replace(path, page.as_bytes().to_vec())
}

/// Whether nothing would be lost with what is there.
fn may_go(path: &Path) -> io::Result<bool> {
    let mut beginning = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BEGINNING.len() as u64).read_to_end(&mut beginning)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    Ok(beginning == BEGINNING.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::faults;

    #[test]
    fn a_page_is_replaced_whole_or_not_at_all_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(REPORT_FILE);
        let read = || std::fs::read_to_string(&path).unwrap();
        save_report(&path, "<!doctype html>old").unwrap();
        faults::fail(0, u64::MAX, faults::FULL);
        assert!(save_report(&path, "<!doctype html>new").unwrap_err().to_string().contains(REPORT_FILE));
        assert!(faults::heal());
        assert_eq!(read(), "<!doctype html>old");
        save_report(&path, "<!doctype html>new").unwrap();
        assert_eq!(read(), "<!doctype html>new");
        std::fs::write(&path, "{\"gold_label\": \"neutral\"}\n").unwrap();
        let refused = save_report(&path, "<!doctype html>new").unwrap_err().to_string();
        assert!(refused.contains("is no page"), "{refused}");
        assert!(read().starts_with("{\"gold_label\""));
    }
}
