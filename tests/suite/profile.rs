//! Where the time of a run goes is written down, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use medley_tests::{Ended, Scratch};
use rustix::process::Signal;
use serde_json::Value;

use crate::RECIPE;
use crate::ledger::updates;

const RUN: &str = "--num_train_epochs 2 --save_steps 10 --evaluation_strategy steps --eval_steps 13 \
    --validation_file dev.jsonl";
/// The phases of an update, as `profile.json` has them, in their order.
const PHASES: [&str; 5] = ["data", "forward", "backward", "all_reduce_exposed", "optimizer"];

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Shares are of what the seconds are, and sum to 1. Returns the updates that each worker made.
fn check_profile(scratch: &Scratch) -> BTreeMap<u64, u64> {
    let profile = scratch.json("out/profile.json");
    let workers = profile["workers"].as_array().unwrap();
    for line in workers.iter().chain([&profile["all"]]) {
        let names = || PHASES.into_iter().chain(["between_updates"]);
        let seconds: f64 = names().map(|phase| float(&line["seconds"][phase])).sum();
        let shares: f64 = names().map(|phase| float(&line["shares"][phase])).sum();
        assert!((shares - 1.0).abs() < 1e-5, "shares sum to {shares}: {line}");
        for phase in names() {
            let share = float(&line["seconds"][phase]) / seconds;
            assert!((share - float(&line["shares"][phase])).abs() < 1e-3, "{phase}: {line}");
        }
    }
    let sum = |key: &str| workers.iter().map(|line| line[key].as_u64().unwrap()).sum::<u64>();
    for key in ["updates", "rows", "tokens"] {
        assert_eq!(profile["all"][key], sum(key), "{key}: {profile}");
    }
    let sent = workers.iter().map(|line| line["all_reduce"]["sent_bytes"].as_u64().unwrap());
    assert_eq!(profile["all"]["all_reduce"]["sent_bytes"], sent.sum::<u64>());
    assert_eq!(profile["trace"]["updates"], sum("updates"));
    workers.iter().map(|line| (line["worker"].as_u64().unwrap(), line["updates"].as_u64().unwrap())).collect()
}

/// Spans of a thread do not overlap, phases lie in their updates, and each worker has a thread. Returns the updates that
/// each worker made.
fn check_trace(scratch: &Scratch) -> BTreeMap<u64, u64> {
    let trace = scratch.json("out/trace.json");
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |what: &str| -> BTreeSet<(u64, u64)> {
        let named = events.iter().filter(|event| event["ph"] == "M" && event["name"] == what);
        named.map(|event| (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap())).collect()
    };
    let (threads, processes) = (named("thread_name"), named("process_name"));
    let mut made = BTreeMap::new();
    // Each thread's present update, its phases so far, and where its last update and phase end.
    let mut open: BTreeMap<(u64, u64), (i64, usize, i64)> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let thread = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let (start, length) = (event["ts"].as_i64().unwrap(), event["dur"].as_i64().unwrap());
        assert!(length >= 0 && threads.contains(&thread) && processes.contains(&(thread.0, 0)), "{event}");
        let (end, phases, at) = open.entry(thread).or_insert((i64::MIN, PHASES.len(), i64::MIN));
        match event["cat"].as_str().unwrap() {
            "phase" => {
                assert!(start == *at && start + length <= *end, "{event} is not where it belongs");
                (*phases, *at) = (*phases + 1, start + length);
            }
            "update" => {
                assert!(*phases == PHASES.len() && start >= *end, "{event} comes too early");
                (*end, *phases, *at) = (start + length, 0, start);
                *made.entry(thread.1).or_insert(0) += 1;
            }
            category => assert_eq!((category, thread.0), ("coordinator", 0), "{event}"),
        }
    }
    assert!(open.iter().all(|((process, _), (end, _, at))| *process == 0 || end == at), "phases fill their updates");
    assert_eq!(threads.iter().filter(|(process, _)| *process > 0).count(), made.len(), "a thread a worker");
    made
}

fn said(ended: &Ended) {
    for part in ["where the time went", "all-reduce", "profile.json", "trace.json", "perfetto"] {
        assert!(ended.stderr.contains(part), "{part:?} is not in:\n{}", ended.stderr);
    }
}

#[test]
fn a_profiled_run_is_the_same_run() {
    let plain = Scratch::new(100);
    plain.run(&format!("train {RECIPE} {RUN} --workers 2")).expect(0);
    for file in ["out/profile.json", "out/trace.json"] {
        assert!(!plain.path(file).exists(), "nobody asked for {file}");
    }
    let scratch = Scratch::new(100);
    said(&scratch.run(&format!("train {RECIPE} {RUN} --workers 2 --profile")).expect(0));
    assert_eq!(scratch.sha256("out/model.safetensors"), plain.sha256("out/model.safetensors"));
    assert_eq!(updates(&scratch), updates(&plain));
    let made = check_profile(&scratch);
    assert_eq!(made.values().collect::<Vec<_>>(), [&26, &26]);
    assert_eq!(check_trace(&scratch), made);
    let profile = scratch.json("out/profile.json");
    assert_eq!(profile["all"]["rows"], 200);
    assert!(float(&profile["all"]["all_reduce"]["bytes_per_second"]) > 0.0, "{profile}");
    let trace = scratch.json("out/trace.json");
    let own = |thread: u64| {
        let events = trace["traceEvents"].as_array().unwrap().iter();
        events.filter(|event| event["cat"] == "coordinator" && event["tid"] == thread).count()
    };
    assert_eq!((own(1), own(2)), (3, 3), "evaluations and saves: {trace}");
    scratch.run("verify out").expect(0);
    let replayed = scratch.run("replay out --from-checkpoint 10 --updates 3").expect(0);
    assert!(!replayed.stderr.contains("where the time went"), "{}", replayed.stderr);
    // A complete run has no time left to spend: what its profile says stands.
    let before = scratch.sha256("out/profile.json");
    scratch.run(&format!("train {RECIPE} {RUN} --workers 2 --profile")).expect(0);
    assert_eq!(scratch.sha256("out/profile.json"), before);
}

/// One of two workers is lost, and the other goes on: both have a line and a thread, with what each has done.
#[test]
fn a_lost_worker_has_its_line() {
    let scratch = Scratch::new(100);
    let lost = ["--chaos", "kill:worker=1@update=9"];
    let command = format!("train {RECIPE} {RUN} --workers 2 --max_restarts 0 --profile");
    said(&scratch.run_with(&command, &lost).expect(0));
    let made = check_profile(&scratch);
    assert_eq!(check_trace(&scratch), made);
    let updates: BTreeSet<u64> = made.values().copied().collect();
    assert!(made.len() == 2 && updates.last() == Some(&26) && (9..26).contains(updates.first().unwrap()), "{made:?}");
}

/// At a stop there is a profile of what was made, and when the run goes on one of the rest takes its place.
#[test]
fn a_stopped_run_has_a_profile_as_well() {
    let scratch = Scratch::new(100);
    let command = format!("train {RECIPE} --num_train_epochs 60 --save_steps 100 --workers 2 --profile");
    let mut run = scratch.start(&format!("{command} --logging_steps 5"));
    run.wait_for("update 20: mean loss");
    run.signal(Signal::TERM);
    said(&run.end().expect(75));
    let first = check_profile(&scratch);
    assert_eq!(check_trace(&scratch), first);
    let stopped = *first.values().next().unwrap();
    assert!((20..780).contains(&stopped) && first.values().all(|made| *made == stopped), "{first:?}");
    scratch.run(&command).expect(0);
    assert!(check_profile(&scratch).values().all(|made| *made == 780 - stopped), "{stopped} were made before");
    check_trace(&scratch);
}
