//! TensorBoard: an event file for each process of the run, in the run's folder.
//!
//! A process that goes on with the run begins a file of its own, whose first words say from which step on what the files
//! before it have is void (`purge_step` of TensorFlow); the way back within a process is said in the same way.

mod event;
mod record;

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::point::tag;
use super::{Begun, Ending, Kind, Point, Shown, Start, Subject, Tracker, Trouble, now_seconds};
use event::{Event, SESSION_INFO};

pub(super) const KIND: Kind = Kind {
    name: "tensorboard",
    open: |subject| Ok(Box::new(TensorBoard { subject: Arc::clone(subject), file: None })),
};

/// The run in TensorBoard's files.
#[derive(Debug)]
struct TensorBoard {
    subject: Arc<Subject>,
    file: Option<EventFile>,
}

/// An event file that is being written.
#[derive(Debug)]
struct EventFile {
    path: PathBuf,
    file: File,
    /// Where the last whole event ends.
    bytes: u64,
    /// Whether a part of one may follow.
    is_torn: bool,
}

impl Tracker for TensorBoard {
    fn key(&self, name: &str) -> String {
        tag(name)
    }

    fn begin(&mut self, start: &Start) -> Result<Begun, Trouble> {
        let folder = self.subject.folder()?;
        let earlier = event_files(&folder)?;
        let mut shown = Shown::default();
        for file in &earlier {
            take_in(file, &mut shown)?;
        }
        shown.cut(start.kept);
        let mut first = vec![Event::version()];
        first.extend((!earlier.is_empty()).then(|| Event::restart(start.kept.map_or(0, |kept| kept + 1))));
        if !shown.has(SESSION_INFO) {
            first.extend(Event::settings(&self.subject.title(), &self.subject.settings));
        }
        let mut file = EventFile::create(&folder, earlier.last().map(PathBuf::as_path))?;
        if let Err(trouble) = file.write(&first) {
            // Another try makes another file; what cannot be removed is empty, and does no harm.
            std::fs::remove_file(&file.path).ok();
            return Err(trouble);
        }
        self.file = Some(file);
        Ok(Begun { place: format!("tensorboard --logdir {}", folder.display()), shown })
    }

    fn show(&mut self, points: &[Point]) -> Result<(), Trouble> {
        self.write(&points.iter().map(Event::scalars).collect::<Vec<_>>())
    }

    fn rewind(&mut self, kept: u64, shown: &mut Shown) -> Result<(), Trouble> {
        shown.cut(Some(kept));
        self.write(&[Event::restart(kept + 1)])
    }

    fn end(&mut self, ending: Ending) -> Result<(), Trouble> {
        // What stands there first is what is shown: that a process ended is nothing to say of a run that may go on.
        if ending == Ending::Completed {
            self.write(&[Event::completed()])?;
        }
        let Some(EventFile { path, file, .. }) = &self.file else { return Ok(()) };
        file.sync_data().map_err(Trouble::io("sync", path))
    }
}

impl TensorBoard {
    fn write(&mut self, events: &[Event]) -> Result<(), Trouble> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(events))
    }
}

impl EventFile {
    /// Creates one that readers take in after the one `before`: they go by the name.
    fn create(folder: &Path, before: Option<&Path>) -> Result<Self, Trouble> {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().replace('/', "_");
        let before = before.and_then(seconds).map_or(0, |seconds| seconds + 1);
        let name = format!("{PREFIX}{:010}.{host}.{}.medley", before.max(now_seconds() as u64), std::process::id());
        let path = folder.join(name);
        let file = File::options().append(true).create_new(true).open(&path).map_err(Trouble::io("create", &path))?;
        Ok(Self { path, file, bytes: 0, is_torn: false })
    }

    /// Appends events, all or none of them: a reader stops at a torn one, and at all that follows.
    fn write(&mut self, events: &[Event]) -> Result<(), Trouble> {
        let bytes: Vec<u8> = events.iter().flat_map(|event| record::framed(&event.encoded())).collect();
        if self.is_torn {
            self.file.set_len(self.bytes).map_err(Trouble::io("cut", &self.path))?;
        }
        self.is_torn = true;
        self.file.write_all(&bytes).map_err(Trouble::io("write", &self.path))?;
        self.is_torn = false;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// What the names of event files begin with; the second at which they were begun follows.
const PREFIX: &str = "events.out.tfevents.";

/// When the file at `path` was begun, in seconds since 1970, as its name says.
fn seconds(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// The event files of a folder, in the order in which readers take them in.
fn event_files(folder: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let entries = std::fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(Trouble::io("read", folder))?;
    let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|path| seconds(path).is_some() && path.is_file());
    files.sort();
    Ok(files)
}

/// Notes what a reader of an event file is shown by it, as far as it is whole.
fn take_in(path: &Path, shown: &mut Shown) -> Result<(), Trouble> {
    let mut reader = BufReader::new(File::open(path).map_err(Trouble::io("open", path))?);
    while let Some(bytes) = record::next(&mut reader).map_err(Trouble::io("read", path))? {
        let Some(event) = Event::decoded(&bytes) else { break };
        let step = u64::try_from(event.step).unwrap_or_default();
        if event.is_restart() {
            shown.cut(step.checked_sub(1));
        }
        event.tags().for_each(|tag| shown.note(tag, step));
    }
    Ok(())
}

#[cfg(test)]
#[path = "tensorboard_test.rs"]
mod tests;
