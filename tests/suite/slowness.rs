//! A slow worker is named, with what is slow, and has fewer lanes where that is asked for.

use medley_tests::{Running, Scratch};
use rustix::process::Signal;

use crate::RECIPE;
use crate::ledger::updates;
use crate::serving::address;

/// One update an epoch, of all 100 rows: long enough to be measured.
const WORK: &str = "--per_device_train_batch_size 50 --num_train_epochs 20000 --save_strategy no --logging_steps 1";

/// How many times as slow a worker is made: far more than what other work on the machine does to the other one.
const FACTOR: u32 = 30;

/// The first number after `mark` in `text`.
fn number(text: &str, mark: &str) -> u32 {
    let after = text.split(mark).nth(1).unwrap_or_else(|| panic!("no {mark:?} in {text}"));
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {mark:?} in {text}"))
}

/// The process id of the worker in place 1, of a run that has started both.
fn slowed(run: &mut Running) -> u32 {
    let is_it = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        environment.split(|byte| *byte == 0).any(|variable| variable == b"LOCAL_RANK=1")
    };
    let pids = [(); 2].map(|()| number(&run.wait_for(" joined: "), "pid "));
    pids.into_iter().find(|pid| is_it(*pid)).unwrap()
}

/// That five late updates of ten are enough, and what is said of it and when, is tried where nothing else takes a machine's
/// time: by the run's own tests. Here other work may have named any worker slow before, and again.
#[test]
fn a_slow_worker_is_named_until_it_is_well() {
    let scratch = Scratch::new(100);
    let chaos = format!("slow:worker=1@update=10,factor={FACTOR},until=40");
    let mut run = scratch.start(&format!("train {RECIPE} {WORK} --workers 2 --chaos {chaos}"));
    let address = address(&mut run);
    let pid = slowed(&mut run);
    let status = || -> serde_json::Value {
        let status = scratch.run(&format!("status --coordinator {address} --json")).expect(0).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["workers"].as_array().unwrap().iter().find(|worker| worker["pid"] == pid).unwrap().clone()
    };
    // Until a status says so, or nothing comes any more.
    let wait_until = |run: &mut Running, is_so: &dyn Fn(&serde_json::Value) -> bool| loop {
        let line = run.wait_for(": mean loss");
        let slow = status();
        if is_so(&slow) {
            return number(&line, "update ");
        }
    };
    run.wait_for("chaos: a 30th of the time to the worker in place 1");
    let update = wait_until(&mut run, &|worker| worker["slowness"] == "compute");
    assert!(update <= 40, "named at update {update}");
    assert!(status()["phases"]["compute_seconds"].as_f64().unwrap() > 0.0);
    let shown = scratch.run(&format!("status --coordinator {address}")).expect(0).stdout;
    assert!(shown.contains("ms, compute") && shown.contains("SLOW: compute"), "{shown}");
    run.wait_for("chaos: all the time to the worker in place 1");
    wait_until(&mut run, &|worker| worker["slowness"].is_null());
    run.signal(Signal::TERM);
    let ended = run.end().expect(75);
    ended.says(&[&format!("pid {pid}) is slow: ")]);
}

#[test]
fn lanes_move_away_from_a_slow_worker_without_a_change_in_the_result() {
    let work = format!("train {RECIPE} {WORK} --max_steps 40 --digest_steps 10");
    let clean = Scratch::new(100);
    clean.run(&format!("{work} --workers 1")).expect(0);
    let scratch = Scratch::new(100);
    let chaos = format!("--rebalance --chaos slow:worker=1@update=5,factor={FACTOR}");
    let mut run = scratch.start(&format!("{work} --workers 2 {chaos}"));
    let slow = slowed(&mut run);
    let ended = run.end().expect(0).says(&["by speed"]);
    assert_eq!(scratch.sha256("out/model.safetensors"), clean.sha256("out/model.safetensors"), "{}", ended.stderr);
    assert_eq!(updates(&scratch), updates(&clean));
    let groups = scratch.json_lines("out/ledger.jsonl").into_iter().filter(|record| record["kind"] == "group");
    let lanes = |group: &serde_json::Value| -> u64 {
        let member = group["members"].as_array().unwrap().iter().find(|member| member["pid"] == slow).unwrap().clone();
        let runs = member["lanes"].as_array().unwrap();
        runs.iter().map(|run| run["end"].as_u64().unwrap() - run["start"].as_u64().unwrap()).sum()
    };
    let lanes: Vec<u64> = groups.map(|group| lanes(&group)).collect();
    assert!(lanes[0] == 4 && lanes[lanes.len() - 1] < 4, "{lanes:?}\n{}", ended.stderr);
}
