//! Checkpoints are sent in pieces by all workers while training goes on, and are the same whatever happens meanwhile.

use std::time::{Duration, Instant};

use medley_tests::{Proxy, Running, Scratch};
use rustix::process::Signal;

use crate::ledger::updates;
use crate::{RECIPE, serving};

/// 260 updates.
const WORK: &str = "--num_train_epochs 20 --save_steps 50 --logging_steps 7 --heartbeat_timeout 10";
/// What a piece of the far worker takes in each direction.
const FAR: Duration = Duration::from_millis(700);

fn clean() -> Scratch {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {WORK} --workers 1")).expect(0);
    scratch
}

/// Every checkpoint has the same bytes, its log among them, and the ledger proves all of it.
fn assert_same(run: &Scratch, clean: &Scratch) {
    for update in [50, 100, 150, 200, 250] {
        for file in ["model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
            let path = format!("out/checkpoint-{update}/{file}");
            assert_eq!(run.sha256(&path), clean.sha256(&path), "{path}");
        }
    }
    assert_eq!(run.sha256("out/model.safetensors"), clean.sha256("out/model.safetensors"));
    assert_eq!(updates(run), updates(clean));
    run.run("verify out").expect(0);
}

/// Two workers, one of them far away from update 42 on.
struct Pair {
    scratch: Scratch,
    command: String,
    address: String,
    coordinator: Running,
    proxy: Proxy,
    far: Running,
    near: Running,
}

impl Pair {
    fn start() -> Self {
        let scratch = Scratch::new(100);
        let command = format!("serve {RECIPE} {WORK} --workers 2 --min_workers 1 --listen");
        let mut coordinator = scratch.start(&format!("{command} 127.0.0.1:0"));
        let address = serving::address(&mut coordinator);
        let proxy = Proxy::before(&address);
        let far = scratch.start_worker(&format!("--coordinator {} --threads 1", proxy.address()));
        let near = scratch.start_worker(&format!("--coordinator {address} --threads 1"));
        coordinator.wait_for("update 42:");
        proxy.delay(FAR);
        Self { scratch, command, address, coordinator, proxy, far, near }
    }

    /// Blocks until a save is under way.
    fn wait_until_saving(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ended = self.scratch.run(&format!("status --coordinator {} --json", self.address)).expect(0);
            let status: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
            if status["saving_update"].is_u64() {
                return;
            }
            assert!(Instant::now() < deadline, "nothing is saved: {status}");
        }
    }
}

/// What the ledger has of a checkpoint, and which updates before it.
fn updates_before_checkpoint(run: &Scratch, update: u64) -> u64 {
    let ledger = run.json_lines("out/ledger.jsonl");
    let is_it = |record: &&serde_json::Value| record["kind"] == "checkpoint" && record["update"] == update;
    let before = ledger.iter().take_while(|record| !is_it(record)).filter(|record| record["kind"] == "update");
    before.filter_map(|record| record["update"].as_u64()).max().unwrap()
}

#[test]
fn the_files_are_the_same_whoever_sends_which_piece() {
    let clean = clean();
    for workers in [2, 3] {
        let scratch = Scratch::new(100);
        scratch.run(&format!("train {RECIPE} {WORK} --workers {workers}")).expect(0);
        assert_same(&scratch, &clean);
    }
}

#[test]
fn training_goes_on_while_a_slow_worker_sends() {
    let mut pair = Pair::start();
    pair.coordinator.wait_for("checkpoint-50");
    pair.proxy.delay(Duration::ZERO);
    pair.coordinator.end().expect(0);
    pair.far.end().expect(0);
    pair.near.end().expect(0);
    assert!(updates_before_checkpoint(&pair.scratch, 50) > 50, "training has waited for the save");
    assert_same(&pair.scratch, &clean());
}

#[test]
fn what_a_worker_dies_over_is_sent_by_the_other() {
    let pair = Pair::start();
    pair.wait_until_saving();
    pair.far.signal(Signal::KILL);
    let ended = pair.coordinator.end().expect(0).says(&["was lost", "checkpoint-50"]);
    assert!(!ended.stderr.contains("given up"), "{}", ended.stderr);
    pair.near.end().expect(0);
    assert_same(&pair.scratch, &clean());
}

#[test]
fn what_the_coordinator_dies_over_is_sent_again() {
    let pair = Pair::start();
    pair.wait_until_saving();
    pair.coordinator.signal(Signal::KILL);
    assert_eq!(pair.coordinator.end().code, None);
    pair.proxy.delay(Duration::ZERO);
    let again = pair.scratch.start(&format!("{} {}", pair.command, pair.address));
    let ended = again.end().expect(0).says(&["came back", "checkpoint-50"]);
    assert!(!ended.stderr.contains("given up"), "{}", ended.stderr);
    pair.far.end().expect(0);
    pair.near.end().expect(0);
    assert_same(&pair.scratch, &clean());
}
