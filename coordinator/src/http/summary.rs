//! A run's status as the page is told it: numbers alone, and workers by rank. Words that may name files or machines are for
//! who has a token: `medley status`.

use std::collections::BTreeMap;

use medley_proto::v1;
use serde::Serialize;

use crate::status_view::{fault, phase, slowness};

/// What a page shows of a status.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Which run it is, by its first digits, as in the metrics.
    pub run: String,
    /// Version of the coordinator.
    pub version: String,
    /// What it does, or how it ended, in a word.
    pub state: String,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// Whether nothing can be written at present.
    pub paused: bool,
    /// Updates done.
    pub update: u64,
    /// Updates of the whole run; 0 where nothing is trained.
    pub total: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Of the last update.
    pub loss: Option<f64>,
    /// Of the last update.
    pub learning_rate: Option<f64>,
    /// Of the last update, before clipping.
    pub grad_norm: Option<f64>,
    /// Lately.
    pub rows_per_second: Option<f64>,
    /// Lately.
    pub tokens_per_second: Option<f64>,
    /// Seconds left at that rate.
    pub left: Option<f64>,
    /// Seconds since the coordinator started.
    pub elapsed: f64,
    /// Updates done in the newest checkpoint.
    pub checkpoint: Option<u64>,
    /// Updates done in what is being saved.
    pub saving: Option<u64>,
    /// Updates that moved no weight.
    pub skipped: u64,
    /// The numbers that workers compute in.
    pub precision: String,
    /// Workers that are to take part.
    pub expected: u32,
    /// What went wrong in this process, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Who takes part.
    pub workers: Vec<Lane>,
}

/// A worker, and where its time goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lane {
    /// Its rank, once it has one.
    pub rank: Option<u32>,
    /// What it does, in a word.
    pub state: String,
    /// The last update it reported.
    pub update: u64,
    /// Rows it trains a second, lately.
    pub rows: Option<f64>,
    /// Where the time of its last updates went, once that is known.
    pub time: Option<Time>,
    /// In what it is slower than the others, if it is.
    pub slow: Option<&'static str>,
    /// Seconds since it was heard of.
    pub silent: f64,
}

/// Where the time of an update goes on one worker, in seconds: medians of the last ones.
///
/// A worker waits for the sums as long as the network needs for them, and for those that are slower than itself. The
/// slowest of all waits for the network alone, so what the one waits that waits least is the all-reduce of all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Time {
    /// Packing rows.
    pub data: f64,
    /// Forward, backward and optimizer.
    pub compute: f64,
    /// The network, as far as computing did not hide it.
    pub all_reduce: f64,
    /// Slower workers.
    pub waiting: f64,
}

impl Time {
    /// Of all of it.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.data + self.compute + self.all_reduce + self.waiting
    }

    /// The parts and their names, in the order they are drawn in.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, f64); 4] {
        let Self { data, compute, all_reduce, waiting } = *self;
        [("compute", compute), ("data", data), ("all-reduce", all_reduce), ("waiting", waiting)]
    }
}

impl Summary {
    /// Of `status`.
    #[must_use]
    pub fn of(status: &v1::Status) -> Self {
        let outcome = status.outcome.split([' ', ':']).next().unwrap_or_default();
        let state = match (outcome, status.phase()) {
            ("", v1::Phase::Unspecified) => "reading data",
            ("", doing) => phase(doing),
            (outcome, _) => outcome,
        };
        let faults = status.counts.iter().flat_map(|counts| &counts.faults);
        Self {
            run: status.run.get(..12).unwrap_or_default().to_owned(),
            version: status.version.clone(),
            state: state.to_owned(),
            ended: !outcome.is_empty(),
            stopping: status.stopping,
            paused: status.paused.is_some(),
            update: status.update,
            total: status.total_updates,
            epoch: status.epoch,
            loss: status.loss,
            learning_rate: status.learning_rate,
            grad_norm: status.grad_norm,
            rows_per_second: status.rows_per_second,
            tokens_per_second: status.tokens_per_second,
            left: status.eta_seconds,
            elapsed: status.elapsed_seconds,
            checkpoint: status.checkpoint_update,
            saving: status.saving_update,
            skipped: status.skipped_updates,
            precision: status.precision.clone(),
            expected: status.workers_expected,
            faults: faults.filter_map(|it| Some((fault(it.fault())?, it.count))).collect(),
            workers: lanes(&status.workers),
        }
    }
}

fn lanes(workers: &[v1::WorkerStatus]) -> Vec<Lane> {
    let waits = workers.iter().filter_map(|worker| worker.phases).map(|phases| phases.wait);
    let network = waits.fold(f64::INFINITY, f64::min);
    let time = |phases: v1::PhaseSeconds| Time {
        data: phases.data,
        compute: phases.compute,
        all_reduce: network,
        waiting: phases.wait - network,
    };
    let lane = |worker: &v1::WorkerStatus| Lane {
        rank: worker.rank,
        state: worker.state.clone(),
        update: worker.update,
        rows: worker.rows_per_second,
        time: worker.phases.map(time),
        slow: slowness(worker),
        silent: worker.silent_seconds,
    };
    let mut lanes: Vec<Lane> = workers.iter().map(lane).collect();
    lanes.sort_by_key(|lane| (lane.rank.is_none(), lane.rank));
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(rank: Option<u32>, compute: f64, wait: f64) -> v1::WorkerStatus {
        let phases = Some(v1::PhaseSeconds { data: 0.01, compute, wait, report: 0.0 });
        v1::WorkerStatus { rank, phases, host: "node7".to_owned(), pid: 4711, ..Default::default() }
    }

    #[test]
    fn the_slowest_waits_for_the_network_alone() {
        let workers = vec![v1::WorkerStatus::default(), worker(Some(1), 0.9, 0.1), worker(Some(0), 0.3, 0.7)];
        let summary = Summary::of(&v1::Status { workers, ..Default::default() });
        assert_eq!(summary.workers.iter().map(|lane| lane.rank).collect::<Vec<_>>(), [Some(0), Some(1), None]);
        let times: Vec<Time> = summary.workers.iter().filter_map(|lane| lane.time).collect();
        assert_eq!(times[0], Time { data: 0.01, compute: 0.3, all_reduce: 0.1, waiting: 0.7 - 0.1 });
        assert_eq!(times[1], Time { data: 0.01, compute: 0.9, all_reduce: 0.1, waiting: 0.0 });
        assert!((times[0].seconds() - times[1].seconds()).abs() < 1e-9);
    }

    #[test]
    fn neither_hosts_nor_reasons_are_told() {
        let status = v1::Status {
            run: "0123456789abcdef".to_owned(),
            outcome: "failed: /data/secret.jsonl".to_owned(),
            paused: Some("/data/secret.jsonl: no room".to_owned()),
            waiting: vec!["node7".to_owned()],
            workers: vec![worker(Some(0), 0.1, 0.1)],
            ..Default::default()
        };
        let summary = Summary::of(&status);
        assert_eq!((summary.state.as_str(), summary.paused, summary.ended), ("failed", true, true));
        let text = serde_json::to_string(&summary).unwrap();
        for never in ["node7", "4711", "secret", "cdef"] {
            assert!(!text.contains(never), "{never}: {text}");
        }
    }
}
