use super::super::sample::tests::{report, worker};
use super::*;

fn update(arrived_us: u64, worker: &Arc<Worker>, number: u64, started_us: u64) -> Entry {
    Entry::Update { arrived_us, worker: Arc::clone(worker), sample: Sample::of(&report(number, started_us)) }
}

/// The events that a trace of these has, and what it says beside them.
fn written(trace: &mut Trace, entries: &[Entry]) -> (Vec<Value>, Value) {
    let body: String = entries.iter().map(|entry| trace.add(entry)).collect();
    let text = trace.opening() + &body + &trace.closing();
    let whole: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (whole["traceEvents"].as_array().unwrap().clone(), whole["otherData"].clone())
}

fn spans<'a>(events: &'a [Value], category: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["ph"] == "X" && event["cat"] == category).collect()
}

fn names<'a>(events: &'a [Value], what: &str) -> Vec<&'a str> {
    let named = events.iter().filter(|event| event["ph"] == "M" && event["name"] == what);
    named.map(|event| event["args"]["name"].as_str().unwrap()).collect()
}

#[test]
fn hosts_are_processes_and_workers_their_threads() {
    let (first, second) = (Arc::new(worker(1)), Arc::new(worker(2)));
    let elsewhere = Arc::new(Worker { host: "node \"8\"\n".into(), ..worker(3) });
    let entries = [&first, &second, &elsewhere, &first].map(|worker| update(9_000_000, worker, 1, 0));
    let (events, _) = written(&mut Trace::new(), &entries);
    assert_eq!(names(&events, "process_name"), ["coordinator", "node7", "node \"8\"\n"]);
    let threads = names(&events, "thread_name");
    assert_eq!(threads[..3], ["evaluations", "saves", "worker 1, rank 0: cpu, pid 41"]);
    assert_eq!(threads.len(), 5, "each is named once: {threads:?}");
    let places: Vec<_> =
        spans(&events, "update").iter().map(|span| (span["pid"].clone(), span["tid"].clone())).collect();
    assert_eq!(places, [(1, 1), (1, 2), (2, 3), (1, 1)].map(|(pid, tid)| (json!(pid), json!(tid))));
}

#[test]
fn phases_lie_in_their_update_one_after_the_other() {
    let worker = Arc::new(worker(1));
    let (events, _) = written(&mut Trace::new(), &[update(5_000_000, &worker, 7, 80_000_000)]);
    let whole = spans(&events, "update")[0];
    assert_eq!(
        (whole["name"].as_str(), whole["ts"].as_i64(), whole["dur"].as_u64()),
        (Some("update 7"), Some(4_000_000), Some(1_000_000))
    );
    let args = json!({ "update": 7, "rows": 2, "tokens": 90, "all_reduce_us": 400_000, "sent_bytes": 1_000_000 });
    assert_eq!(whole["args"], args);
    let phases = spans(&events, "phase");
    assert_eq!(phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect::<Vec<_>>(), PHASES);
    let mut at = 4_000_000;
    for phase in phases {
        assert_eq!(phase["ts"], at);
        at += phase["dur"].as_i64().unwrap();
    }
    assert_eq!(at, 5_000_000);
}

/// By the first report's arrival, and no more by later ones: a late report must not move what is told already.
#[test]
fn a_clock_is_set_once() {
    let worker = Arc::new(worker(1));
    let entries = [update(5_000_000, &worker, 1, 80_000_000), update(9_500_000, &worker, 2, 81_500_000)];
    let (events, _) = written(&mut Trace::new(), &entries);
    let starts: Vec<_> = spans(&events, "update").iter().map(|span| span["ts"].as_i64().unwrap()).collect();
    assert_eq!(starts, [4_000_000, 5_500_000]);
}

#[test]
fn what_the_coordinator_had_done_stands_beside() {
    let save = |started_us, ended_us| Entry::Span { track: Track::Saves, name: "save".into(), started_us, ended_us };
    let (events, _) = written(&mut Trace::new(), &[save(20, 50), save(9, 4)]);
    let expected =
        |ts, dur| json!({ "ph": "X", "name": "save", "cat": "coordinator", "pid": 0, "tid": 2, "ts": ts, "dur": dur });
    assert_eq!(spans(&events, "coordinator"), [&expected(20, 30), &expected(9, 0)]);
}

#[test]
fn a_full_trace_counts_what_it_leaves_out() {
    let worker = Arc::new(worker(1));
    let mut trace = Trace { most: 3, ..Trace::new() };
    let span = Entry::Span { track: Track::Evaluations, name: "e".into(), started_us: 0, ended_us: 1 };
    let updates = (1..=5).map(|number| update(number, &worker, number, number * 1_000_000));
    let entries: Vec<Entry> = [span].into_iter().chain(updates).collect();
    let (events, other) = written(&mut trace, &entries);
    assert_eq!(spans(&events, "update").len(), 2);
    assert_eq!(other, json!({ "updates": 2, "updates_left_out": 3 }));
    assert_eq!(trace.counts(), Counts { updates: 2, left_out: 3 });
}

#[test]
fn nonsense_does_no_harm() {
    let worker = Arc::new(worker(1));
    let entries = [update(0, &worker, 1, u64::MAX), update(u64::MAX, &worker, 2, 0), update(3, &worker, 3, 5)];
    let (events, _) = written(&mut Trace::new(), &entries);
    assert_eq!(spans(&events, "update").len(), 3);
}
