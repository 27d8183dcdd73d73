//! What `medley status` shows: a run's status as text or JSON.

use std::fmt::Write;
use std::time::Instant;

use medley_proto::v1;
use serde_json::{Value, json};

use crate::meter::Meter;
use crate::run::report::Outcome;
use crate::run::{EvaluationView, PhaseName, PhaseSeconds, RunView, Slowness, WorkerView};

/// A run's view as it is told to others.
#[must_use]
pub fn of(view: &RunView<'_>, meter: &Meter, started: Instant, now: Instant) -> v1::Status {
    let rates = meter.rates();
    let left = view.total.0.saturating_sub(view.update.0) as f64;
    let worker = |worker: &WorkerView<'_>| v1::WorkerStatus {
        worker: worker.worker.0,
        rank: worker.rank.map(|rank| rank.0),
        host: worker.host.to_owned(),
        pid: worker.pid,
        device: worker.device.to_owned(),
        state: worker.state.to_owned(),
        update: worker.update.0,
        silent_seconds: now.saturating_duration_since(worker.heard).as_secs_f64(),
        slowness: worker.slowness.map(|slowness| v1::Slowness::from(slowness).into()),
        phases: worker.phases.map(|phases| {
            let PhaseSeconds { data, compute, wait, report } = phases;
            v1::PhaseSeconds { data, compute, wait, report }
        }),
        rows_per_second: worker.rank.and_then(|_| meter.rows_of(worker.worker)),
        wait_share: worker.phases.map(|phases| {
            let PhaseSeconds { data, compute, wait, report: _ } = phases;
            wait / (data + compute + wait).max(f64::MIN_POSITIVE)
        }),
    };
    let evaluation = |evaluation: &EvaluationView| v1::EvaluationStatus {
        split: evaluation.split.to_string(),
        update: evaluation.update.0,
        accuracy: evaluation.accuracy,
        loss: evaluation.loss,
    };
    v1::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        phase: v1::Phase::from(view.phase).into(),
        update: view.update.0,
        total_updates: view.total.0,
        epoch: view.epoch,
        loss: view.last.map(|record| record.loss),
        learning_rate: view.last.map(|record| record.learning_rate),
        grad_norm: view.last.map(|record| record.grad_norm),
        rows_per_second: rates.map(|rates| rates.rows),
        tokens_per_second: rates.map(|rates| rates.tokens),
        eta_seconds: rates.map(|rates| left / rates.updates.max(f64::MIN_POSITIVE)),
        elapsed_seconds: (now - started).as_secs_f64(),
        workers_expected: view.workers_expected,
        workers: view.workers.iter().map(worker).collect(),
        evaluations: view.evaluations.iter().map(evaluation).collect(),
        checkpoint_update: view.checkpoint.map(|update| update.0),
        outcome: view.outcome.map_or_else(String::new, outcome),
        generation: view.generation.0,
        paused: None,
        precision: view.precision.to_string(),
        skipped_updates: view.skipped,
        saving_update: view.saving.map(|update| update.0),
        run: view.run.to_string(),
        stopping: false,
        waiting: view.waiting.clone(),
        counts: None,
        moments: Vec::new(),
    }
}

/// How a run ended, in words.
#[must_use]
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Completed => "completed".to_owned(),
        Outcome::Stopped { update, .. } => format!("stopped after update {update}"),
        Outcome::Failed(failure) => format!("failed: {failure}"),
    }
}

impl From<PhaseName> for v1::Phase {
    fn from(phase: PhaseName) -> Self {
        match phase {
            PhaseName::Gathering => Self::Gathering,
            PhaseName::Forming => Self::Forming,
            PhaseName::Training => Self::Training,
            PhaseName::Saving => Self::Saving,
            PhaseName::Evaluating => Self::Evaluating,
            PhaseName::Predicting => Self::Predicting,
            PhaseName::Finished => Self::Finished,
        }
    }
}

impl From<Slowness> for v1::Slowness {
    fn from(slowness: Slowness) -> Self {
        match slowness {
            Slowness::Data => Self::Data,
            Slowness::Compute => Self::Compute,
            Slowness::Report => Self::Report,
        }
    }
}

/// The status as a person reads it; several lines.
#[must_use]
pub fn text(status: &v1::Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    write_text(&mut out, status).ok();
    out
}

fn write_text(out: &mut String, status: &v1::Status) -> std::fmt::Result {
    writeln!(out, "phase     {}", phase(status.phase()))?;
    if status.total_updates > 0 {
        let share = 100.0 * status.update as f64 / status.total_updates as f64;
        let (update, total, epoch) = (status.update, status.total_updates, status.epoch);
        writeln!(out, "update    {update} of {total} ({share:.1} %), epoch {epoch:.2}")?;
    }
    if status.skipped_updates > 0 {
        writeln!(out, "skipped   {} updates, whose gradient overflowed in half precision", status.skipped_updates)?;
    }
    if let (Some(loss), Some(rate), Some(norm)) = (status.loss, status.learning_rate, status.grad_norm) {
        writeln!(out, "loss      {loss:.4}, learning rate {rate:.3e}, gradient norm {norm:.3}")?;
    }
    if let (Some(rows), Some(tokens)) = (status.rows_per_second, status.tokens_per_second) {
        write!(out, "speed     {rows:.1} rows/s, {tokens:.0} tokens/s")?;
        match status.eta_seconds {
            Some(eta) => writeln!(out, ", {} left", duration(eta))?,
            None => writeln!(out)?,
        }
    }
    writeln!(out, "elapsed   {}", duration(status.elapsed_seconds))?;
    if let Some(reason) = &status.paused {
        writeln!(out, "paused    {reason}")?;
    }
    if let Some(update) = status.saving_update {
        writeln!(out, "saving    update {update}")?;
    }
    if status.stopping {
        writeln!(out, "stopping  what is under way is finished and saved")?;
    }
    for reason in &status.waiting {
        writeln!(out, "waiting   for {reason}")?;
    }
    if let Some(update) = status.checkpoint_update {
        writeln!(out, "saved     update {update}")?;
    }
    for evaluation in &status.evaluations {
        write!(out, "{:<9} update {}", evaluation.split, evaluation.update)?;
        match (evaluation.accuracy, evaluation.loss) {
            (Some(accuracy), Some(loss)) => writeln!(out, ": accuracy {accuracy:.4}, loss {loss:.4}")?,
            _ => writeln!(out, ": predicted; no labels")?,
        }
    }
    let v1::Status { workers, workers_expected, precision, .. } = status;
    writeln!(out, "workers   {} of {workers_expected}, in {precision}", workers.len())?;
    for worker in &status.workers {
        let rank = worker.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string());
        let v1::WorkerStatus { worker: number, host, pid, device, state, update, silent_seconds, .. } = worker;
        write!(out, "  rank {rank:<3} worker {number}, {host} pid {pid} {device}: {state}, update {update}")?;
        write!(out, ", heard {silent_seconds:.1} s ago")?;
        if let (Some(rows), Some(share)) = (worker.rows_per_second, worker.wait_share) {
            write!(out, ", {rows:.1} rows/s, waits {:.0} %", 100.0 * share)?;
        }
        if let Some(slowness) = slowness(worker) {
            write!(out, "; SLOW: {slowness}")?;
        }
        if let Some(v1::PhaseSeconds { data, compute, wait, report }) = worker.phases {
            let ms = |seconds: f64| seconds * 1e3;
            let (data, compute, wait, report) = (ms(data), ms(compute), ms(wait), ms(report));
            write!(out, "\n           data {data:.0} ms, compute {compute:.0}, waiting {wait:.0}, report {report:.0}")?;
        }
        writeln!(out)?;
    }
    if !status.outcome.is_empty() {
        writeln!(out, "outcome   {}", status.outcome)?;
    }
    Ok(())
}

/// The status as JSON, with the field names of `medley.v1.Status`.
#[must_use]
pub fn json(status: &v1::Status) -> Value {
    let worker = |worker: &v1::WorkerStatus| {
        json!({
            "worker": worker.worker,
            "rank": worker.rank,
            "host": worker.host,
            "pid": worker.pid,
            "device": worker.device,
            "state": worker.state,
            "update": worker.update,
            "silent_seconds": worker.silent_seconds,
            "slowness": slowness(worker),
            "phases": worker.phases.map(|phases| json!({
                "data_seconds": phases.data,
                "compute_seconds": phases.compute,
                "wait_seconds": phases.wait,
                "report_seconds": phases.report,
            })),
            "rows_per_second": worker.rows_per_second,
            "wait_share": worker.wait_share,
        })
    };
    let evaluation = |evaluation: &v1::EvaluationStatus| {
        json!({
            "split": evaluation.split,
            "update": evaluation.update,
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss,
        })
    };
    json!({
        "version": status.version,
        "phase": phase(status.phase()),
        "update": status.update,
        "total_updates": status.total_updates,
        "epoch": status.epoch,
        "loss": status.loss,
        "learning_rate": status.learning_rate,
        "grad_norm": status.grad_norm,
        "rows_per_second": status.rows_per_second,
        "tokens_per_second": status.tokens_per_second,
        "eta_seconds": status.eta_seconds,
        "elapsed_seconds": status.elapsed_seconds,
        "workers_expected": status.workers_expected,
        "workers": status.workers.iter().map(worker).collect::<Vec<_>>(),
        "evaluations": status.evaluations.iter().map(evaluation).collect::<Vec<_>>(),
        "checkpoint_update": status.checkpoint_update,
        "saving_update": status.saving_update,
        "outcome": status.outcome,
        "generation": status.generation,
        "paused": status.paused,
        "precision": status.precision,
        "skipped_updates": status.skipped_updates,
        "run": status.run,
        "stopping": status.stopping,
        "waiting": status.waiting,
        "counts": status.counts.as_ref().map(counts),
        "moments": status.moments.iter().map(moment).collect::<Vec<_>>(),
    })
}

fn moment(moment: &v1::Moment) -> Value {
    let v1::Moment { update, at_seconds, words, mood } = moment;
    json!({ "update": update, "at_seconds": at_seconds, "words": words, "mood": mood })
}

fn counts(counts: &v1::Counts) -> Value {
    let v1::Counts { updates, rows, tokens, groups, checkpoints, faults } = counts;
    let faults: serde_json::Map<String, Value> =
        faults.iter().filter_map(|it| Some((fault(it.fault())?.to_owned(), it.count.into()))).collect();
    json!({
        "updates": updates,
        "rows": rows,
        "tokens": tokens,
        "groups": groups,
        "checkpoints": checkpoints,
        "faults": faults,
    })
}

/// What went wrong, in a word.
#[must_use]
pub fn fault(fault: v1::Fault) -> Option<&'static str> {
    match fault {
        v1::Fault::Unspecified => None,
        v1::Fault::WorkerLost => Some("worker_lost"),
        v1::Fault::WorkerSilent => Some("worker_silent"),
        v1::Fault::WorkerRefused => Some("worker_refused"),
        v1::Fault::Rewind => Some("rewind"),
        v1::Fault::Disk => Some("disk"),
    }
}

/// In what a worker is slower than the others, in a word; `None` where it is not.
pub fn slowness(worker: &v1::WorkerStatus) -> Option<&'static str> {
    match v1::Slowness::try_from(worker.slowness?).ok()? {
        v1::Slowness::Unspecified => None,
        v1::Slowness::Data => Some("data"),
        v1::Slowness::Compute => Some("compute"),
        v1::Slowness::Report => Some("report"),
    }
}

/// A phase's name in lower case.
#[must_use]
pub fn phase(phase: v1::Phase) -> &'static str {
    match phase {
        v1::Phase::Unspecified => "unknown",
        v1::Phase::Gathering => "gathering",
        v1::Phase::Forming => "forming",
        v1::Phase::Training => "training",
        v1::Phase::Saving => "saving",
        v1::Phase::Evaluating => "evaluating",
        v1::Phase::Predicting => "predicting",
        v1::Phase::Finished => "finished",
    }
}

/// Seconds as a person says them: `42 s`, `3 min 05 s`, `2 h 07 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_run_reads_well() {
        let mut status = v1::Status {
            update: 5,
            skipped_updates: 2,
            total_updates: 10,
            epoch: 0.5,
            loss: Some(1.0),
            learning_rate: Some(3e-5),
            grad_norm: Some(2.0),
            elapsed_seconds: 65.2,
            workers_expected: 2,
            ..Default::default()
        };
        status.set_phase(v1::Phase::Training);
        let phases = v1::PhaseSeconds { data: 0.001, compute: 0.4, wait: 0.02, report: 0.0 };
        let slow = v1::WorkerStatus { phases: Some(phases), ..Default::default() };
        status.workers = vec![v1::WorkerStatus { slowness: Some(v1::Slowness::Compute.into()), ..slow }];
        let text = text(&status);
        assert!(text.contains("; SLOW: compute\n           data 1 ms, compute 400, waiting 20, report 0\n"), "{text}");
        assert_eq!(json(&status)["workers"][0]["slowness"], "compute");
        assert_eq!(json(&status)["workers"][0]["phases"]["wait_seconds"], 0.02);
        assert!(text.contains("update    5 of 10 (50.0 %), epoch 0.50"), "{text}");
        assert!(text.contains("skipped   2 updates"), "{text}");
        assert!(text.contains("learning rate 3.000e-5"), "{text}");
        assert!(text.contains("elapsed   1 min 05 s"), "{text}");
        assert_eq!(json(&status)["phase"], "training");
        assert_eq!(json(&status)["rows_per_second"], Value::Null);
    }

    #[test]
    fn durations_are_rounded_to_what_matters() {
        assert_eq!(duration(0.4), "0 s");
        assert_eq!(duration(59.6), "1 min 00 s");
        assert_eq!(duration(7_620.0), "2 h 07 min");
    }
}
