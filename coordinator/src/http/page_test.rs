use medley_common::identity::{Generation, Update};

use super::*;
use crate::run::Action;
use crate::run::report::GroupRecord;

fn status() -> v1::Status {
    let phases = Some(v1::PhaseSeconds { data: 0.0, compute: 0.75, wait: 0.25, report: 0.0 });
    let worker = v1::WorkerStatus {
        rank: Some(1),
        host: "node7".to_owned(),
        rows_per_second: Some(12.34),
        slowness: Some(v1::Slowness::Compute.into()),
        phases,
        ..Default::default()
    };
    v1::Status {
        run: "0123456789abcdef".to_owned(),
        phase: v1::Phase::Training.into(),
        update: 30,
        total_updates: 120,
        loss: Some(0.5),
        workers: vec![worker],
        workers_expected: 2,
        paused: Some("/data/secret.jsonl: no room".to_owned()),
        waiting: vec!["node7".to_owned()],
        ..Default::default()
    }
}

#[test]
fn it_shows_numbers_and_neither_hosts_nor_reasons() {
    let mut live = Live::new([("training", "120 updates")].into_iter(), &["no <b>".to_owned()], None, Update(0));
    let group = GroupRecord { generation: Generation(1), members: Vec::new() };
    live.did(&Action::Group(group), None);
    let mut picture = live.picture().clone();
    picture.training.push(30, [Some(0.5), Some(1e-3), Some(2.0), Some(7.0)]);
    picture.evaluations.push_back(Evaluation {
        split: "validation".to_owned(),
        update: 30,
        accuracy: Some(0.75),
        macro_f1: None,
        loss: Some(0.6),
        confusion: Some(vec![vec![3]]),
    });
    let text = page(&Summary::of(&status()), &picture);
    for shown in [
        "<span id=\"run\">0123456789ab<",
        "update 30 of 120, 25.0 %",
        "<dt>loss</dt><dd>0.5</dd>",
        "<dt>accuracy</dt><dd>0.75</dd>",
        "1 of 2 workers",
        "12.3 rows/s",
        "aria-label=\"compute 75 %, data 0 %, all-reduce 25 %, waiting 0 %\"",
        "slow: compute",
        "Nothing can be written",
        "<span class=\"at\">update 0</span><span>0 workers connected</span>",
        "<figcaption>Loss</figcaption>",
        "no &lt;b&gt;",
        "<td class=\"right s10\">3 <small>100 %</small></td>",
        "<dt>training</dt><dd>120 updates</dd>",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    for never in ["node7", "secret", "cdef", "{{", "style=", "<script>", "http://", "https://", " onload"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
    let ended = v1::Status { outcome: "failed: /data/secret.jsonl".to_owned(), ..status() };
    let ended = page(&Summary::of(&ended), &picture);
    assert!(ended.contains("class=\"state\">failed</p>") && !ended.contains("secret"), "{ended}");
}

#[test]
fn before_anything_is_known_it_says_so() {
    let text = page(&Summary::of(&v1::Status::default()), &Picture::default());
    assert!(text.contains("class=\"state\">reading data</p>") && text.ends_with("</html>\n"), "{text}");
    assert!(!text.contains("<progress") && !text.contains("{{"), "{text}");
}

/// Whoever can read the page's parts can run nothing that is not there.
#[test]
fn the_policy_lets_a_browser_load_the_parts_alone() {
    assert!(!POLICY.contains("unsafe") && POLICY.starts_with("default-src 'none';"));
    for part in ["src=\"", "href=\""] {
        let places: Vec<&str> = PAGE.split(part).skip(1).collect();
        assert!(!places.is_empty() && places.iter().all(|place| place.starts_with('/') || place.starts_with('#')));
    }
}
