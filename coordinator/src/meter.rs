//! How fast training goes lately.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The span that "lately" means.
const WINDOW: Duration = Duration::from_secs(20);
/// Updates kept at most, so that fast runs do not pile up.
const KEPT: usize = 512;

/// What was computed when.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    rows: u64,
    tokens: u64,
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
}

impl Meter {
    /// Starts a stretch of training: what lies before (an evaluation, a save) does not count as training time.
    pub fn restart(&mut self, at: Instant) {
        self.marks.clear();
        self.marks.push_back(Mark { at, rows: 0, tokens: 0 });
    }

    /// Notes an update.
    pub fn update(&mut self, at: Instant, rows: u64, tokens: u64) {
        self.marks.push_back(Mark { at, rows, tokens });
        let stale = |mark: &Mark| at.duration_since(mark.at) > WINDOW;
        while self.marks.len() > KEPT || (self.marks.len() > 2 && self.marks.front().is_some_and(stale)) {
            self.marks.pop_front();
        }
    }

    /// The rates of the window; `None` before the first update of a stretch.
    #[must_use]
    pub fn rates(&self) -> Option<Rates> {
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let later = || self.marks.iter().skip(1);
        (seconds > 0.0).then(|| Rates {
            rows: later().map(|mark| mark.rows).sum::<u64>() as f64 / seconds,
            tokens: later().map(|mark| mark.tokens).sum::<u64>() as f64 / seconds,
            updates: later().count() as f64 / seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_window() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rates(), None);
        meter.restart(start);
        assert_eq!(meter.rates(), None);
        for second in 1..=100 {
            meter.update(start + Duration::from_secs(second), 32, 1_440);
        }
        let rates = meter.rates().unwrap();
        assert_eq!((rates.rows, rates.tokens, rates.updates), (32.0, 1_440.0, 1.0));
        meter.restart(start + Duration::from_secs(200));
        assert_eq!(meter.rates(), None, "a pause is no training time");
    }
}
