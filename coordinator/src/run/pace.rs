//! How fast each worker is, beside the others.
//!
//! In an update that all workers of a group make together, each one's own time is what it needs to pack its rows, to
//! compute them and to report: the rest is waiting for others. A worker is late in an update where its own time is more
//! than [`LATE`] times what the others would need for its tokens (the median of their times, by token where it depends on
//! them), by at least [`NOTABLE`]. It is slow once it was late in [`SLOW`] of the last [`WINDOW`] updates, and no more once
//! it was in no more than [`WELL`]. So one hiccup changes nothing, and a slow worker is named within ten updates. One that
//! is slow again and again is a matter of the machine's load: it is spoken of the 1st, 2nd, 4th, 8th time, and so on.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Instant;

use medley_common::identity::{Update, WorkerId};
use medley_common::message::UpdateReport;

use super::training::Reports;

/// Updates that count.
const WINDOW: usize = 10;
/// How much longer than the others a worker may take.
const LATE: f64 = 1.5;
/// Seconds that are not worth a word.
const NOTABLE: f64 = 0.005;
/// Late updates of the window that make a worker slow.
const SLOW: usize = 5;
/// Late updates of the window that a worker may have and be slow no more.
const WELL: usize = 2;

/// In what a worker is slower than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slowness {
    /// Packing rows and bringing them to the device.
    Data,
    /// Forward, backward and optimizer.
    Compute,
    /// Its reports arrive late.
    Report,
}

impl fmt::Display for Slowness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Compute => "compute",
            Self::Report => "report",
        })
    }
}

/// Seconds of one update's phases on one worker.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PhaseSeconds {
    /// Packing rows and bringing them to the device.
    pub data: f64,
    /// Forward, backward and optimizer.
    pub compute: f64,
    /// Waiting for the other workers, and for the network between them.
    pub wait: f64,
    /// How much later its report came than the first one's.
    pub report: f64,
}

/// What has changed, and is worth a word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    /// A worker is slow: in what, and how many times the others' time its own is.
    Slow(WorkerId, Slowness, f64),
    /// A worker is slow no more.
    Well(WorkerId),
}

/// The paces of a group's workers.
#[derive(Debug, Default)]
pub(super) struct Paces {
    workers: BTreeMap<WorkerId, Pace>,
    /// When the reports of updates under way came.
    arrivals: BTreeMap<(Update, WorkerId), Instant>,
}

/// What is known of one worker's last updates.
#[derive(Debug, Default)]
struct Pace {
    samples: VecDeque<Sample>,
    /// Medians of theirs.
    phases: Option<PhaseSeconds>,
    slowness: Option<Slowness>,
    /// How often it has become slow.
    spells: u32,
}

/// One update of one worker.
#[derive(Debug, Clone, Copy)]
struct Sample {
    phases: PhaseSeconds,
    /// The part of the computing that does not depend on tokens.
    optimizer: f64,
    tokens: f64,
    /// In what it was late, if it was.
    late: Option<(Slowness, f64)>,
}

impl Sample {
    fn of(report: &UpdateReport, lag: f64) -> Self {
        let timing = &report.timing;
        let optimizer = timing.optimizer_seconds;
        let compute = timing.forward_seconds + timing.backward_seconds + optimizer;
        Self {
            phases: PhaseSeconds { data: timing.data_seconds, compute, wait: timing.wait_seconds, report: lag },
            optimizer,
            tokens: report.tokens as f64,
            late: None,
        }
    }

    /// Seconds for its tokens.
    fn computing(&self) -> f64 {
        self.phases.compute - self.optimizer
    }

    /// In what it is later than the others of `usual`, and how many times their time its own is.
    fn lateness(&self, usual: &Usual) -> Option<(Slowness, f64)> {
        let [data, compute, optimizer, report] = usual.beside(self)?;
        let (data, compute) = (data * self.tokens, compute * self.tokens);
        let excess = [
            (Slowness::Data, self.phases.data - data),
            (Slowness::Compute, self.phases.compute - compute - optimizer),
            (Slowness::Report, self.phases.report - report),
        ];
        let expected = data + compute + optimizer + report;
        let own = self.phases.data + self.phases.compute + self.phases.report;
        let is_late = own > LATE * expected && own - expected > NOTABLE;
        let most = excess.into_iter().max_by(|left, right| left.1.total_cmp(&right.1)).filter(|_| is_late);
        most.map(|(slowness, _)| (slowness, own / expected.max(f64::MIN_POSITIVE)))
    }
}

/// What the workers of an update needed that had any of it to compute: of each measure all values, ascending, so that the
/// median of all but one costs no more than to find that one.
struct Usual([Vec<f64>; 4]);

impl Usual {
    fn of<'s>(samples: impl Iterator<Item = &'s Sample>) -> Self {
        let mut measures: [Vec<f64>; 4] = Default::default();
        for sample in samples {
            measures.iter_mut().zip(Self::measures(sample)).for_each(|(values, value)| values.push(value));
        }
        measures.iter_mut().for_each(|values| values.sort_by(f64::total_cmp));
        Self(measures)
    }

    /// Packing a token, computing it, the optimizer, and how late the report came.
    fn measures(sample: &Sample) -> [f64; 4] {
        let Sample { phases, optimizer, tokens, .. } = sample;
        [phases.data / tokens, sample.computing() / tokens, *optimizer, phases.report]
    }

    /// The lower medians of all but `sample`, which is one of them; `None` where there is no other.
    fn beside(&self, sample: &Sample) -> Option<[f64; 4]> {
        let mut medians = [0.0; 4];
        for ((values, own), median) in self.0.iter().zip(Self::measures(sample)).zip(&mut medians) {
            let middle = values.len().checked_sub(2)? / 2;
            let place = values.partition_point(|value| value.total_cmp(&own).is_lt());
            *median = *values.get(if place <= middle { middle + 1 } else { middle })?;
        }
        Some(medians)
    }
}

impl Paces {
    /// A report of `update` has come.
    pub(super) fn arrived(&mut self, now: Instant, worker: WorkerId, update: Update) {
        self.arrivals.insert((update, worker), now);
    }

    /// The group has changed: those that are gone do not count any more, nor what is under way.
    pub(super) fn regroup<'w>(&mut self, group: impl Iterator<Item = &'w WorkerId>) {
        self.arrivals.clear();
        let mut old = std::mem::take(&mut self.workers);
        self.workers = group.map(|worker| (*worker, old.remove(worker).unwrap_or_default())).collect();
    }

    /// Takes note of an update that all have made in one go, and says who is slow from now on, or is no more.
    pub(super) fn note(&mut self, update: Update, reports: &Reports) -> Vec<Change> {
        let later = self.arrivals.split_off(&(update.next(), WorkerId(0)));
        let arrivals = std::mem::replace(&mut self.arrivals, later);
        let first = arrivals.iter().filter(|((of, _), _)| *of == update).map(|(_, at)| *at).min();
        let lag = |worker: &WorkerId| {
            let since = arrivals.get(&(update, *worker)).copied().zip(first);
            since.map_or(0.0, |(at, first)| at.saturating_duration_since(first).as_secs_f64())
        };
        let samples: BTreeMap<WorkerId, Sample> =
            reports.iter().map(|(worker, report)| (*worker, Sample::of(report, lag(worker)))).collect();
        let mut changes = Vec::new();
        let usual = Usual::of(samples.values().filter(|sample| sample.tokens > 0.0));
        for (worker, sample) in samples.iter().filter(|(_, sample)| sample.tokens > 0.0) {
            let late = sample.lateness(&usual);
            let pace = self.workers.entry(*worker).or_default();
            changes.extend(pace.take(*worker, Sample { late, ..*sample }));
        }
        changes
    }

    /// In what a worker is slow, if it is.
    pub(super) fn slowness(&self, worker: WorkerId) -> Option<Slowness> {
        self.workers.get(&worker)?.slowness
    }

    /// Tokens that a worker computes a second, the median of its last updates; `None` before that is known.
    pub(super) fn speed(&self, worker: WorkerId) -> Option<f64> {
        let samples = self.workers.get(&worker).map(|pace| &pace.samples).filter(|samples| samples.len() >= SLOW)?;
        let speed = |sample: &Sample| sample.tokens / (sample.phases.data + sample.computing());
        median(samples.iter().map(speed)).filter(|speed| speed.is_finite() && *speed > 0.0)
    }

    /// Where the time of a worker's updates goes: medians.
    pub(super) fn phases(&self, worker: WorkerId) -> Option<PhaseSeconds> {
        self.workers.get(&worker)?.phases
    }
}

impl Pace {
    fn medians(&self) -> Option<PhaseSeconds> {
        let of =
            |seconds: &dyn Fn(&PhaseSeconds) -> f64| median(self.samples.iter().map(|sample| seconds(&sample.phases)));
        Some(PhaseSeconds {
            data: of(&|phases| phases.data)?,
            compute: of(&|phases| phases.compute)?,
            wait: of(&|phases| phases.wait)?,
            report: of(&|phases| phases.report)?,
        })
    }

    fn take(&mut self, worker: WorkerId, sample: Sample) -> Option<Change> {
        self.samples.push_back(sample);
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        self.phases = self.medians();
        let late: Vec<(Slowness, f64)> = self.samples.iter().filter_map(|sample| sample.late).collect();
        let count = |wanted: Slowness| late.iter().filter(|(slowness, _)| *slowness == wanted).count();
        let most = [Slowness::Data, Slowness::Compute, Slowness::Report].into_iter().max_by_key(|phase| count(*phase));
        match self.slowness {
            None if late.len() >= SLOW => {
                let (slowness, times) = most.zip(median(late.iter().map(|(_, times)| *times)))?;
                self.slowness = Some(slowness);
                self.spells += 1;
                self.spells.is_power_of_two().then_some(Change::Slow(worker, slowness, times))
            }
            Some(_) if late.len() <= WELL => {
                self.slowness = None;
                self.spells.is_power_of_two().then_some(Change::Well(worker))
            }
            // What makes it slow may change meanwhile.
            Some(_) => {
                self.slowness = most;
                None
            }
            None => None,
        }
    }
}

/// The lower median; `None` of nothing.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
#[path = "pace_test.rs"]
mod tests;
