//! The live page, as a browser reads it: a run is told through a death to its end, and comes back with its curves.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;

use medley_tests::http::{Events, Message};
use medley_tests::{Scratch, http};
use rustix::process::Signal;
use serde_json::Value;

use crate::RECIPE;
use crate::ledger::updates;
use crate::probes::port;

const WORK: &str = "--do_eval --validation_file dev.jsonl --eval_strategy steps --eval_steps 50 --save_strategy steps \
    --save_steps 50 --logging_steps 10 --workers 2 --http_listen 127.0.0.1:0";

/// What a browser knows after some messages.
#[derive(Debug, Default)]
struct Known {
    /// Loss, learning rate and gradient norm, by update.
    updates: BTreeMap<u64, [f64; 3]>,
    /// How often an update was told.
    told: usize,
    evaluations: Vec<Value>,
    moments: Vec<Value>,
    status: Value,
    last: String,
}

impl Known {
    fn take(&mut self, message: &Message) {
        let data: Value = serde_json::from_str(&message.data).unwrap();
        let list = |key: &str| data[key].as_array().unwrap_or_else(|| panic!("no {key} in {data}")).clone();
        let news = match message.event.as_str() {
            "picture" => {
                *self = Self::default();
                let buckets = data["training"]["buckets"].as_array().unwrap();
                assert_eq!(data["training"]["span"], 1, "so short a run has a bucket for each update");
                buckets
                    .iter()
                    .map(|bucket| [&bucket.as_array().unwrap()[..1], &bucket.as_array().unwrap()[2..]].concat())
                    .collect()
            }
            "news" => list("updates").iter().map(|update| update.as_array().unwrap().clone()).collect::<Vec<_>>(),
            other => panic!("a message of kind {other}"),
        };
        for update in news {
            let values = [1, 2, 3].map(|at| update[at].as_f64().unwrap());
            self.updates.insert(update[0].as_u64().unwrap(), values);
            self.told += 1;
        }
        self.evaluations.extend(list("evaluations"));
        self.moments.extend(list("moments"));
        self.status = data["status"].clone();
        self.last.clone_from(&message.id);
    }

    /// All of it is the ledger's, to the bit, and was told once.
    fn is_of(&self, scratch: &Scratch) {
        let ledger = updates(scratch);
        assert_eq!(self.updates.len(), ledger.len());
        for (update, made) in &ledger {
            assert_eq!(self.updates[update], [made.loss, made.learning_rate, made.grad_norm], "update {update}");
        }
        assert_eq!(self.told, ledger.len());
    }
}

#[test]
fn a_run_is_told_through_a_death_to_its_end() {
    let scratch = Scratch::new(100);
    let chaos = "--chaos kill:worker=1@update=60";
    let mut run = scratch.start(&format!("train {RECIPE} {WORK} --num_train_epochs 15 {chaos}"));
    let port = port(&mut run);
    // One that asks and never reads holds nothing up.
    let mut silent = TcpStream::connect(&port).unwrap();
    silent.write_all(format!("GET /events HTTP/1.1\r\nhost: {port}\r\n\r\n").as_bytes()).unwrap();
    let mut known = Known::default();
    let mut events = Events::listen(&port, "/events", None);
    let first = events.next().unwrap();
    assert_eq!(first.event, "picture");
    known.take(&first);
    for message in events.by_ref() {
        known.take(&message);
        if known.updates.len() >= 30 {
            break;
        }
    }
    // It is cut off, and comes back: nothing is missing, and nothing is told twice.
    drop(events);
    let mut kinds = Vec::new();
    for message in Events::listen(&port, "/events", Some(&known.last)) {
        kinds.push(message.event.clone());
        known.take(&message);
    }
    assert!(kinds.iter().all(|kind| kind == "news"), "{kinds:?}");
    run.end().expect(0).says(&["was lost while"]);
    drop(silent);
    known.is_of(&scratch);
    assert_eq!((&known.status["state"], &known.status["update"]), (&Value::from("completed"), &Value::from(195)));
    let lost: u64 = known.moments.iter().filter_map(|moment| moment["lost"].as_u64()).sum();
    let joined: u64 = known.moments.iter().filter_map(|moment| moment["joined"].as_u64()).sum();
    assert_eq!((lost, joined), (1, 1), "{:?}", known.moments);
    assert_eq!(known.status["faults"]["worker_lost"], 1);
    let saved = known.moments.iter().filter(|moment| moment["kind"] == "checkpoint");
    assert_eq!(saved.map(|moment| moment["update"].as_u64().unwrap()).collect::<Vec<_>>(), [50, 100, 150]);
    let newest = known.evaluations.last().unwrap();
    let results = scratch.json("out/eval_results.json");
    assert_eq!(newest["accuracy"], results["eval_accuracy"]);
    assert_eq!(newest["macro_f1"], results["eval_macro_f1"]);
    assert_eq!(newest["confusion"], results["eval_confusion_matrix"]);
    assert!(!format!("{known:?}").contains("pid"), "{known:?}");
}

#[test]
fn curves_are_kept_when_the_coordinator_comes_back() {
    let scratch = Scratch::new(100);
    let work = format!("train {RECIPE} {WORK} --num_train_epochs 10000");
    let mut run = scratch.start(&work);
    run.wait_for("update 60:");
    run.signal(Signal::TERM);
    run.end().expect(75);
    let before = updates(&scratch);
    let mut run = scratch.start(&work);
    let port = port(&mut run);
    run.wait_for("joined");
    let mut known = Known::default();
    known.take(&Events::listen(&port, "/events", None).next().unwrap());
    assert!(known.updates.len() >= before.len() && before.len() >= 60);
    for (update, made) in &before {
        assert_eq!(known.updates[update], [made.loss, made.learning_rate, made.grad_norm], "update {update}");
    }
    assert_eq!(known.evaluations[0]["update"], 50);
    let kinds: Vec<&str> = known.moments.iter().map(|moment| moment["kind"].as_str().unwrap()).collect();
    assert!(kinds.starts_with(&["group", "checkpoint"]), "{kinds:?}");
    let page = http::request(&port, "GET", "/", &format!("host: {port}\r\nuser-agent: Mozilla/5.0\r\n"));
    assert!(
        page.body.contains("<figcaption>Loss</figcaption>") && page.body.contains("checkpoint saved"),
        "{}",
        page.body
    );
    run.signal(Signal::TERM);
    run.end().expect(75);
}

#[test]
fn other_pages_hear_nothing_and_there_is_room_for_so_many() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {WORK} --num_train_epochs 10000"));
    let port = port(&mut run);
    run.wait_for("update 10:");
    let browser = "user-agent: Mozilla/5.0\r\n";
    for foreign in ["host: evil.example\r\n".to_owned(), format!("host: {port}\r\norigin: http://evil.example\r\n")] {
        for path in ["/events", "/", "/live.js"] {
            assert_eq!(http::request(&port, "GET", path, &format!("{foreign}{browser}")).code, 403, "{path} {foreign}");
        }
    }
    for (path, kind) in [("/live.js", "text/javascript"), ("/live.css", "text/css"), ("/live.svg", "image/svg+xml")] {
        let part = http::request(&port, "GET", path, &format!("host: {port}\r\n{browser}"));
        assert!(part.code == 200 && part.head.contains(&format!("content-type: {kind}")), "{path}: {}", part.head);
        assert!(part.head.contains("cross-origin-resource-policy: same-origin"), "{}", part.head);
    }
    let mut listeners: Vec<Events> = (0..16).map(|_| Events::listen(&port, "/events", None)).collect();
    assert!(listeners.iter_mut().all(|events| events.next().is_some()));
    let refused = http::get(&port, "/events");
    assert!(refused.code == 503 && refused.head.contains("retry-after"), "{}", refused.head);
    assert_eq!(http::get(&port, "/metrics").code, 200, "who asks once is answered");
    run.signal(Signal::TERM);
    // All are told of the end.
    for events in listeners {
        let last = events.last().unwrap();
        assert!(last.data.contains("\"state\":\"stopped\""), "{}", last.data);
    }
    run.end().expect(75);
}
