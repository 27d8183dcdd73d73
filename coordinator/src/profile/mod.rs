//! Where the time of a run goes: what `--profile` writes and shows.
//!
//! It hears what the driver hears and sees what it does, and changes nothing. Sums of each worker's updates are kept here
//! and written to `profile.json` at the end; the updates one by one go to `trace.json`, written meanwhile by a thread of its
//! own. What the disk refuses is said once, and the run goes on without it.
//!
//! Both are of this process: a run that is gone on with has its time from where it went on.

mod sample;
mod summary;
mod table;
mod trace;
mod trace_writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medley_common::identity::{Generation, Rank, Split, Update, WorkerId};
use medley_common::message::{Event, UpdateReport};
use serde::Serialize;

use crate::archive::{PROFILE_FILE, TRACE_FILE, save_profile};
use crate::run::report::{EvaluationReport, GroupRecord, MemberRecord};
use crate::run::{Action, Input};

use sample::{Sample, Worker};
use summary::{Line, Spent, Summary, total};
use table::table;
use trace::{Counts, Entry, Track};
use trace_writer::TraceWriter;

/// A profile in the making.
#[derive(Debug)]
pub struct Profile {
    folder: PathBuf,
    /// When the coordinator began: what its clock counts from.
    began: Instant,
    /// The newest group, and its members.
    generation: Generation,
    members: BTreeMap<WorkerId, Arc<Worker>>,
    summary: Summary,
    writer: TraceWriter,
    /// The save that is being received, and since when.
    saving: Option<(Update, Instant)>,
    /// What a person should know, until it is told.
    complaint: Option<String>,
}

/// `profile.json`.
#[derive(Debug, Serialize)]
struct Written<'a> {
    workers: Vec<Line<'a>>,
    all: Spent,
    /// How many updates `trace.json` has; `null` where there is none.
    trace: Option<Counts>,
}

impl Profile {
    /// A profile of a run that writes into `folder` and began at this time; nothing is written before its first update.
    #[must_use]
    pub fn new(folder: PathBuf, began: Instant) -> Self {
        Self {
            writer: TraceWriter::start(folder.clone()),
            folder,
            began,
            generation: Generation(0),
            members: BTreeMap::new(),
            summary: Summary::default(),
            saving: None,
            complaint: None,
        }
    }

    /// The run is told this.
    pub fn heard(&mut self, now: Instant, input: &Input) {
        match input {
            Input::From(worker, Event::Updated { generation, report }) if *generation == self.generation => {
                self.updated(now, *worker, report);
            }
            Input::Committed(update) => {
                if let Some((_, since)) = self.saving.take_if(|(saved, _)| saved == update) {
                    self.span(Track::Saves, format!("save of update {update}"), (since, now));
                }
            }
            _ => {}
        }
    }

    /// This is done for the run.
    pub fn did(&mut self, now: Instant, action: &Action) {
        match action {
            Action::Group(group) => self.grouped(group),
            Action::Receive(save, _) => self.saving = Some((save.update, now)),
            Action::Discard(_) => self.saving = None,
            Action::Publish(report, _) => self.evaluated(now, report),
            _ => {}
        }
    }

    /// What a person should know, once.
    pub fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Writes what is left, and answers what to tell a person at the end; blocks no thread. Nothing where no update was
    /// made.
    pub async fn end(self) -> Vec<String> {
        let Self { folder, summary, writer, complaint, .. } = self;
        let mut told: Vec<String> = complaint.into_iter().collect();
        let trace = writer.end().await.unwrap_or_else(|error| {
            told.push(no_trace(&error));
            None
        });
        if summary.is_empty() {
            return told;
        }
        let lines = summary.lines();
        told.push("where the time went, from each worker's first update to the end of its last:".to_owned());
        told.extend(table(&lines, &total(&lines)));
        let place = folder.join(PROFILE_FILE);
        let saving = tokio::task::spawn_blocking(move || {
            let workers = summary.lines();
            let all = total(&workers);
            save_profile(&folder, &Written { workers, all, trace }).map(|()| folder)
        });
        match saving.await {
            Ok(Ok(folder)) => {
                told.push(format!("the profile is in {}", place.display()));
                told.extend(trace.map(|counts| whereabouts(&folder.join(TRACE_FILE).display().to_string(), counts)));
            }
            Ok(Err(error)) => told.push(format!("warning: no {PROFILE_FILE} is written: {error}")),
            Err(error) => told.push(format!("warning: no {PROFILE_FILE} is written: {error}")),
        }
        told
    }

    fn grouped(&mut self, group: &GroupRecord) {
        self.generation = group.generation;
        let member = |(rank, member): (usize, &MemberRecord)| {
            let rank = Rank(u32::try_from(rank).unwrap_or(u32::MAX));
            let (host, device) = (member.host.clone(), member.device.clone());
            (member.worker, Arc::new(Worker { name: member.worker, rank, host, pid: member.pid, device }))
        };
        self.members = group.members.iter().enumerate().map(member).collect();
    }

    fn updated(&mut self, now: Instant, worker: WorkerId, report: &UpdateReport) {
        // Whoever else says so is not heard by the run either.
        let Some(worker) = self.members.get(&worker).map(Arc::clone) else { return };
        let sample = Sample::of(report);
        self.summary.add(&worker, &sample);
        self.add(Entry::Update { arrived_us: self.clock(now), worker, sample });
    }

    fn evaluated(&mut self, now: Instant, report: &EvaluationReport) {
        let split = match report.split {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        };
        let took = Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
        let since = now.checked_sub(took).unwrap_or(now);
        self.span(Track::Evaluations, format!("{split} after update {}", report.update), (since, now));
    }

    fn span(&mut self, track: Track, name: String, (since, now): (Instant, Instant)) {
        // Before the first update there is nothing that it could stand beside.
        if !self.summary.is_empty() {
            let (started_us, ended_us) = (self.clock(since), self.clock(now));
            self.add(Entry::Span { track, name, started_us, ended_us });
        }
    }

    fn add(&mut self, entry: Entry) {
        if let Err(error) = self.writer.add(entry) {
            self.complaint = Some(no_trace(&error));
        }
    }

    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }
}

fn no_trace(error: &dyn std::error::Error) -> String {
    format!("warning: no {TRACE_FILE} is written: {error}")
}

/// Where a trace is, and whether it is all of it.
fn whereabouts(path: &str, Counts { updates, left_out }: Counts) -> String {
    let rest = match left_out {
        0 => String::new(),
        more => format!(", {more} more were left out"),
    };
    format!("the trace of {updates} updates{rest} is in {path}: open it in https://ui.perfetto.dev")
}

#[cfg(test)]
#[path = "profile_test.rs"]
mod tests;
