//! A run's updates one by one, as text in the format of Chrome's trace events, which Perfetto and `chrome://tracing` read.
//!
//! A host is a process, a worker a thread of it. An update is a span, its phases are spans in it, one after the other: where
//! rows are computed in several passes, each phase stands for its part of all of them. The coordinator is a process as well,
//! with a thread for evaluations and one for saves, which go on beside each other.
//!
//! Time is the coordinator's, in microseconds since it began. Workers' clocks are their own, so each is set by the arrival
//! of its first report, as if that had come at the very moment its update ended: a thread stands later than it was by as
//! long as that report was on its way, and clocks that run at different speeds part by and by. Within a thread all is as
//! the worker measured it.

use std::collections::BTreeMap;
use std::sync::Arc;

use medley_common::identity::WorkerId;
use serde::Serialize;
use serde_json::{Value, json};

use super::sample::{PHASES, Sample, Worker};

/// Updates of all workers together, and spans of the coordinator, that a trace has: some 40 MB of it.
const MOST: u64 = 50_000;
/// The coordinator's process; hosts come after it.
const COORDINATOR: usize = 0;

/// What there is to add to a trace.
#[derive(Debug)]
pub(super) enum Entry {
    /// A worker's update.
    Update {
        /// When its report arrived, by the coordinator's clock.
        arrived_us: u64,
        /// Whose it is.
        worker: Arc<Worker>,
        /// What it took.
        sample: Sample,
    },
    /// Something that the coordinator had done.
    Span {
        /// Beside what it stands.
        track: Track,
        /// What it was.
        name: String,
        /// When it began, by the coordinator's clock.
        started_us: u64,
        /// When it was over.
        ended_us: u64,
    },
}

/// A thread of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Track {
    /// Evaluations, one after the other.
    Evaluations,
    /// Saves, one after the other.
    Saves,
}

impl Track {
    const ALL: [(Self, &str); 2] = [(Self::Evaluations, "evaluations"), (Self::Saves, "saves")];

    fn thread(self) -> u64 {
        match self {
            Self::Evaluations => 1,
            Self::Saves => 2,
        }
    }
}

/// A trace in the making. It keeps what it needs to go on, and nothing of what it has told.
#[derive(Debug)]
pub(super) struct Trace {
    /// The hosts, in the order in which they were heard of.
    hosts: Vec<String>,
    workers: BTreeMap<WorkerId, Place>,
    most: u64,
    told: u64,
    counts: Counts,
}

/// Where a worker stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    process: usize,
    /// What its clock is behind the coordinator's, in microseconds.
    behind_us: i64,
}

/// How many updates a trace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Counts {
    /// Those that are in it, of all workers together.
    pub updates: u64,
    /// Those that it had no room for; in `profile.json`, those that the disk had no time for as well.
    #[serde(rename = "updates_left_out")]
    pub left_out: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { hosts: Vec::new(), workers: BTreeMap::new(), most: MOST, told: 0, counts: Counts::default() }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// What it begins with.
    pub(super) fn opening(&self) -> String {
        let threads = Track::ALL.map(|(track, name)| named("thread_name", (COORDINATOR, track.thread()), name));
        let events = [named("process_name", (COORDINATOR, 0), "coordinator")].into_iter().chain(threads);
        let events: Vec<String> = events.map(|event| event.to_string()).collect();
        format!("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}", events.join(",\n"))
    }

    /// What follows for this; nothing once the trace is full.
    pub(super) fn add(&mut self, entry: &Entry) -> String {
        let is_full = self.told >= self.most;
        if let Entry::Update { .. } = entry {
            let count = if is_full { &mut self.counts.left_out } else { &mut self.counts.updates };
            *count += 1;
        }
        if is_full {
            return String::new();
        }
        self.told += 1;
        let events = match entry {
            Entry::Update { arrived_us, worker, sample } => self.update(*arrived_us, worker, sample),
            Entry::Span { track, name, started_us, ended_us } => {
                let place = (COORDINATOR, track.thread());
                vec![span((name, "coordinator"), place, (signed(*started_us), ended_us.saturating_sub(*started_us)))]
            }
        };
        events.iter().fold(String::new(), |text, event| text + ",\n" + &event.to_string())
    }

    /// What it ends with.
    pub(super) fn closing(&self) -> String {
        format!("\n],\"otherData\":{}}}\n", json!(self.counts))
    }

    fn update(&mut self, arrived_us: u64, worker: &Worker, sample: &Sample) -> Vec<Value> {
        let mut events = self.introduce(arrived_us, worker, sample);
        let Some(Place { process, behind_us }) = self.workers.get(&worker.name).copied() else { return events };
        let (thread, start) = ((process, worker.name.0), signed(sample.started_us).saturating_add(behind_us));
        let ends = sample.ends_us();
        let [.., end] = ends;
        let mut whole = span((&format!("update {}", sample.update), "update"), thread, (start, end));
        whole["args"] = json!({
            "update": sample.update.0,
            "rows": sample.rows,
            "tokens": sample.tokens,
            "all_reduce_us": (sample.exchange_seconds * 1e6).round() as u64,
            "sent_bytes": sample.sent_bytes,
        });
        events.push(whole);
        let mut from = 0;
        for (name, end) in PHASES.into_iter().zip(ends) {
            events.push(span((name, "phase"), thread, (start.saturating_add(signed(from)), end - from)));
            from = end;
        }
        events
    }

    /// Names a worker's host and thread, and sets its clock, when it is heard of for the first time.
    fn introduce(&mut self, arrived_us: u64, worker: &Worker, sample: &Sample) -> Vec<Value> {
        let Worker { name, rank, host, pid, device } = worker;
        if self.workers.contains_key(name) {
            return Vec::new();
        }
        let mut events = Vec::new();
        let known = self.hosts.iter().position(|known| known == host);
        let process = 1 + known.unwrap_or(self.hosts.len());
        if known.is_none() {
            self.hosts.push(host.clone());
            events.push(named("process_name", (process, 0), host));
        }
        let said = format!("worker {name}, rank {rank}: {device}, pid {pid}");
        events.push(named("thread_name", (process, name.0), &said));
        let behind_us = signed(arrived_us).saturating_sub(signed(sample.ended_us()));
        self.workers.insert(*name, Place { process, behind_us });
        events
    }
}

/// A span with its beginning and its length.
fn span((name, category): (&str, &str), (process, thread): (usize, u64), (start, length): (i64, u64)) -> Value {
    json!({ "ph": "X", "name": name, "cat": category, "pid": process, "tid": thread, "ts": start, "dur": length })
}

fn named(what: &str, (process, thread): (usize, u64), name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": { "name": name } })
}

fn signed(microseconds: u64) -> i64 {
    i64::try_from(microseconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "trace_test.rs"]
mod tests;
