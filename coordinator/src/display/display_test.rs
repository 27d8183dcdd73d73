use std::path::Path;

use medley_common::identity::{Split, WorkerId};
use medley_common::message::{Failure, FailureKind};
use serde_json::Value;

use super::*;
use crate::run::report::EvaluationReport;
use crate::run::{Occasion, PhaseName};
use crate::spec::Level;

fn record() -> UpdateRecord {
    UpdateRecord {
        update: Update(30),
        attempt: 1,
        epoch: 1.5,
        learning_rate: 1e-3,
        loss: 0.75,
        grad_norm: 2.5,
        skipped: false,
        lanes: Vec::new(),
        workers: Vec::new(),
        tokens: 900,
        parameters: None,
    }
}

fn object(event: &Event<'_>) -> Value {
    let moment = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    serde_json::from_str(&json::line(event, moment)).unwrap()
}

#[test]
fn an_update_is_a_line_and_an_object() {
    let (record, rates) = (record(), Rates { rows: 64.0, tokens: 3e3, updates: 2.0 });
    let updated = |rates| Event::Updated(Updated { record: &record, total: Update(40), rates, is_milestone: true });
    assert_eq!(text::line(&updated(None)), "update 30/40: epoch 1.50, loss 0.7500, lr 1.00e-3");
    let told = "update 30/40: epoch 1.50, loss 0.7500, lr 1.00e-3, 64 rows/s, 5 s left";
    assert_eq!(text::line(&updated(Some(rates))), told);
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:20Z", "level": "info", "event": "update", "message": told, "update": 30,
        "total_updates": 40, "epoch": 1.5, "loss": 0.75, "learning_rate": 1e-3, "grad_norm": 2.5, "tokens": 900,
        "skipped": false, "rows_per_second": 64.0, "eta_seconds": 5.0,
    });
    assert_eq!(object(&updated(Some(rates))), expected);
}

/// A field never takes the place of what every object has.
#[test]
fn every_object_says_when_how_much_and_what() {
    let failure = Failure { kind: FailureKind::Data, message: "train.jsonl:17: odd \"label\"\nsecond line".into() };
    let (address, out) = ("127.0.0.1:9".parse().unwrap(), Path::new("out"));
    let summary = crate::summary::tests::summary("out");
    let events = [
        (Event::Probes(address), "info", "probes"),
        (Event::Listening(address, "h:9"), "info", "listening"),
        (Event::Awaited(3, "h:9"), "info", "awaiting_workers"),
        (Event::Notice("saved out/checkpoint-4"), "info", "notice"),
        (Event::Notice("warning: it is late"), "warning", "notice"),
        (Event::Warning("worker 1 was lost"), "warning", "notice"),
        (Event::Worker(77, "thread panicked"), "warning", "worker_output"),
        (Event::Worker(77, "medley-worker: 2 ranks on 1 host"), "info", "worker_output"),
        (Event::Joined { worker: WorkerId(4), host: "h", pid: 5, device: "cpu" }, "info", "worker_joined"),
        (Event::Refused(WorkerId(4), "too late"), "warning", "worker_refused"),
        (Event::Phase(PhaseName::Saving), "debug", "phase"),
        (Event::Summary(&summary), "info", "summary"),
        (Event::Completed(out), "info", "completed"),
        (Event::Stopped(Update(3), Some(Update(3))), "info", "stopped"),
        (Event::Failed(&failure), "error", "failed"),
    ];
    for (event, level, name) in events {
        let object = object(&event);
        assert_eq!((&object["level"], &object["event"]), (&level.into(), &name.into()));
        assert_eq!(object["message"].as_str().unwrap(), event.message());
        assert!(!json::line(&event, OffsetDateTime::UNIX_EPOCH).contains('\n'), "one line");
    }
    assert_eq!(object(&Event::Notice("warning: it is late"))["message"], "it is late", "the level stands beside it");
    assert_eq!(object(&Event::Failed(&failure))["kind"], "data");
    assert_eq!(text::line(&Event::Failed(&failure)), format!("medley: {failure}"));
    assert_eq!(object(&Event::Stopped(Update(3), None))["saved_update"], Value::Null);
}

#[test]
fn results_are_those_of_the_end() {
    let report = EvaluationReport {
        split: Split::Validation,
        update: Update(30),
        epoch: 1.5,
        tally: Default::default(),
        predictions: Vec::new(),
        labels: Vec::new(),
        seconds: 2.0,
    };
    assert!(Event::Evaluated(&report, Occasion::End).is_result());
    assert!(!Event::Evaluated(&report, Occasion::Training).is_result());
    assert!(Event::Completed(Path::new("out")).is_result());
    assert!(!Event::Summary(&crate::summary::tests::summary("out")).is_result(), "quiet is quiet");
    assert_eq!(
        text::line(&Event::Evaluated(&report, Occasion::End)),
        "validation at the end: predicted, 0 rows without labels (0 rows/s)"
    );
}

/// Without a bar, a line of updates comes now and then, and for the last.
#[test]
fn updates_are_told_in_peace() {
    let console = Console { least: Level::Error, tells_results: false, format: Format::Text };
    let display = Display::new(console, Progress::Hidden);
    let start = Instant::now();
    let (record, total) = (record(), Update(40));
    let is_milestone = |display: &Display, at| display.is_milestone(&record, total, at);
    assert!(is_milestone(&display, start));
    display.update(&record, (total, None), start);
    assert!(!is_milestone(&display, start + PLAIN_PAUSE / 2));
    assert!(is_milestone(&display.clone(), start + PLAIN_PAUSE), "clones tell in one place");
    display.clone().update(&record, (total, None), start + PLAIN_PAUSE);
    assert!(!is_milestone(&display, start + PLAIN_PAUSE + PLAIN_PAUSE / 2));
    assert!(display.is_milestone(&record, record.update, start + PLAIN_PAUSE), "the last one is");
}
