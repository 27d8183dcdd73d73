//! How long training takes, where somebody knows how fast it is.

use serde::Serialize;

use super::Course;
use crate::archive::OutputDir;

/// Where a speed comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `--rows_per_second`.
    Given,
    /// The run that lies, complete, in the output folder measured itself.
    EarlierRun,
}

/// A speed, and what it makes of the run. Evaluations, saves and the start come on top.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Rows a second of all workers together.
    pub rows_per_second: f64,
    /// Who says so.
    pub source: Source,
    /// Seconds that the updates take that are still to be made.
    pub training_seconds: f64,
}

impl Speed {
    /// The speed that was `given`, else that of the run whose ledger lies in `output`; `None` where there is neither.
    pub(super) fn known(given: Option<f64>, output: &OutputDir, course: &Course) -> Option<Self> {
        let given = given.map(|rate| (rate, Source::Given));
        let (rows_per_second, source) = given.or_else(|| Some((earlier(output)?, Source::EarlierRun)))?;
        let left = course.updates.saturating_sub(course.updates_done) as f64;
        // The last update of an epoch may be short.
        let rows = left * course.rows as f64 / course.updates_per_epoch.max(1) as f64;
        Some(Self { rows_per_second, source, training_seconds: rows / rows_per_second })
    }
}

/// The speed that a ledger tells of its run; only a complete run has summed up.
fn earlier(output: &OutputDir) -> Option<f64> {
    // One that cannot be read was refused before, or is about to be replaced.
    let recovered = output.ledger().ok().flatten()?;
    recovered.history.rows_per_second().filter(|rate| *rate > 0.0)
}
