//! A run's status in Prometheus' text format: numbers alone, labelled by rank, kind, split and phase.

use std::fmt::{Display, Write};

use medley_proto::v1;

use crate::status_view;

/// Everything of a run that Prometheus may know.
#[must_use]
pub fn exposition(status: &v1::Status) -> String {
    let mut out = Exposition(String::new());
    about(&mut out, status);
    counters(&mut out, status.counts.clone().unwrap_or_default());
    training(&mut out, status);
    evaluations(&mut out, status);
    workers(&mut out, status);
    out.0
}

/// The text, as far as it is written.
struct Exposition(String);

impl Exposition {
    /// A metric with its samples, each with at most one label; one without samples is not there.
    fn metric<V: Display>(&mut self, (name, kind): (&str, &str), help: &str, samples: Samples<V>) {
        if samples.is_empty() {
            return;
        }
        // Writing to a string cannot fail.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
        for (label, value) in samples {
            let label = label.map(|(key, value)| format!("{{{key}=\"{}\"}}", escaped(&value))).unwrap_or_default();
            writeln!(self.0, "{name}{label} {value}").ok();
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<Option<f64>>) {
        let samples = value.into().map(|value| (None, Number(value))).into_iter().collect();
        self.metric((name, "gauge"), help, samples);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric((name, "counter"), help, vec![(None, value)]);
    }
}

/// What a metric is of a worker.
type OfWorker = fn(&v1::WorkerStatus) -> Option<f64>;

/// Samples of a metric: at most one label, and the value.
type Samples<V> = Vec<(Option<(&'static str, String)>, V)>;

/// A number as Prometheus writes it.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            number if number == f64::INFINITY => f.write_str("+Inf"),
            number if number == f64::NEG_INFINITY => f.write_str("-Inf"),
            number => write!(f, "{number}"),
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn about(out: &mut Exposition, status: &v1::Status) {
    let info = |key, value: &str| vec![(Some((key, value.to_owned())), 1)];
    out.metric(
        ("medley_build_info", "gauge"),
        "Always 1; the version of the coordinator is its label.",
        info("version", env!("CARGO_PKG_VERSION")),
    );
    if let Some(run) = status.run.get(..12) {
        out.metric(("medley_run_info", "gauge"), "Always 1; which run it is, by its first digits.", info("run", run));
    }
    let phases = (1..).map_while(|number| v1::Phase::try_from(number).ok());
    let is_in = |phase| (Some(("phase", status_view::phase(phase).to_owned())), u8::from(phase == status.phase()));
    out.metric(("medley_phase", "gauge"), "1 for what the run is doing, 0 for all else.", phases.map(is_in).collect());
    out.gauge("medley_uptime_seconds", "Time since the coordinator started.", status.elapsed_seconds);
    out.gauge("medley_stopping", "Whether the run was asked to stop.", flag(status.stopping));
    out.gauge(
        "medley_paused",
        "Whether nothing can be written, so that training waits.",
        flag(status.paused.is_some()),
    );
}

fn counters(out: &mut Exposition, counts: v1::Counts) {
    let v1::Counts { updates, rows, tokens, groups, checkpoints, faults } = counts;
    out.counter("medley_updates_total", "Updates made, those that were made again included.", updates);
    out.counter("medley_rows_total", "Rows of these updates.", rows);
    out.counter("medley_tokens_total", "Tokens of these updates.", tokens);
    out.counter("medley_groups_total", "Groups of workers that were connected.", groups);
    out.counter("medley_checkpoints_total", "Checkpoints that were written.", checkpoints);
    let kinds = (1..).map_while(|number| v1::Fault::try_from(number).ok());
    let count = |fault| faults.iter().find(|it| it.fault() == fault).map_or(0, |it| it.count);
    let sample = |fault| Some((Some(("kind", status_view::fault(fault)?.to_owned())), count(fault)));
    out.metric(("medley_faults_total", "counter"), "What went wrong, by kind.", kinds.filter_map(sample).collect());
}

fn training(out: &mut Exposition, status: &v1::Status) {
    out.gauge("medley_update", "Updates done.", status.update as f64);
    out.gauge("medley_updates_planned", "Updates of the whole run.", status.total_updates as f64);
    out.gauge("medley_skipped_updates", "Updates done that moved no weight.", status.skipped_updates as f64);
    out.gauge("medley_epoch", "Epochs done.", status.epoch);
    out.gauge("medley_train_loss", "Mean loss of the last update's rows.", status.loss);
    out.gauge("medley_learning_rate", "Learning rate of the last update.", status.learning_rate);
    out.gauge("medley_gradient_norm", "L2 norm of the last update's gradient before clipping.", status.grad_norm);
    out.gauge("medley_rows_per_second", "Rows trained a second, lately.", status.rows_per_second);
    out.gauge("medley_tokens_per_second", "Tokens trained a second, lately.", status.tokens_per_second);
    out.gauge("medley_eta_seconds", "Time until the last update, at this rate.", status.eta_seconds);
    let saved = status.checkpoint_update.map(|update| update as f64);
    out.gauge("medley_checkpoint_last_update", "Updates done in the newest checkpoint.", saved);
}

fn evaluations(out: &mut Exposition, status: &v1::Status) {
    let last = |split: &str| status.evaluations.iter().rev().find(|it| it.split == split);
    let splits = ["validation", "test"];
    let samples = |value: fn(&v1::EvaluationStatus) -> Option<f64>| {
        let sample = |split: &&str| Some((Some(("split", (*split).to_owned())), Number(value(last(split)?)?)));
        splits.iter().filter_map(sample).collect()
    };
    let (accuracy, loss) = (samples(|it| it.accuracy), samples(|it| it.loss));
    out.metric(("medley_evaluation_accuracy", "gauge"), "Share of correct rows, in the newest evaluation.", accuracy);
    out.metric(("medley_evaluation_loss", "gauge"), "Mean loss, in the newest evaluation.", loss);
}

fn workers(out: &mut Exposition, status: &v1::Status) {
    out.gauge(
        "medley_workers_expected",
        "Workers the run waits for or works with.",
        f64::from(status.workers_expected),
    );
    out.gauge("medley_workers", "Workers that take part.", status.workers.len() as f64);
    // Ranks are as many as workers; their numbers, hosts and process ids would be new ones with every restart.
    let by_rank = |value: OfWorker| {
        let sample = |it: &v1::WorkerStatus| Some((Some(("rank", it.rank?.to_string())), Number(value(it)?)));
        status.workers.iter().filter_map(sample).collect::<Samples<Number>>()
    };
    let metrics: [(&str, &str, OfWorker); 4] = [
        ("medley_worker_wait_ratio", "Share of an update's time that the worker waits.", |it| it.wait_share),
        ("medley_worker_rows_per_second", "Rows that the worker trains a second, lately.", |it| it.rows_per_second),
        ("medley_worker_silent_seconds", "Time since the worker was last heard of.", |it| Some(it.silent_seconds)),
        ("medley_worker_slow", "Whether the worker is slower than the others.", |it| Some(flag(it.slowness.is_some()))),
    ];
    for (name, help, value) in metrics {
        out.metric((name, "gauge"), help, by_rank(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_there_and_what_is_counted_begins_at_zero() {
        let text = exposition(&v1::Status::default());
        assert!(!text.contains("medley_train_loss") && !text.contains("medley_worker_wait_ratio"), "{text}");
        assert!(text.contains("# TYPE medley_updates_total counter\nmedley_updates_total 0\n"), "{text}");
        assert!(text.contains("medley_faults_total{kind=\"worker_lost\"} 0\n"), "{text}");
        assert!(text.contains("medley_phase{phase=\"training\"} 0\n"), "{text}");
    }

    #[test]
    fn workers_are_known_by_rank_alone() {
        let worker =
            v1::WorkerStatus { rank: Some(1), host: "node7".to_owned(), wait_share: Some(0.25), ..Default::default() };
        let newcomer = v1::WorkerStatus { worker: 9, ..Default::default() };
        let workers = vec![worker, newcomer];
        let status = v1::Status { workers, loss: Some(f64::INFINITY), grad_norm: Some(f64::NAN), ..Default::default() };
        let text = exposition(&status);
        assert!(text.contains("medley_worker_wait_ratio{rank=\"1\"} 0.25\n") && !text.contains("node7"), "{text}");
        assert!(text.contains("medley_train_loss +Inf\n") && text.contains("medley_gradient_norm NaN\n"), "{text}");
        assert!(text.contains("medley_workers 2\n"), "{text}");
    }

    #[test]
    fn a_label_cannot_break_out() {
        assert_eq!(escaped("a\"} 1\nb\\"), "a\\\"} 1\\nb\\\\");
    }
}
