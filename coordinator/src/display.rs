//! What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere; on standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use medley_common::identity::{Split, Update};

use crate::meter::Rates;
use crate::run::Occasion;
use crate::run::report::{EvaluationReport, TrainLog, UpdateRecord};
use crate::spec::Progress;
use crate::status_view::duration;

/// The longest silence between two plain lines of a training stretch.
const PLAIN_PAUSE: Duration = Duration::from_secs(10);
/// Redraws of the bar a second.
const REDRAWS: u8 = 8;

/// Writes a line to standard error. A reader that has gone away (`| head`) must not end the run.
pub fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// Shows a run.
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    total: Update,
    last_line: Option<Instant>,
    is_quiet: bool,
}

impl Display {
    /// A display of a run of `total` updates, on standard error; with a bar only where it is `wanted`.
    #[must_use]
    pub fn new(total: Update, wanted: Progress) -> Self {
        let shows_bar = wanted == Progress::Shown && std::io::stderr().is_terminal() && total.0 > 0;
        let bar = shows_bar.then(|| bar(total));
        Self { bar, total, last_line: None, is_quiet: false }
    }

    /// A display that shows warnings alone.
    #[must_use]
    pub fn quiet() -> Self {
        Self { bar: None, total: Update(0), last_line: None, is_quiet: true }
    }

    /// Shows a line for good.
    pub fn line(&self, text: &str) {
        if self.is_quiet && !text.starts_with("warning:") {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Shows where training stands.
    pub fn update(&mut self, record: &UpdateRecord, rates: Option<Rates>, now: Instant) {
        let left = self.total.0.saturating_sub(record.update.0) as f64;
        let pace = rates.map_or_else(String::new, |rates| {
            format!(", {:.0} rows/s, {} left", rates.rows, duration(left / rates.updates.max(f64::MIN_POSITIVE)))
        });
        let UpdateRecord { epoch, loss, learning_rate, .. } = record;
        if let Some(bar) = &self.bar {
            bar.set_position(record.update.0);
            // Short enough for 80 columns: a line that wraps is never wiped.
            bar.set_message(format!("loss {loss:.4}, lr {learning_rate:.1e}{pace}"));
        } else if self.last_line.is_none_or(|last| now.duration_since(last) >= PLAIN_PAUSE)
            || record.update == self.total
        {
            self.last_line = Some(now);
            let numbers = format!("epoch {epoch:.2}, loss {loss:.4}, lr {learning_rate:.2e}{pace}");
            say(&format!("update {}/{}: {numbers}", record.update, self.total));
        }
    }

    /// Shows a line of the training log.
    pub fn log(&self, log: &TrainLog) {
        let TrainLog { update, epoch, loss, grad_norm, learning_rate, skipped } = log;
        let skipped = if *skipped > 0 { format!(", {skipped} updates skipped so far") } else { String::new() };
        self.line(&format!(
            "update {update}: mean loss {loss:.4}, gradient norm {grad_norm:.3}, lr {learning_rate:.3e}, \
             epoch {epoch:.2}{skipped}"
        ));
    }

    /// Shows a result: those of the run stand out from those on the way.
    pub fn evaluation(&self, report: &EvaluationReport, occasion: Occasion) {
        let when = match occasion {
            Occasion::Training => format!("after update {}", report.update),
            Occasion::End => "at the end".to_owned(),
        };
        let what = match report.split {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        };
        let rows = report.predictions.len();
        let rate = rows as f64 / report.seconds.max(1e-9);
        let result = match (report.tally.accuracy(), report.tally.mean_loss()) {
            (Some(accuracy), Some(loss)) if report.tally.rows < rows as u64 => {
                let labelled = report.tally.rows;
                format!("accuracy {accuracy:.4}, loss {loss:.4}, over the {labelled} labelled of {rows} rows")
            }
            (Some(accuracy), Some(loss)) => format!("accuracy {accuracy:.4}, loss {loss:.4}, {rows} rows"),
            _ => format!("predicted, {rows} rows without labels"),
        };
        self.line(&format!("{what} {when}: {result} ({rate:.0} rows/s)"));
    }

    /// Takes the bar away, for the last words.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Update) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total.0), ProgressDrawTarget::stderr_with_hz(REDRAWS));
    // A template that does not parse would be a fault of this line alone: fall back to the plain bar.
    let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
