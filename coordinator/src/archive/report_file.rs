//! `report.html`: pictures of a run.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::durable;
use super::error::ArchiveError;

/// Its name in an output folder.
pub const REPORT_FILE: &str = "report.html";

/// What every page begins with, and nothing else does.
pub const PAGE_BEGINNING: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta name=\"generator\" content=\"medley report\">";

/// Puts a page in the place of the one at `path`, all or nothing. Blocks.
///
/// # Errors
/// What is there is no page, or the operating system refuses: what was there is as it was.
pub fn save_report(path: &Path, page: &str) -> Result<(), ArchiveError> {
    may_save_report(path)?;
    durable::replace(path, page.as_bytes().to_vec())
}

/// As [`save_report`], for the eyes of this user alone: a page with text of the data. Blocks.
///
/// # Errors
/// As for [`save_report`].
pub fn save_private_report(path: &Path, page: &str) -> Result<(), ArchiveError> {
    may_save_report(path)?;
    durable::replace_private(path, page.as_bytes())
}

/// Makes sure that nothing would be lost with what is at `path`. Blocks.
///
/// # Errors
/// What is there is no page, or cannot be read.
pub fn may_save_report(path: &Path) -> Result<(), ArchiveError> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => return Ok(()),
        Ok(_) | Err(_) => {}
    }
    if is_page(path).map_err(ArchiveError::io("read", path))? {
        return Ok(());
    }
    let reason = "it exists, and is no page of Medley; name another file with --output";
    Err(ArchiveError::io("write", path)(io::Error::new(io::ErrorKind::AlreadyExists, reason)))
}

/// Whether a page of ours lies at `path`.
pub(super) fn is_page(path: &Path) -> io::Result<bool> {
    // Reading from something else, a pipe say, might never end.
    if !path.metadata()?.is_file() {
        return Ok(false);
    }
    let mut beginning = Vec::new();
    File::open(path)?.take(PAGE_BEGINNING.len() as u64).read_to_end(&mut beginning)?;
    Ok(beginning == PAGE_BEGINNING.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{OutputDir, faults};

    #[test]
    fn a_page_is_replaced_whole_or_not_at_all_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(REPORT_FILE);
        let read = || std::fs::read_to_string(&path).unwrap();
        let (old, new) = (format!("{PAGE_BEGINNING}old"), format!("{PAGE_BEGINNING}new"));
        save_report(&path, &old).unwrap();
        faults::fail(0, u64::MAX, faults::FULL);
        assert!(save_report(&path, &new).unwrap_err().to_string().contains(REPORT_FILE));
        assert!(faults::heal());
        assert_eq!(read(), old);
        save_report(&path, &new).unwrap();
        assert_eq!(read(), new);
        for other in ["{\"gold_label\": \"neutral\"}\n", "<!doctype html>\n<html lang=\"en\"><head></head></html>"] {
            std::fs::write(&path, other).unwrap();
            let refused = save_report(&path, &new).unwrap_err().to_string();
            assert!(refused.contains("is no page") && refused.contains("--output"), "{refused}");
            assert_eq!(read(), other);
        }
        std::fs::write(&path, "").unwrap();
        save_report(&path, &new).unwrap();
        // A terminal, a pipe.
        assert!(save_report(Path::new("/dev/null"), &new).unwrap_err().to_string().contains("is no page"));
        assert!(save_report(folder.path(), &new).unwrap_err().to_string().contains("is no page"));
    }

    #[test]
    fn the_page_of_a_run_that_goes_on_is_removed_and_nothing_else_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(REPORT_FILE);
        let output = OutputDir::open(folder.path()).unwrap();
        save_report(&path, PAGE_BEGINNING).unwrap();
        assert_eq!(output.clear_unfinished().unwrap(), std::slice::from_ref(&path));
        assert!(!path.exists());
        std::fs::write(&path, "<!doctype html>mine").unwrap();
        assert!(output.foreign_replaced(true).unwrap().is_empty());
        assert!(output.clear_unfinished().unwrap().is_empty() && output.clear(None).unwrap().is_empty());
        assert!(path.exists());
    }
}
