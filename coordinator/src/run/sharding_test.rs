//! Runs whose workers hold shards of the state, in the simulation.

use std::time::Duration;

use super::simulated_fate::Faults;
use super::simulated_world::World;
use super::simulation::{SEEDS, assert_sound, full_job, with_seed};
use super::*;

fn sharded_job(workers: u32) -> Job {
    Job { shard_optimizer_state: true, ..full_job(workers) }
}

/// Model workers refuse a second group with the state of the first, so each group begins from the disk.
#[test]
fn shards_change_nothing_in_the_result_whatever_happens() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let mut back = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = sharded_job(1 + (seed % 5) as u32);
            job.patience.heartbeat = Duration::from_secs(1);
            job.patience.reattach = Duration::from_millis([0, 20][(seed % 2) as usize]);
            let faults = Faults {
                deaths: (seed % 4) as u32,
                leaves: (seed % 3) as u32,
                cuts: (seed % 5) as u32,
                orders: (seed % 3) as u32,
                hangs: (seed % 2) as u32,
                outages: (seed % 3) as u32,
                ends: (seed % 2) as u32,
                die_with_it: seed % 4,
                ..Faults::default()
            };
            let (world, _) = World::new(seed, job.clone()).play_out(faults);
            back += u64::from(world.ledger.rewound().0 > 0);
            assert_sound(&world.history, &job);
            assert_eq!(world.history.result(), expected);
        });
    }
    assert!(back > SEEDS.end / 20, "{back} went back");
}

/// A group that changes with all of its members there is saved first: no update is made again.
#[test]
fn who_comes_and_goes_in_order_costs_no_update() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let mut saved = 0;
    for seed in SEEDS.step_by(3) {
        with_seed(seed, || {
            let faults = Faults { leaves: 1 + (seed % 4) as u32, ..Faults::default() };
            let (world, network) = World::new(seed, sharded_job(1 + (seed % 5) as u32)).play_out(faults);
            assert_eq!((world.ledger.rewound().0, network.computed), (0, 64), "an update is made twice");
            saved += world.history.commits.iter().filter(|(update, _)| update.0 % 2 == 1).count() as u64;
            assert_eq!(world.history.result(), expected);
        });
    }
    assert!(saved > SEEDS.end / 60, "{saved} checkpoints for a new group");
}

#[test]
fn a_stop_fails_nobody() {
    for seed in SEEDS.step_by(3) {
        with_seed(seed, || {
            let job = sharded_job(1 + (seed % 4) as u32);
            let faults = Faults { stop: true, deaths: (seed % 3) as u32, ..Faults::default() };
            let (history, _) = World::new(seed, job.clone()).play(faults);
            assert_sound(&history, &job);
            assert!(!matches!(history.outcome, Outcome::Failed(_)), "{:?}", history.outcome);
        });
    }
}
