//! The coordinator's own death costs nothing: workers hold their state, find it again, and go on where they were.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use medley_tests::{Ended, Running, Scratch, binaries};
use rustix::process::Signal;

use crate::ledger::updates;
use crate::{RECIPE, serving};

/// Evaluations, saves and log lines at odd intervals.
const WORK: &str = "--num_train_epochs 30 --save_steps 50 --logging_steps 7 --eval_steps 60 \
    --evaluation_strategy steps --heartbeat_timeout 2 --do_eval --validation_file dev.jsonl --do_predict \
    --test_file test.jsonl";
const UPDATES: u64 = 390;

/// A job under `serve`, whose coordinators come and go at one address while its workers stay.
struct Job {
    scratch: Scratch,
    command: String,
    coordinator: Option<Running>,
    address: String,
    workers: Vec<Running>,
}

impl Job {
    fn start(work: &str, workers: usize, chaos: &str) -> Self {
        let scratch = Scratch::new(100);
        let command = format!("serve {RECIPE} {work} --workers {workers}");
        let mut coordinator = serve(&scratch, &command, "127.0.0.1:0", chaos);
        let address = serving::address(&mut coordinator);
        let worker = |_| scratch.start_worker(&format!("--coordinator {address} --threads 1"));
        let workers = (0..workers).map(worker).collect();
        Self { scratch, command, coordinator: Some(coordinator), address, workers }
    }

    /// The coordinator's end, by whatever kills it; all that it said.
    fn death(&mut self) -> Ended {
        let dead = self.coordinator.take().unwrap().end();
        assert_eq!(dead.code, None, "{}", dead.stderr);
        dead
    }

    /// The same command again, at the same address.
    fn again(&mut self, chaos: &str) -> &mut Running {
        self.coordinator.insert(serve(&self.scratch, &self.command, &self.address, chaos))
    }

    /// The end of the run: of its coordinator, and of all its workers in order.
    fn end(self) -> (Scratch, Ended) {
        let ended = self.coordinator.unwrap().end().expect(0);
        for worker in self.workers {
            worker.end().expect(0);
        }
        (self.scratch, ended)
    }
}

fn serve(scratch: &Scratch, command: &str, address: &str, chaos: &str) -> Running {
    let mut arguments: Vec<&str> = command.split_whitespace().collect();
    arguments.extend(["--listen", address]);
    if !chaos.is_empty() {
        arguments.extend(["--chaos", chaos]);
    }
    Running::start("medley", &arguments, &scratch.path(""))
}

/// A run without faults, which all others are compared with.
fn clean() -> Scratch {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {WORK} --workers 1")).expect(0);
    scratch
}

/// Equal bytes, and nothing made twice or made up: what the ledger proves.
fn assert_same(run: &Scratch, clean: &Scratch, rewinds: usize) {
    for file in ["model.safetensors", "predictions.jsonl", "predict_results.txt"] {
        let path = format!("out/{file}");
        assert_eq!(run.sha256(&path), clean.sha256(&path), "{file}");
    }
    assert_eq!(updates(run), updates(clean));
    let ledger = run.json_lines("out/ledger.jsonl");
    let of = |kind: &str| ledger.iter().filter(|record| record["kind"] == kind).count() as u64;
    assert_eq!(of("rewind"), rewinds as u64);
    if rewinds == 0 {
        assert_eq!(of("update"), UPDATES, "each update is applied once");
        assert_eq!(of("log"), UPDATES / 7 + 1, "each line of the log is written once");
    }
    let logged = |scratch: &Scratch| {
        let state = scratch.json("out/trainer_state.json");
        let log = state["log_history"].as_array().unwrap().clone();
        let entries =
            log.iter().map(|entry| [entry["step"].clone(), entry["loss"].clone(), entry["eval_loss"].clone()]);
        entries.collect::<Vec<_>>()
    };
    assert_eq!(logged(run), logged(clean));
    run.run("verify out").expect(0);
}

/// In training, at a line of the log, at a save, at an evaluation, at both ends: workers stay, nothing is made again.
#[test]
fn the_death_of_the_coordinator_costs_no_update() {
    let mut job = Job::start(WORK, 2, "kill:coordinator@update=1");
    for update in [40, 41, 77, 250, 300, UPDATES] {
        job.death();
        job.again(&format!("kill:coordinator@update={update}"));
    }
    job.death();
    job.again("");
    let (scratch, ended) = job.end();
    let results = scratch.json("out/all_results.json");
    assert!(results["peak_memory_worker_bytes"].as_u64() > Some(1 << 20), "who came back tells of it, too: {results}");
    let ended = ended.says(&["2 workers", "came back, and holds update 390"]);
    assert!(!ended.stderr.contains("joined"), "{}", ended.stderr);
    assert_same(&scratch, &clean(), 0);
}

/// At any moment, whatever it was doing.
#[test]
fn the_coordinator_may_die_again_and_again() {
    let mut job = Job::start(WORK, 3, "");
    for pause in [300, 20, 150, 3, 90, 210, 45, 0, 120, 60] {
        let coordinator = job.coordinator.as_mut().unwrap();
        coordinator.wait_for("update ");
        // When the fault strikes, not a wait for anything.
        std::thread::sleep(Duration::from_millis(pause));
        coordinator.signal(Signal::KILL);
        job.death();
        job.again("");
    }
    let (scratch, ended) = job.end();
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert_same(&scratch, &clean(), 0);
}

/// Who watches is told of the death, and sees the end all the same.
#[test]
fn who_watches_finds_the_coordinator_again() {
    let mut job = Job::start(WORK, 1, "");
    let mut watch = Command::new(binaries().join("medley"))
        .args(["status", "--watch", "--json", "--coordinator", &job.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(watch.stdout.take().unwrap()).lines();
    shown.next().unwrap().unwrap();
    job.coordinator.as_mut().unwrap().wait_for("update ");
    job.coordinator.as_ref().unwrap().signal(Signal::KILL);
    job.death();
    job.again("");
    job.end();
    let last = shown.map_while(Result::ok).last().unwrap();
    assert!(last.contains(&format!("\"update\":{UPDATES}")), "{last}");
    let ended = watch.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.matches("looking for it for 60 s").count() == 1, "{said}");
}

/// A checkpoint is being written, or a split predicted, when it strikes: that is done, once, by the next one. On a slow disk
/// training has gone on meanwhile, to the next checkpoint at most: what is to strike next comes after that.
#[test]
fn the_coordinator_may_die_in_the_midst_of_a_save_or_an_evaluation() {
    for workers in [1, 2] {
        let mut job = Job::start(WORK, workers, "kill:coordinator@save=50");
        for moment in ["evaluation=120", "save=300", "evaluation=360", "save=390"] {
            job.death();
            job.again(&format!("kill:coordinator@{moment}"));
        }
        job.death();
        job.again("");
        let (scratch, ended) = job.end();
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert_same(&scratch, &clean(), 0);
    }
}

/// One too many, it waits for a place; its coordinator dies and comes back, and it waits on.
#[test]
fn a_worker_that_waits_for_a_place_looks_for_its_coordinator_too() {
    let work = WORK.replace("--num_train_epochs 30", "--num_train_epochs 10000");
    let mut job = Job::start(&work.replace("--heartbeat_timeout 2", "--heartbeat_timeout 300"), 1, "");
    job.coordinator.as_mut().unwrap().wait_for("update 1/");
    let mut spare = job.scratch.start_worker(&format!("--coordinator {} --threads 1", job.address));
    let waits = |job: &Job| {
        let status = job.scratch.run(&format!("status --coordinator {} --json", job.address)).stdout;
        let waits = |status: &serde_json::Value| status["workers"].as_array().is_some_and(|workers| workers.len() == 2);
        serde_json::from_str(&status).is_ok_and(|status| waits(&status))
    };
    while !waits(&job) {}
    job.coordinator.as_mut().unwrap().signal(Signal::KILL);
    job.death();
    spare.wait_for("looks for the coordinator");
    job.again("");
    while !waits(&job) {}
    let coordinator = job.coordinator.take().unwrap();
    coordinator.signal(Signal::TERM);
    coordinator.end().expect(75);
    spare.end().expect(75);
    job.workers.remove(0).end().expect(75);
}

/// SIGTERM reaches the only one that holds the state while its coordinator is away: it is saved when that is back, and
/// another goes on from it.
#[test]
fn a_worker_that_is_to_end_hands_its_state_to_a_coordinator_that_comes_back() {
    let mut job = Job::start(WORK, 1, "kill:coordinator@update=120");
    job.death();
    job.workers[0].wait_for("looks for the coordinator");
    job.workers[0].signal(Signal::TERM);
    job.again("");
    let next = job.scratch.start_worker(&format!("--coordinator {} --threads 1", job.address));
    std::mem::replace(&mut job.workers[0], next).end().expect(75);
    let (scratch, ended) = job.end();
    ended.says(&["came back, and holds update 120", "left, as it was asked to end"]);
    assert_same(&scratch, &clean(), 0);
}

/// Who is left holds all; the place of the lost one is free for another.
#[test]
fn a_worker_may_die_with_the_coordinator() {
    let mut job = Job::start(WORK, 2, "kill:coordinator@update=120");
    job.death();
    job.workers[0].signal(Signal::KILL);
    job.again("").wait_for("1 of the last group did not come back");
    let third = job.scratch.start_worker(&format!("--coordinator {} --threads 1", job.address));
    drop(std::mem::replace(&mut job.workers[0], third));
    let (scratch, _) = job.end();
    assert_same(&scratch, &clean(), 0);
}

/// Nobody who held the state comes back: newcomers go on from the checkpoint, and make the same updates again.
#[test]
fn without_its_workers_the_run_goes_on_from_the_checkpoint() {
    let mut job = Job::start(WORK, 2, "kill:coordinator@update=120");
    job.death();
    for worker in &mut job.workers {
        worker.signal(Signal::KILL);
        *worker = job.scratch.start_worker(&format!("--coordinator {} --threads 1", job.address));
    }
    // Which one is on the disk by then is the disk's affair.
    job.again("").wait_for("nobody holds update 120 any more: the run goes on from update ");
    let (scratch, _) = job.end();
    assert_same(&scratch, &clean(), 1);
}

#[test]
fn a_coordinator_of_another_run_refuses_by_name() {
    let mut job = Job::start(WORK, 1, "kill:coordinator@update=20");
    job.death();
    job.command = job.command.replace("--output_dir out", "--output_dir other");
    job.again("");
    let refused = job.workers.remove(0).end().expect(78);
    refused.says(&["looks for the coordinator for 300 s", "holds update", "of another run", "start the worker again"]);
}

#[test]
fn a_worker_that_looks_for_its_coordinator_can_be_told_to_end() {
    let mut job = Job::start(WORK, 1, "kill:coordinator@update=20");
    job.death();
    let mut worker = job.workers.remove(0);
    worker.wait_for("looks for the coordinator");
    worker.signal(Signal::TERM);
    worker.end().expect(75).says(&["asked to end"]);
}

#[test]
fn a_worker_may_be_told_not_to_wait() {
    let scratch = Scratch::new(100);
    let command = format!("serve {RECIPE} {WORK} --workers 1");
    let mut coordinator = serve(&scratch, &command, "127.0.0.1:0", "kill:coordinator@update=20");
    let address = serving::address(&mut coordinator);
    let worker = scratch.start_worker(&format!("--coordinator {address} --threads 1 --reconnect_timeout 0"));
    assert_eq!(coordinator.end().code, None);
    let ended = worker.end().expect(70);
    assert!(!ended.stderr.contains("looks for"), "{}", ended.stderr);
}
