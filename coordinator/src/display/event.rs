//! What happens in a run, as it is told: how much it matters, its name and fields for programs, its sentence for people.

use std::net::SocketAddr;
use std::path::Path;

use medley_common::identity::{Split, Update, WorkerId};
use medley_common::message::Failure;
use serde_json::{Map, Value, json};

use crate::meter::Rates;
use crate::run::report::{EvaluationReport, TrainLog, UpdateRecord};
use crate::run::{Occasion, PhaseName};
use crate::spec::{Level, PlanSummary};
use crate::status_view::duration;
use crate::summary::Summary;

/// How a sentence begins that warns.
const WARNING: &str = "warning: ";

/// How a line begins that a worker says by itself.
const WORKER: &str = "medley-worker: ";

/// Something that a person, or whoever collects logs, may want to know.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// What the run is going to do.
    Plan(&'a PlanSummary),
    /// Where probes are answered.
    Probes(SocketAddr),
    /// Where workers and viewers find the coordinator, and what they type.
    Listening(SocketAddr, &'a str),
    /// So many workers are to be started, with these words behind `--coordinator`.
    Awaited(u32, &'a str),
    /// Anything that a sentence says; one that begins with `warning: ` warns.
    Notice(&'a str),
    /// The same of what somebody should look after, however it begins.
    Warning(&'a str),
    /// What a worker that this process has started says on its standard error.
    Worker(u32, &'a str),
    /// A worker was let in.
    Joined {
        /// Its name.
        worker: WorkerId,
        /// Its host.
        host: &'a str,
        /// Its process there.
        pid: u32,
        /// What it computes on.
        device: &'a str,
    },
    /// A worker was not let in, and why.
    Refused(WorkerId, &'a str),
    /// The run does something else from now on.
    Phase(PhaseName),
    /// An update was made.
    Updated(Updated<'a>),
    /// A line of the training log.
    Logged(&'a TrainLog),
    /// A split was predicted.
    Evaluated(&'a EvaluationReport, Occasion),
    /// What has come of the run, and what to type next.
    Summary(&'a Summary),
    /// All is done, and lies there.
    Completed(&'a Path),
    /// The run was stopped after an update; the newest that is saved.
    Stopped(Update, Option<Update>),
    /// The run cannot go on, or never began.
    Failed(&'a Failure),
}

/// An update that was made.
#[derive(Debug, Clone, Copy)]
pub struct Updated<'a> {
    /// The update.
    pub record: &'a UpdateRecord,
    /// Updates of the whole run.
    pub total: Update,
    /// How fast it goes, once that is known.
    pub rates: Option<Rates>,
    /// Whether it is told to who does not want to hear of each.
    pub is_milestone: bool,
}

impl Updated<'_> {
    /// `, 52 rows/s, 3 min 10 s left`, or nothing.
    pub(super) fn pace(&self) -> String {
        self.rates.map_or_else(String::new, |rates| {
            format!(", {:.0} rows/s, {} left", rates.rows, duration(self.seconds_left(rates)))
        })
    }

    fn seconds_left(&self, rates: Rates) -> f64 {
        let left = self.total.0.saturating_sub(self.record.update.0) as f64;
        left / rates.updates.max(f64::MIN_POSITIVE)
    }
}

impl Event<'_> {
    /// How much it matters.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Phase(_) | Self::Updated(Updated { is_milestone: false, .. }) => Level::Debug,
            Self::Notice(text) if text.starts_with(WARNING) => Level::Warning,
            // What it does not say by itself, a panic say.
            Self::Worker(_, text) if !text.starts_with(WORKER) => Level::Warning,
            Self::Warning(_) | Self::Refused(..) => Level::Warning,
            Self::Failed(_) => Level::Error,
            _ => Level::Info,
        }
    }

    /// Whether it is what came of the run: told however quiet it is to be.
    #[must_use]
    pub fn is_result(&self) -> bool {
        matches!(self, Self::Evaluated(_, Occasion::End) | Self::Completed(_) | Self::Stopped(..) | Self::Failed(_))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plan(_) => "plan",
            Self::Probes(_) => "probes",
            Self::Listening(..) => "listening",
            Self::Awaited(..) => "awaiting_workers",
            Self::Notice(_) | Self::Warning(_) => "notice",
            Self::Worker(..) => "worker_output",
            Self::Joined { .. } => "worker_joined",
            Self::Refused(..) => "worker_refused",
            Self::Phase(_) => "phase",
            Self::Updated(_) => "update",
            Self::Logged(_) => "log",
            Self::Evaluated(..) => "evaluation",
            Self::Summary(_) => "summary",
            Self::Completed(_) => "completed",
            Self::Stopped(..) => "stopped",
            Self::Failed(_) => "failed",
        }
    }

    /// What a program may want to know of it, by name.
    #[must_use]
    pub fn fields(&self) -> Map<String, Value> {
        let fields = match self {
            Self::Plan(summary) => {
                summary.lines().map(|(name, text)| (name.replace(' ', "_"), Value::from(text))).collect()
            }
            Self::Probes(address) | Self::Listening(address, _) => json!({ "address": address.to_string() }),
            Self::Awaited(workers, _) => json!({ "workers": workers }),
            Self::Notice(_) | Self::Warning(_) => json!({}),
            Self::Worker(pid, _) => json!({ "pid": pid }),
            Self::Joined { worker, host, pid, device } => {
                json!({ "worker": worker.0, "host": host, "pid": pid, "device": device })
            }
            Self::Refused(worker, reason) => json!({ "worker": worker.0, "reason": reason }),
            Self::Phase(phase) => json!({ "phase": phase_name(*phase) }),
            Self::Updated(updated) => of_update(updated),
            Self::Logged(log) => json!({
                "update": log.update.0, "epoch": log.epoch, "loss": log.loss, "grad_norm": log.grad_norm,
                "learning_rate": log.learning_rate, "skipped_updates": log.skipped,
            }),
            Self::Evaluated(report, occasion) => json!({
                "split": report.split.to_string(), "update": report.update.0, "rows": report.predictions.len(),
                "labelled_rows": report.tally.rows, "accuracy": report.tally.accuracy(),
                "loss": report.tally.mean_loss(), "seconds": report.seconds, "final": *occasion == Occasion::End,
            }),
            Self::Summary(summary) => summary.fields(),
            Self::Completed(folder) => json!({ "output_dir": folder.display().to_string() }),
            Self::Stopped(update, saved) => json!({ "update": update.0, "saved_update": saved.map(|update| update.0) }),
            Self::Failed(failure) => json!({ "kind": format!("{:?}", failure.kind).to_lowercase() }),
        };
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// Its sentence: lower case, no full stop; a plan has several lines.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Plan(summary) => summary.to_string().trim_end().to_owned(),
            Self::Probes(address) => {
                format!("live page, health and metrics on http://{address}: /healthz, /readyz, /metrics")
            }
            Self::Listening(address, called) => {
                format!("coordinator listens on {address}; medley status --coordinator {called}")
            }
            Self::Awaited(workers, called) => {
                format!("waiting for workers, {workers} in all; start each with: medley-worker --coordinator {called}")
            }
            Self::Notice(text) | Self::Warning(text) | Self::Worker(_, text) => (*text).to_owned(),
            Self::Joined { worker, host, pid, device } => {
                format!("worker {worker} joined: {host}, pid {pid}, {device}")
            }
            Self::Refused(worker, reason) => format!("refused worker {worker}: {reason}"),
            Self::Phase(phase) => phase_name(*phase).to_owned(),
            Self::Updated(updated) => {
                let UpdateRecord { update, epoch, loss, learning_rate, .. } = updated.record;
                let (total, pace) = (updated.total, updated.pace());
                format!("update {update}/{total}: epoch {epoch:.2}, loss {loss:.4}, lr {learning_rate:.2e}{pace}")
            }
            Self::Logged(log) => of_log(log),
            Self::Evaluated(report, occasion) => of_evaluation(report, *occasion),
            Self::Summary(summary) => summary.text(),
            Self::Completed(folder) => format!("done: the results are in {}", folder.display()),
            Self::Stopped(update, saved) => of_stop(*update, *saved),
            Self::Failed(failure) => failure.to_string(),
        }
    }

    /// Its sentence where its level stands beside it.
    #[must_use]
    pub fn message(&self) -> String {
        let text = self.text();
        text.strip_prefix(WARNING).map(ToOwned::to_owned).unwrap_or(text)
    }
}

fn phase_name(phase: PhaseName) -> &'static str {
    match phase {
        PhaseName::Gathering => "gathering",
        PhaseName::Forming => "forming",
        PhaseName::Training => "training",
        PhaseName::Saving => "saving",
        PhaseName::Evaluating => "evaluating",
        PhaseName::Predicting => "predicting",
        PhaseName::Finished => "finished",
    }
}

fn of_update(updated: &Updated<'_>) -> Value {
    let UpdateRecord { update, epoch, loss, learning_rate, grad_norm, tokens, skipped, .. } = updated.record;
    let mut fields = json!({
        "update": update.0, "total_updates": updated.total.0, "epoch": epoch, "loss": loss,
        "learning_rate": learning_rate, "grad_norm": grad_norm, "tokens": tokens, "skipped": skipped,
    });
    if let Some(rates) = updated.rates {
        fields["rows_per_second"] = rates.rows.into();
        fields["eta_seconds"] = updated.seconds_left(rates).into();
    }
    fields
}

fn of_log(log: &TrainLog) -> String {
    let TrainLog { update, epoch, loss, grad_norm, learning_rate, skipped } = log;
    let skipped = if *skipped > 0 { format!(", {skipped} updates skipped so far") } else { String::new() };
    format!(
        "update {update}: mean loss {loss:.4}, gradient norm {grad_norm:.3}, lr {learning_rate:.3e}, \
         epoch {epoch:.2}{skipped}"
    )
}

/// Results of the run stand out from those on the way.
fn of_evaluation(report: &EvaluationReport, occasion: Occasion) -> String {
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
    format!("{what} {when}: {result} ({rate:.0} rows/s)")
}

fn of_stop(update: Update, saved: Option<Update>) -> String {
    match saved {
        Some(saved) if saved == update => {
            format!("stopped after update {update}, which is saved: the same command goes on from there")
        }
        Some(saved) => format!(
            "stopped at once after update {update}: the same command goes on from the checkpoint of update {saved}"
        ),
        None if update.0 > 0 => format!("stopped at once after update {update}: nothing of it is saved"),
        None => "stopped; nothing was trained yet".to_owned(),
    }
}
