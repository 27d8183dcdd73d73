use medley_common::evaluation::Tally;
use medley_common::identity::Digest;
use medley_common::save::SaveId;
use serde_json::Value;

use super::sample::tests::report;
use super::*;
use crate::run::Occasion;

fn group(generation: u64, members: &[u64]) -> Action {
    let member = |name: &u64| MemberRecord {
        worker: WorkerId(*name),
        host: "node7".into(),
        pid: 40 + *name as u32,
        device: "cpu".into(),
        processor: "EPYC".into(),
        threads: 1,
        program: Digest([0; 32]),
        lanes: Vec::new(),
    };
    Action::Group(GroupRecord { generation: Generation(generation), members: members.iter().map(member).collect() })
}

fn updated(generation: u64, worker: u64, update: u64) -> Input {
    let report = report(update, update * 1_000_000);
    Input::From(WorkerId(worker), Event::Updated { generation: Generation(generation), report })
}

fn read(profile: &std::path::Path, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(profile.join(name)).unwrap()).unwrap()
}

/// A worker is lost, another goes on; who is in no group, or speaks of one that is gone, is not heard.
#[tokio::test]
async fn a_run_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let at = |seconds| began + Duration::from_secs(seconds);
    let mut profile = Profile::new(folder.path().to_owned(), began);
    profile.did(at(1), &group(1, &[1, 2]));
    for (second, input) in [updated(1, 1, 1), updated(1, 2, 1), updated(1, 9, 1)].iter().enumerate() {
        profile.heard(at(2 + second as u64), input);
    }
    let save = SaveId { update: Update(1), generation: Generation(1) };
    profile.did(at(5), &Action::Receive(save, 2));
    profile.did(at(5), &group(2, &[2]));
    profile.heard(at(6), &updated(1, 2, 2));
    profile.heard(at(6), &updated(2, 2, 2));
    profile.heard(at(7), &Input::Committed(Update(1)));
    let evaluation = EvaluationReport {
        split: Split::Validation,
        update: Update(2),
        epoch: 1.0,
        tally: Tally::default(),
        predictions: Vec::new(),
        labels: Vec::new(),
        seconds: 3.0,
    };
    profile.did(at(20), &Action::Publish(evaluation, Occasion::Training));
    assert_eq!(profile.take_complaint(), None);
    let told = profile.end().await;
    assert_eq!(told.len(), 1 + 4 + 2, "{told:?}");
    assert!(told[6].contains("trace of 3 updates is in") && told[6].contains("trace.json"), "{told:?}");
    let written = read(folder.path(), PROFILE_FILE);
    let lines = written["workers"].as_array().unwrap();
    let seen: Vec<_> = lines.iter().map(|line| [&line["worker"], &line["rank"], &line["updates"]]).collect();
    assert_eq!(seen, [[1, 0, 1], [2, 0, 2]], "{written}");
    assert_eq!((&written["all"]["updates"], &written["trace"]["updates"]), (&3.into(), &3.into()));
    let trace = read(folder.path(), TRACE_FILE);
    let events = trace["traceEvents"].as_array().unwrap();
    let own = |event: &&Value| event["pid"] == 0 && event["ph"] == "X";
    let spans: Vec<_> = events.iter().filter(own).map(|event| (event["name"].as_str(), event["ts"].as_u64())).collect();
    let expected = [("save of update 1", 5_000_000), ("validation after update 2", 17_000_000)];
    assert_eq!(spans, expected.map(|(name, start)| (Some(name), Some(start))));
}

#[tokio::test]
async fn where_no_update_is_made_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut profile = Profile::new(folder.path().to_owned(), Instant::now());
    profile.did(Instant::now(), &group(1, &[1]));
    profile.heard(Instant::now(), &Input::Committed(Update(0)));
    assert_eq!(profile.end().await, [""; 0]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A folder that cannot be written to is spoken of once for each file, and nothing else comes of it.
#[tokio::test]
async fn a_disk_that_refuses_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut profile = Profile::new(folder.path().join("gone"), Instant::now());
    profile.did(Instant::now(), &group(1, &[1]));
    let mut told = Vec::new();
    for update in 1..=100 {
        profile.heard(Instant::now(), &updated(1, 1, update));
        told.extend(profile.take_complaint());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("warning: no trace.json is written: create "), "{told:?}");
    let last = profile.end().await;
    assert!(last.iter().any(|line| line.starts_with("warning: no profile.json is written: write ")), "{last:?}");
    assert!(!last.iter().any(|line| line.contains("trace")), "{last:?}");
}
