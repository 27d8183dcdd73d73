//! One update on one worker, as its report tells it.

use medley_common::identity::{Rank, Update, WorkerId};
use medley_common::message::UpdateReport;

/// The phases of an update, in their order.
pub(super) const PHASES: [&str; 5] = ["data", "forward", "backward", "all-reduce", "optimizer"];

/// Longer than anything takes: what a worker says must not overflow.
const MOST_SECONDS: f64 = 1e9;

/// A worker that makes updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Worker {
    pub name: WorkerId,
    /// Its rank in the newest group that it was in.
    pub rank: Rank,
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    pub device: String,
}

/// What an update took. Whatever the report says, times are finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub update: Update,
    /// Rows and tokens that the worker computed.
    pub rows: u64,
    pub tokens: u64,
    /// When it began, by the worker's own clock.
    pub started_us: u64,
    /// Seconds of each of the [`PHASES`].
    pub seconds: [f64; 5],
    /// Seconds that the collective was at work.
    pub exchange_seconds: f64,
    /// Bytes sent to other workers.
    pub sent_bytes: u64,
}

impl Sample {
    pub(super) fn of(report: &UpdateReport) -> Self {
        let timing = &report.timing;
        let phases = [
            timing.data_seconds,
            timing.forward_seconds,
            timing.backward_seconds,
            timing.wait_seconds,
            timing.optimizer_seconds,
        ];
        Self {
            update: report.update,
            rows: report.lanes.iter().map(|lane| lane.rows.len() as u64).sum(),
            tokens: report.tokens,
            started_us: timing.started_us,
            seconds: phases.map(bounded),
            exchange_seconds: bounded(timing.exchange_seconds),
            sent_bytes: timing.sent_bytes,
        }
    }

    /// Where each phase ends, in whole microseconds after the update's beginning: the last one's end is the update's. Cut
    /// off, as the beginning is, so that the next update never seems to begin before.
    pub(super) fn ends_us(&self) -> [u64; 5] {
        let mut end = 0.0;
        self.seconds.map(|seconds| {
            end += seconds;
            (end * 1e6) as u64
        })
    }

    /// When it ended, by the worker's own clock.
    pub(super) fn ended_us(&self) -> u64 {
        let [.., end] = self.ends_us();
        self.started_us.saturating_add(end)
    }
}

fn bounded(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.clamp(0.0, MOST_SECONDS) } else { 0.0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use medley_common::identity::RowId;
    use medley_common::message::{LaneReport, Timing};

    pub(in crate::profile) fn worker(name: u64) -> Worker {
        Worker {
            name: WorkerId(name),
            rank: Rank(name as u32 - 1),
            host: "node7".into(),
            pid: 41,
            device: "cpu".into(),
        }
    }

    /// An update of two rows that began at this time and took a second: data 10 ms, forward 240, backward 500, the
    /// exposed part of the all-reduce 200 of 400 ms, the optimizer 50.
    pub(in crate::profile) fn report(update: u64, started_us: u64) -> UpdateReport {
        UpdateReport {
            update: Update(update),
            learning_rate: 0.0,
            grad_norm: 1.0,
            skipped: false,
            lanes: vec![LaneReport { lane: 0, rows: vec![RowId(3), RowId(4)] }, LaneReport { lane: 1, rows: vec![] }],
            losses: Vec::new(),
            tokens: 90,
            parameters: None,
            timing: Timing {
                started_us,
                data_seconds: 0.01,
                forward_seconds: 0.24,
                backward_seconds: 0.5,
                wait_seconds: 0.2,
                optimizer_seconds: 0.05,
                exchange_seconds: 0.4,
                sent_bytes: 1_000_000,
            },
        }
    }

    #[test]
    fn a_report_becomes_a_sample() {
        let sample = Sample::of(&report(7, 1_500_000));
        assert_eq!((sample.update, sample.rows, sample.tokens), (Update(7), 2, 90));
        assert_eq!(sample.ends_us(), [10_000, 250_000, 750_000, 950_000, 1_000_000]);
        assert_eq!(sample.ended_us(), 2_500_000);
    }

    #[test]
    fn nonsense_does_no_harm() {
        let mut report = report(7, u64::MAX);
        report.timing = Timing {
            data_seconds: f64::NAN,
            forward_seconds: f64::INFINITY,
            backward_seconds: -3.0,
            wait_seconds: f64::MAX,
            exchange_seconds: f64::NEG_INFINITY,
            ..report.timing
        };
        let sample = Sample::of(&report);
        assert_eq!(sample.seconds, [0.0, 0.0, 0.0, MOST_SECONDS, 0.05]);
        assert_eq!((sample.exchange_seconds, sample.ended_us()), (0.0, u64::MAX));
    }
}
