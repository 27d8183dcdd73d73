//! How fast training goes lately.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use medley_common::identity::WorkerId;

use crate::run::report::UpdateRecord;

/// The span that "lately" means.
const WINDOW: Duration = Duration::from_secs(20);
/// Updates kept at most, so that fast runs do not pile up.
const KEPT: usize = 512;

/// What was computed when.
#[derive(Debug, Clone)]
struct Mark {
    at: Instant,
    rows: u64,
    tokens: u64,
    /// Who computed how many of the rows, a lane each.
    shares: Vec<(WorkerId, u64)>,
}

/// Rates over the last updates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Rows a second.
    pub rows: f64,
    /// Tokens a second.
    pub tokens: f64,
    /// Updates a second.
    pub updates: f64,
}

/// Measures rates over a sliding window of updates.
#[derive(Debug, Default)]
pub struct Meter {
    marks: VecDeque<Mark>,
    /// Rows and tokens of all marks but the first, which says no more than when the second began.
    rows: u64,
    tokens: u64,
    /// The rows by who computed them: with hundreds of workers, too many marks to look through for each.
    rows_by_worker: BTreeMap<WorkerId, u64>,
}

impl Meter {
    /// Starts a stretch of training: what lies before (an evaluation, a save) does not count as training time.
    pub fn restart(&mut self, at: Instant) {
        *self = Self::default();
        self.marks.push_back(Mark { at, rows: 0, tokens: 0, shares: Vec::new() });
    }

    /// Notes an update.
    pub fn update(&mut self, at: Instant, record: &UpdateRecord) {
        let rows = record.lanes.iter().map(|lane| lane.len() as u64);
        let shares = record.workers.iter().copied().zip(rows.clone()).collect();
        let mark = Mark { at, rows: rows.sum(), tokens: record.tokens, shares };
        if !self.marks.is_empty() {
            self.rows += mark.rows;
            self.tokens += mark.tokens;
            mark.shares.iter().for_each(|(worker, rows)| *self.rows_by_worker.entry(*worker).or_default() += rows);
        }
        self.marks.push_back(mark);
        let stale = |mark: &Mark| at.duration_since(mark.at) > WINDOW;
        while self.marks.len() > KEPT || (self.marks.len() > 2 && self.marks.front().is_some_and(stale)) {
            self.marks.pop_front();
            self.discount_first();
        }
    }

    /// What is the first mark now counts no more.
    fn discount_first(&mut self) {
        let Some(first) = self.marks.front() else { return };
        self.rows -= first.rows;
        self.tokens -= first.tokens;
        for (worker, rows) in &first.shares {
            let Some(known) = self.rows_by_worker.get_mut(worker) else { continue };
            *known -= rows;
            if *known == 0 {
                self.rows_by_worker.remove(worker);
            }
        }
    }

    /// The rates of the window; `None` before the first update of a stretch.
    #[must_use]
    pub fn rates(&self) -> Option<Rates> {
        let seconds = self.seconds()?;
        let per_second = |count: u64| count as f64 / seconds;
        let updates = self.marks.len() as u64 - 1;
        Some(Rates { rows: per_second(self.rows), tokens: per_second(self.tokens), updates: per_second(updates) })
    }

    /// Rows that a worker computes a second; `None` before the first update of a stretch.
    #[must_use]
    pub fn rows_of(&self, worker: WorkerId) -> Option<f64> {
        let rows = self.rows_by_worker.get(&worker).copied().unwrap_or(0);
        self.seconds().map(|seconds| rows as f64 / seconds)
    }

    /// The length of the window.
    fn seconds(&self) -> Option<f64> {
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        (seconds > 0.0).then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_common::identity::{RowId, Update};

    /// An update of two lanes of 24 and 8 rows.
    fn record() -> UpdateRecord {
        UpdateRecord {
            update: Update(1),
            attempt: 1,
            epoch: 0.0,
            learning_rate: 0.0,
            loss: 0.0,
            grad_norm: 0.0,
            skipped: false,
            lanes: vec![vec![RowId(0); 24], vec![RowId(0); 8]],
            workers: vec![WorkerId(1), WorkerId(2)],
            tokens: 1_440,
            parameters: None,
        }
    }

    #[test]
    fn rates_are_those_of_the_window() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rates(), None);
        meter.restart(start);
        assert_eq!(meter.rates(), None);
        for second in 1..=100 {
            meter.update(start + Duration::from_secs(second), &record());
        }
        let rates = meter.rates().unwrap();
        assert_eq!((rates.rows, rates.tokens, rates.updates), (32.0, 1_440.0, 1.0));
        assert_eq!([1, 2, 3].map(|worker| meter.rows_of(WorkerId(worker))), [Some(24.0), Some(8.0), Some(0.0)]);
        let replaced = UpdateRecord { workers: vec![WorkerId(3), WorkerId(2)], ..record() };
        (101..=121).for_each(|second| meter.update(start + Duration::from_secs(second), &replaced));
        assert_eq!([1, 2, 3].map(|worker| meter.rows_of(WorkerId(worker))), [Some(0.0), Some(8.0), Some(24.0)]);
        assert_eq!(meter.rates(), Some(rates), "who computes them does not matter");
        assert_eq!(meter.rows_by_worker.len(), 2, "who has left is forgotten");
        meter.restart(start + Duration::from_secs(200));
        assert_eq!(meter.rates(), None, "a pause is no training time");
        meter.update(start + Duration::from_secs(202), &record());
        assert_eq!(meter.rates().unwrap().rows, 16.0, "what was before it does not count");
        assert_eq!([2, 3].map(|worker| meter.rows_of(WorkerId(worker))), [Some(4.0), Some(0.0)]);
    }

    #[test]
    fn the_first_update_of_all_only_starts_the_clock_and_fast_ones_do_not_pile_up() {
        let start = Instant::now();
        let mut meter = Meter::default();
        (0..=600).for_each(|tick| meter.update(start + Duration::from_millis(10 * tick), &record()));
        let rates = meter.rates().unwrap();
        assert!((rates.updates - 100.0).abs() < 1e-6 && (rates.rows - 3_200.0).abs() < 1e-6, "{rates:?}");
        assert_eq!(meter.marks.len(), KEPT);
        assert_eq!(meter.rows, 32 * (KEPT as u64 - 1), "the first is no more than when the second began");
    }
}
