//! Writes a trace while a run goes on: one thread, so that no disk ever holds up the run. What it cannot take in time it
//! leaves out, and where the disk refuses it ends: a trace is never worth waiting for.

use std::path::PathBuf;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::trace::{Counts, Entry, Trace};
use crate::archive::{ArchiveError, TraceFile};

/// Entries that may wait for the disk.
const QUEUED_ENTRIES: usize = 4096;

/// The end of the thread that a run holds.
#[derive(Debug)]
pub(super) struct TraceWriter {
    /// `None` once the thread is known to have ended.
    entries: Option<mpsc::Sender<Entry>>,
    written: oneshot::Receiver<Result<Counts, ArchiveError>>,
    /// Updates that the disk was too slow for.
    missed: u64,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub(super) enum TraceError {
    /// The disk refuses.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The thread has ended without a word.
    #[error("the thread that writes the trace panicked; its message stands above")]
    Panicked,
}

impl TraceWriter {
    /// Starts a thread that writes a trace into `folder`, once there is something to write.
    pub(super) fn start(folder: PathBuf) -> Self {
        let (sender, entries) = mpsc::channel(QUEUED_ENTRIES);
        let (tell, written) = oneshot::channel();
        std::thread::spawn(move || {
            let mut entries = entries;
            let result = follow(folder, &mut entries);
            // Told before the queue closes: who finds it closed finds out why as well. Nobody may listen any more.
            tell.send(result).ok();
            drop(entries);
        });
        Self { entries: Some(sender), written, missed: 0 }
    }

    /// Adds an entry; never waits.
    ///
    /// # Errors
    /// Once: there will be no trace.
    pub(super) fn add(&mut self, entry: Entry) -> Result<(), TraceError> {
        let Some(entries) = &self.entries else { return Ok(()) };
        match entries.try_send(entry) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(entry)) => {
                self.missed += u64::from(matches!(entry, Entry::Update { .. }));
                Ok(())
            }
            Err(TrySendError::Closed(_)) => {
                self.entries = None;
                match self.written.try_recv() {
                    Ok(Err(error)) => Err(error.into()),
                    Ok(Ok(_)) | Err(_) => Err(TraceError::Panicked),
                }
            }
        }
    }

    /// Waits until the trace is whole; how many updates it has, and `None` where it was said already that there is none.
    ///
    /// # Errors
    /// There is no trace.
    pub(super) async fn end(self) -> Result<Option<Counts>, TraceError> {
        let Self { entries, written, missed } = self;
        if entries.is_none() {
            return Ok(None);
        }
        drop(entries);
        let Counts { updates, left_out } = written.await.map_err(|_| TraceError::Panicked)??;
        Ok(Some(Counts { updates, left_out: left_out + missed }))
    }
}

/// Writes until the queue is closed. Where nothing comes, nothing is written.
fn follow(folder: PathBuf, entries: &mut mpsc::Receiver<Entry>) -> Result<Counts, ArchiveError> {
    let mut trace = Trace::new();
    let Some(first) = entries.blocking_recv() else { return Ok(trace.counts()) };
    let mut file = TraceFile::create(&folder)?;
    file.write(&trace.opening())?;
    let mut next = Some(first);
    while let Some(entry) = next {
        file.write(&trace.add(&entry))?;
        next = entries.blocking_recv();
    }
    file.write(&trace.closing())?;
    file.finish()?;
    Ok(trace.counts())
}
