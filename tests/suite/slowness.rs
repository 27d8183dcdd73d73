//! A slow worker is named, with what is slow.

use medley_tests::Scratch;
use rustix::process::Signal;

use crate::RECIPE;
use crate::serving::address;

/// One update an epoch, of all 100 rows: long enough to be measured.
const WORK: &str = "--per_device_train_batch_size 50 --num_train_epochs 100000 --save_strategy no --logging_steps 1";

/// The first number after `mark` in `text`.
fn number(text: &str, mark: &str) -> u32 {
    let after = text.split(mark).nth(1).unwrap_or_else(|| panic!("no {mark:?} in {text}"));
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {mark:?} in {text}"))
}

#[test]
fn a_slow_worker_is_named_within_ten_updates_until_it_is_well() {
    let scratch = Scratch::new(100);
    let chaos = "slow:worker=1@update=10,factor=6,until=50";
    let mut run = scratch.start(&format!("train {RECIPE} {WORK} --workers 2 --chaos {chaos}"));
    let address = address(&mut run);
    let status = || -> serde_json::Value {
        serde_json::from_str(&scratch.run(&format!("status --coordinator {address} --json")).expect(0).stdout).unwrap()
    };
    run.wait_for("chaos: a 6th of the time to the worker in place 1");
    let named = run.wait_for("is slow: compute");
    let update = number(&run.wait_for(": mean loss"), "update ");
    assert!((11..=20).contains(&update), "named at update {update}");
    let pid = number(&named, "pid ");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"LOCAL_RANK=1"), "{named}");
    let slow = status()["workers"].as_array().unwrap().iter().find(|worker| worker["pid"] == pid).unwrap().clone();
    assert!(slow["phases"]["compute_seconds"].as_f64().unwrap() > 0.0, "{slow}");
    let shown = scratch.run(&format!("status --coordinator {address}")).expect(0).stdout;
    assert!(shown.contains("ms, compute"), "{shown}");
    run.wait_for("chaos: all the time to the worker in place 1");
    run.wait_for("is as fast as the others again");
    assert!(status()["workers"].as_array().unwrap().iter().all(|worker| worker["slowness"].is_null()));
    run.signal(Signal::TERM);
    run.end().expect(75);
}
