//! `trace.json` while a run goes on: written piece by piece under another name, and given its own when it is whole.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::durable::{self, Operation, attempt};
use super::error::ArchiveError;

/// Its name.
pub const TRACE_FILE: &str = "trace.json";

/// A trace that is being written. Where it is let go before it is whole, nothing of it stays, and the one before is as it
/// was.
#[derive(Debug)]
pub struct TraceFile {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    is_whole: bool,
}

impl TraceFile {
    /// Begins a trace in `folder`. Blocks.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn create(folder: &Path) -> Result<Self, ArchiveError> {
        let path = folder.join(TRACE_FILE);
        let partial = durable::partial(&path);
        let file = attempt(|| File::create(&partial)).map_err(ArchiveError::io("create", &partial))?;
        Ok(Self { path, partial, file: BufWriter::new(file), is_whole: false })
    }

    /// Adds to it; what is added reaches the disk by and by. Blocks.
    ///
    /// # Errors
    /// The operating system refuses: it cannot be gone on with.
    pub fn write(&mut self, text: &str) -> Result<(), ArchiveError> {
        attempt(|| self.file.write_all(text.as_bytes())).map_err(ArchiveError::io("write", &self.partial))
    }

    /// Puts it in the place of the one before. Blocks until the disk has it.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        attempt(|| self.file.flush()).map_err(ArchiveError::io("write", &self.partial))?;
        durable::perform(&[
            Operation::Sync(self.partial.clone()),
            Operation::Rename { from: self.partial.clone(), to: self.path.clone() },
            Operation::Sync(durable::parent(&self.path)),
        ])?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        if !self.is_whole {
            // What cannot be removed goes with the next run's leftovers.
            fs::remove_file(&self.partial).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::faults;
    use crate::archive::fixture::{begun, names, resume, saved};

    #[test]
    fn a_trace_has_its_name_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TRACE_FILE), "old").unwrap();
        let mut trace = TraceFile::create(folder.path()).unwrap();
        trace.write("new ").unwrap();
        trace.write("and whole").unwrap();
        let read = || fs::read_to_string(folder.path().join(TRACE_FILE)).unwrap();
        assert_eq!(read(), "old");
        trace.finish().unwrap();
        assert_eq!((read(), names(folder.path())), ("new and whole".to_owned(), vec![TRACE_FILE.to_owned()]));
    }

    #[test]
    fn one_that_is_let_go_or_refused_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TRACE_FILE), "old").unwrap();
        drop(TraceFile::create(folder.path()).unwrap());
        for refused in 0..5 {
            faults::fail(refused, 1, faults::FULL);
            let write = || TraceFile::create(folder.path()).and_then(|mut trace| trace.write("new").map(|()| trace));
            let error = write().and_then(TraceFile::finish).unwrap_err();
            assert!(faults::heal());
            assert!(error.to_string().contains("trace.json"), "{error}");
            assert_eq!(names(folder.path()), [TRACE_FILE]);
            assert_eq!(fs::read_to_string(folder.path().join(TRACE_FILE)).unwrap(), "old");
        }
    }

    /// A save clears away what an earlier save has left, and a run what an earlier process has: not what is being written.
    #[test]
    fn a_trace_outlives_saves_and_not_its_process() {
        let (folder, mut writing) = begun(None);
        let mut trace = TraceFile::create(folder.path()).unwrap();
        trace.write("all of it").unwrap();
        saved(&mut writing, 5);
        trace.finish().unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(TRACE_FILE)).unwrap(), "all of it");
        std::mem::forget(TraceFile::create(folder.path()).unwrap());
        drop(writing);
        resume(folder.path(), None);
        let left: Vec<String> = names(folder.path());
        assert!(left.iter().any(|name| name == TRACE_FILE), "{left:?}");
        assert!(!left.iter().any(|name| name.ends_with(".partial")), "{left:?}");
    }
}
