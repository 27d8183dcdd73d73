//! What goes wrong ends soon, says why, and leaves nothing running.

use std::time::Duration;

use medley_tests::Scratch;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::RECIPE;

const ENDLESS: &str = "--num_train_epochs 10000 --workers 2 --save_strategy no";

/// The process ids of the workers, as the coordinator names them when they join.
pub fn workers(run: &mut medley_tests::Running) -> Vec<Pid> {
    (0..2)
        .map(|_| {
            let line = run.wait_for("joined");
            let after = line.split("pid ").nth(1).unwrap_or_else(|| panic!("no pid in {line}"));
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            Pid::from_raw(digits.parse().unwrap()).unwrap()
        })
        .collect()
}

/// Blocks until the process is gone; orphans are reaped by init, so its id vanishes.
pub fn wait_until_gone(pid: Pid) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while test_kill_process(pid).is_ok() && !is_zombie(pid) {
        assert!(std::time::Instant::now() < deadline, "process {} outlived its launcher", pid.as_raw_nonzero());
        std::thread::yield_now();
    }
}

/// Whether the process has ended and only waits to be reaped.
fn is_zombie(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[test]
fn a_killed_worker_is_named() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {ENDLESS} --min_workers 2 --max_restarts 0 --join_timeout 1"));
    let workers = workers(&mut run);
    run.wait_for("update 1/");
    kill_process(workers[1], Signal::KILL).unwrap();
    let pid = workers[1].as_raw_nonzero().to_string();
    let ended = run.end().expect(70).says(&[&pid]);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    workers.into_iter().for_each(wait_until_gone);
}

#[test]
fn workers_do_not_outlive_a_killed_launcher() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {ENDLESS}"));
    let workers = workers(&mut run);
    run.wait_for("update 1/");
    run.signal(Signal::KILL);
    assert_eq!(run.end().code, None);
    workers.into_iter().for_each(wait_until_gone);
}

/// As a service manager does it: the signal goes to every process.
#[test]
fn terminating_all_processes_saves_too() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {ENDLESS}"));
    let workers = workers(&mut run);
    run.wait_for("update 1/");
    workers.iter().for_each(|worker| kill_process(*worker, Signal::TERM).unwrap());
    run.signal(Signal::TERM);
    run.end().expect(75).says(&["saved"]);
}

/// As a scheduler does that signals every process of a job, and a parent among them passes it on.
#[test]
fn two_sigterms_at_once_are_one_request() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {ENDLESS}"));
    let workers = workers(&mut run);
    run.wait_for("update 1/");
    // Nothing can be saved before the second one comes.
    kill_process(workers[1], Signal::STOP).unwrap();
    run.signal(Signal::TERM);
    run.wait_for("stopping:");
    run.signal(Signal::TERM);
    kill_process(workers[1], Signal::CONT).unwrap();
    run.end().expect(75).says(&["which is saved"]);
}

/// A terminal that is closed, or a reader that had enough.
#[test]
fn a_hang_up_saves() {
    if ignores_hang_ups() {
        eprintln!(
            "not checked: these tests were started with hang-ups ignored, as by nohup, and so is what they start"
        );
        return;
    }
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {ENDLESS}"));
    run.wait_for("update 1/");
    run.signal(Signal::HUP);
    run.end().expect(75).says(&["saved"]);
}

/// Whether this process, and so all that it starts, was started with SIGHUP ignored.
fn ignores_hang_ups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1
}

#[test]
fn terminating_the_launcher_saves() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {ENDLESS}"));
    let workers = workers(&mut run);
    run.wait_for("update 1/");
    run.signal(Signal::TERM);
    run.end().expect(75);
    workers.into_iter().for_each(wait_until_gone);
    let state = std::fs::read_dir(scratch.path("out"))
        .unwrap()
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"));
    assert!(state.is_some(), "no checkpoint");
}
