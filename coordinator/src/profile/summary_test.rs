use serde_json::{Value, json};

use super::super::sample::tests::{report, worker};
use super::*;

fn summary(workers: &[(u64, &[u64])]) -> Summary {
    let mut summary = Summary::default();
    for (name, starts) in workers {
        let worker = Arc::new(worker(*name));
        for (index, started_us) in starts.iter().enumerate() {
            summary.add(&worker, &Sample::of(&report(index as u64 + 1, *started_us)));
        }
    }
    summary
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

#[test]
fn what_lies_between_updates_is_told_from_their_phases() {
    // Two updates of a second each, and two seconds between them.
    let summary = summary(&[(1, &[5_000_000, 8_000_000])]);
    let lines = summary.lines();
    let Spent { updates, rows, tokens, seconds, shares, all_reduce } = lines[0].spent;
    assert_eq!((updates, rows, tokens), (2, 4, 180));
    assert!(close(seconds.sum(), 4.0) && close(seconds.between_updates, 2.0), "{seconds:?}");
    assert!(close(shares.sum(), 1.0) && close(shares.backward, 0.25) && close(shares.between_updates, 0.5));
    assert!(close(all_reduce.busy_seconds, 0.8) && all_reduce.sent_bytes == 2_000_000);
    assert_eq!(all_reduce.bytes_per_second, Some(2_500_000));
}

#[test]
fn workers_are_summed() {
    // The clock of one has nothing to do with that of the other.
    let summary = summary(&[(1, &[0, 1_000_000]), (2, &[90_000_000])]);
    let lines = summary.lines();
    assert_eq!(lines.iter().map(|line| line.worker).collect::<Vec<_>>(), [1, 2]);
    let all = total(&lines);
    assert_eq!((all.updates, all.rows, all.all_reduce.sent_bytes), (3, 6, 3_000_000));
    assert!(close(all.seconds.sum(), 3.0) && close(all.shares.sum(), 1.0) && close(all.shares.data, 0.01));
    assert_eq!(all.all_reduce.bytes_per_second, Some(2_500_000), "of one worker, on the average");
}

/// A clock that goes back, and an update without any time: no share is negative, none is not a number.
#[test]
fn nonsense_does_no_harm() {
    let mut summary = summary(&[(1, &[9_000_000, 0])]);
    let mut idle = report(3, 0);
    idle.timing = medley_common::message::Timing::default();
    summary.add(&Arc::new(worker(2)), &Sample::of(&idle));
    let lines = summary.lines();
    assert_eq!(lines[0].spent.seconds.between_updates, 0.0);
    assert!(close(lines[0].spent.shares.sum(), 1.0));
    assert_eq!((lines[1].spent.shares.sum(), lines[1].spent.all_reduce.bytes_per_second), (0.0, None));
    assert_eq!(total(&[]), Spent::default());
    let most = Spent { tokens: u64::MAX, ..Spent::default() };
    assert_eq!(most.plus(&most).tokens, u64::MAX);
}

#[test]
fn a_worker_has_the_rank_that_it_had_last() {
    let mut summary = summary(&[(2, &[0])]);
    let now = Worker { rank: medley_common::identity::Rank(0), ..worker(2) };
    summary.add(&Arc::new(now), &Sample::of(&report(2, 1_000_000)));
    let lines = summary.lines();
    assert_eq!((lines.len(), lines[0].rank, lines[0].spent.updates), (1, 0, 2));
}

#[test]
fn a_line_is_written_as_it_is_documented() {
    let summary = summary(&[(1, &[0])]);
    let written: Value = serde_json::to_value(&summary.lines()[0]).unwrap();
    let expected = json!({
        "worker": 1, "rank": 0, "host": "node7", "pid": 41, "device": "cpu", "updates": 1, "rows": 2, "tokens": 90,
        "seconds": {
            "data": 0.01, "forward": 0.24, "backward": 0.5, "all_reduce_exposed": 0.2, "optimizer": 0.05,
            "between_updates": 0.0
        },
        "shares": {
            "data": 0.01, "forward": 0.24, "backward": 0.5, "all_reduce_exposed": 0.2, "optimizer": 0.05,
            "between_updates": 0.0
        },
        "all_reduce": { "busy_seconds": 0.4, "sent_bytes": 1_000_000, "bytes_per_second": 2_500_000 }
    });
    assert_eq!(written, expected);
}
