//! Where the time of each worker went: sums over its updates, and what lies between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use medley_common::identity::WorkerId;
use serde::{Serialize, Serializer};

use super::sample::{Sample, Worker};

/// What is known of all workers so far. It has the size of their number, not of the run.
#[derive(Debug, Default)]
pub(super) struct Summary {
    workers: BTreeMap<WorkerId, Known>,
}

#[derive(Debug)]
struct Known {
    worker: Arc<Worker>,
    tally: Tally,
}

/// Sums over one worker's updates, and where they begin and end by its own clock.
#[derive(Debug, Clone, Copy)]
struct Tally {
    updates: u64,
    rows: u64,
    tokens: u64,
    seconds: [f64; 5],
    exchange_seconds: f64,
    sent_bytes: u64,
    first_us: u64,
    last_us: u64,
}

/// What one worker, or all of them together, did and spent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub(super) struct Spent {
    /// Updates made; over several workers, the sum of what each made.
    pub updates: u64,
    /// Rows computed.
    pub rows: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Seconds of each phase.
    pub seconds: Phases,
    /// Shares of each phase in all seconds: they sum to 1.
    pub shares: Phases,
    /// Its sums with other workers.
    pub all_reduce: AllReduce,
}

/// A number for each phase of an update, and for what is in none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub(super) struct Phases {
    #[serde(serialize_with = "rounded")]
    pub data: f64,
    #[serde(serialize_with = "rounded")]
    pub forward: f64,
    #[serde(serialize_with = "rounded")]
    pub backward: f64,
    /// What of the all-reduce computing did not hide.
    #[serde(serialize_with = "rounded")]
    pub all_reduce_exposed: f64,
    #[serde(serialize_with = "rounded")]
    pub optimizer: f64,
    #[serde(serialize_with = "rounded")]
    pub between_updates: f64,
}

/// What sums with other workers took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub(super) struct AllReduce {
    /// Seconds that the collective was at work, hidden by computing or not.
    #[serde(serialize_with = "rounded")]
    pub busy_seconds: f64,
    /// Bytes sent to other workers.
    pub sent_bytes: u64,
    /// Bytes sent in a busy second; `null` where there were none.
    pub bytes_per_second: Option<u64>,
}

/// One worker's line.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub worker: u64,
    pub rank: u32,
    pub host: &'a str,
    pub pid: u32,
    pub device: &'a str,
    #[serde(flatten)]
    pub spent: Spent,
}

impl Phases {
    pub(super) fn all(&self) -> [f64; 6] {
        [self.data, self.forward, self.backward, self.all_reduce_exposed, self.optimizer, self.between_updates]
    }

    fn of([data, forward, backward, all_reduce_exposed, optimizer, between_updates]: [f64; 6]) -> Self {
        Self { data, forward, backward, all_reduce_exposed, optimizer, between_updates }
    }

    /// All of them together.
    pub(super) fn sum(&self) -> f64 {
        self.all().iter().sum()
    }
}

impl Spent {
    fn new([updates, rows, tokens]: [u64; 3], seconds: Phases, (busy_seconds, sent_bytes): (f64, u64)) -> Self {
        let sum = seconds.sum();
        let shares = Phases::of(seconds.all().map(|seconds| if sum > 0.0 { seconds / sum } else { 0.0 }));
        let bytes_per_second = (busy_seconds > 0.0).then(|| (sent_bytes as f64 / busy_seconds).round() as u64);
        let all_reduce = AllReduce { busy_seconds, sent_bytes, bytes_per_second };
        Self { updates, rows, tokens, seconds, shares, all_reduce }
    }

    fn plus(&self, other: &Self) -> Self {
        let mut seconds = self.seconds.all();
        seconds.iter_mut().zip(other.seconds.all()).for_each(|(sum, seconds)| *sum += seconds);
        let own = [self.updates, self.rows, self.tokens];
        let mut counts = [other.updates, other.rows, other.tokens];
        counts.iter_mut().zip(own).for_each(|(sum, own)| *sum = sum.saturating_add(own));
        let busy_seconds = self.all_reduce.busy_seconds + other.all_reduce.busy_seconds;
        let sent_bytes = self.all_reduce.sent_bytes.saturating_add(other.all_reduce.sent_bytes);
        Self::new(counts, Phases::of(seconds), (busy_seconds, sent_bytes))
    }
}

impl Tally {
    fn new(sample: &Sample) -> Self {
        Self {
            updates: 0,
            rows: 0,
            tokens: 0,
            seconds: [0.0; 5],
            exchange_seconds: 0.0,
            sent_bytes: 0,
            first_us: sample.started_us,
            last_us: 0,
        }
    }

    fn add(&mut self, sample: &Sample) {
        self.updates += 1;
        self.rows += sample.rows;
        self.tokens = self.tokens.saturating_add(sample.tokens);
        self.seconds.iter_mut().zip(sample.seconds).for_each(|(sum, seconds)| *sum += seconds);
        self.exchange_seconds += sample.exchange_seconds;
        self.sent_bytes = self.sent_bytes.saturating_add(sample.sent_bytes);
        self.last_us = sample.ended_us();
    }

    /// What is in no update is what is left of the time from the first one's beginning to the last one's end.
    fn spent(&self) -> Spent {
        let [data, forward, backward, exposed, optimizer] = self.seconds;
        let whole = self.last_us.saturating_sub(self.first_us) as f64 / 1e6;
        let between = (whole - self.seconds.iter().sum::<f64>()).max(0.0);
        let seconds = Phases::of([data, forward, backward, exposed, optimizer, between]);
        Spent::new([self.updates, self.rows, self.tokens], seconds, (self.exchange_seconds, self.sent_bytes))
    }
}

impl Known {
    fn line(&self) -> Line<'_> {
        let Worker { name, rank, host, pid, device } = &*self.worker;
        Line { worker: name.0, rank: rank.0, host, pid: *pid, device, spent: self.tally.spent() }
    }
}

impl Summary {
    /// Adds an update of a worker.
    pub(super) fn add(&mut self, worker: &Arc<Worker>, sample: &Sample) {
        let new = || Known { worker: Arc::clone(worker), tally: Tally::new(sample) };
        let known = self.workers.entry(worker.name).or_insert_with(new);
        known.worker = Arc::clone(worker);
        known.tally.add(sample);
    }

    /// Whether nobody has made an update.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// A line for each worker, by its name.
    pub(super) fn lines(&self) -> Vec<Line<'_>> {
        self.workers.values().map(Known::line).collect()
    }
}

/// The sum over some lines.
pub(super) fn total(lines: &[Line<'_>]) -> Spent {
    lines.iter().fold(Spent::default(), |sum, line| sum.plus(&line.spent))
}

/// To a millionth: no clock tells more.
fn rounded<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((number * 1e6).round() / 1e6)
}

#[cfg(test)]
#[path = "summary_test.rs"]
mod tests;
