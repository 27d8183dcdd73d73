//! `metrics.jsonl` in the run's folder: its settings, then an object for each point, a line each, oldest first.
//!
//! It has what is in effect and nothing else: where the run goes back, or goes on after a crash that has cost it something,
//! the file is cut there. Where a reader has read on, its size says so.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::point::tag;
use super::{Begun, Ending, Kind, Point, Shown, Start, Subject, Tracker, Trouble};

pub(super) const KIND: Kind =
    Kind { name: "jsonl", open: |subject| Ok(Box::new(Jsonl { subject: Arc::clone(subject), open: None })) };

/// Its name.
const FILE: &str = "metrics.jsonl";
/// No line of ours is as long.
const LONGEST_LINE_BYTES: u64 = 16 << 20;

/// The run in a file of lines.
#[derive(Debug)]
struct Jsonl {
    subject: Arc<Subject>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    /// Where the last whole line ends.
    bytes: u64,
    /// Whether a part of one may follow.
    is_torn: bool,
}

impl Tracker for Jsonl {
    fn key(&self, name: &str) -> String {
        tag(name)
    }

    fn begin(&mut self, start: &Start) -> Result<Begun, Trouble> {
        let path = self.subject.folder()?.join(FILE);
        if path.exists() && !path.is_file() {
            return Err(Trouble::lasting(format!("{} is no file", path.display())));
        }
        let file = File::options().append(true).create(true).open(&path).map_err(Trouble::io("open", &path))?;
        let mut open = Open { path, file, bytes: 0, is_torn: true };
        let mut shown = Shown::default();
        match kept(&open.path, &self.subject.run.to_string(), start.kept, &mut shown)? {
            Some(bytes) => open.cut(bytes)?,
            None => open.write(&header(&self.subject))?,
        }
        let place = open.path.display().to_string();
        self.open = Some(open);
        Ok(Begun { place, shown })
    }

    fn show(&mut self, points: &[Point]) -> Result<(), Trouble> {
        let lines: String = points.iter().map(line).collect();
        self.open.as_mut().map_or(Ok(()), |open| open.write(&lines))
    }

    fn rewind(&mut self, to: u64, shown: &mut Shown) -> Result<(), Trouble> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut left = Shown::default();
        if let Some(bytes) = kept(&open.path, &self.subject.run.to_string(), Some(to), &mut left)? {
            open.cut(bytes)?;
            *shown = left;
        }
        Ok(())
    }

    fn end(&mut self, _: Ending) -> Result<(), Trouble> {
        self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data().map_err(Trouble::io("sync", &open.path)))
    }
}

impl Open {
    /// Leaves so many bytes.
    fn cut(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.file.set_len(bytes).map_err(Trouble::io("cut", &self.path))?;
        (self.bytes, self.is_torn) = (bytes, false);
        Ok(())
    }

    /// Appends lines, all or none of them.
    fn write(&mut self, lines: &str) -> Result<(), Trouble> {
        if self.is_torn {
            self.cut(self.bytes)?;
        }
        self.is_torn = true;
        self.file.write_all(lines.as_bytes()).map_err(Trouble::io("write", &self.path))?;
        self.is_torn = false;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

/// The first line: which run this is.
fn header(subject: &Subject) -> String {
    let header = serde_json::json!({
        "run": subject.run.to_string(), "run_name": subject.title(), "settings": subject.settings,
    });
    format!("{header}\n")
}

/// A point's line: `step`, `time` (seconds since 1970), and its values.
fn line(point: &Point) -> String {
    let mut line = Map::from_iter([("step".to_owned(), point.step.into()), ("time".to_owned(), point.time.into())]);
    line.extend(point.values.iter().map(|(tag, value)| (tag.clone(), (*value).into())));
    format!("{}\n", Value::Object(line))
}

/// How many bytes of the file of `run` are of updates through `through`, the first line included, and what they show. `None`
/// for an empty file, or one that never came to more than a part of its first line.
fn kept(path: &Path, run: &str, through: Option<u64>, shown: &mut Shown) -> Result<Option<u64>, Trouble> {
    let mut reader = BufReader::new(File::open(path).map_err(Trouble::io("open", path))?);
    let (mut bytes, mut text) = (0, Vec::new());
    loop {
        text.clear();
        let line = (&mut reader).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut text);
        let length = line.map_err(Trouble::io("read", path))? as u64;
        let object = text.ends_with(b"\n").then(|| serde_json::from_slice::<Map<String, Value>>(&text).ok()).flatten();
        if bytes == 0 {
            // What a crash has left of a first line begins as one does.
            let is_cut = !text.ends_with(b"\n") && BEGINNING.starts_with(&text[..text.len().min(BEGINNING.len())]);
            match object {
                Some(header) if header.get("run").and_then(Value::as_str) == Some(run) => {}
                None if is_cut => return Ok(None),
                _ => {
                    let reason =
                        format!("{} is not of this run; move it, or name another --logging_dir", path.display());
                    return Err(Trouble::lasting(reason));
                }
            }
        } else {
            let step = object.as_ref().and_then(|object| object.get("step")?.as_u64());
            let (Some(object), Some(step)) = (object, step.filter(|step| Some(*step) <= through)) else { break };
            let tags = object.keys().filter(|key| *key != "step" && *key != "time");
            tags.for_each(|tag| shown.note(tag, step));
        }
        bytes += length;
    }
    Ok(Some(bytes))
}

/// What the first line begins with: keys are in the order of their names.
const BEGINNING: &[u8] = b"{\"run\":\"";

#[cfg(test)]
#[path = "jsonl_test.rs"]
mod tests;
