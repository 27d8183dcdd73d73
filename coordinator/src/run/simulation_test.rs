//! Whole runs with model workers under a seeded network: any order of events, any stop, any death.

use std::time::Duration;

use medley_common::schedule::{Decay, LrSchedule, Setting};

use super::fixture::{every, job, rows};
use super::simulated_fate::{Faults, History};
use super::simulated_world::World;
use super::*;
use crate::spec::Criterion;

/// Seeds tried; a failing one is named, and can be tried alone by naming it in `SEEDS`.
pub(super) const SEEDS: std::ops::Range<u64> = 0..3_000;

impl History {
    /// What must be the same whatever happens on the way. The last worker that leaves saves what it holds, once more
    /// than is asked for.
    pub(super) fn result(mut self) -> Self {
        // What nobody was left to save is missing, and was said to be.
        let given_up = std::mem::take(&mut self.given_up);
        self.commits.extend(given_up.into_iter().map(|update| (update, SavePurpose::Checkpoint)));
        self.commits.retain(|(update, purpose)| update.0.is_multiple_of(2) || purpose.is_final());
        for record in &mut self.records {
            record.workers.clear();
            record.attempt = 0;
        }
        // Whether a checkpoint and the final model are saved at once or one after the other is no matter.
        let parts = |(update, purpose): &(Update, SavePurpose)| {
            let checkpoint = purpose.is_checkpoint().then_some((*update, SavePurpose::Checkpoint));
            let model = purpose.is_final().then_some((*update, SavePurpose::Final));
            checkpoint.into_iter().chain(model).collect::<Vec<_>>()
        };
        self.commits = self.commits.iter().flat_map(parts).collect();
        self.commits.sort_by_key(|(update, purpose)| (*update, purpose.is_final()));
        self.commits.dedup();
        self.evaluations.sort_by_key(|(split, update, _)| (*update, *split));
        self.evaluations.dedup();
        self
    }
}

/// A job with everything on: evaluations, saves, predictions, odd intervals.
pub(super) fn full_job(workers: u32) -> Job {
    let mut job = job(workers);
    job.spec.lanes = 8;
    job.spec.schedule.total_updates = 8;
    let cadence = &mut job.training.as_mut().expect("training").cadence;
    (cadence.total_updates, cadence.evaluation, cadence.saving) = (8, every(3), every(2));
    cadence.digest = every(3);
    job.validation = Some(rows());
    job.test = Some(rows());
    job.patience.join = Duration::from_secs(3_600);
    job.patience.heartbeat = Duration::from_secs(3_600);
    job
}

/// INV-1 on the surviving history: updates without a gap, each epoch's rows once.
pub(super) fn assert_sound(history: &History, job: &Job) {
    let updates: Vec<u64> = history.records.iter().map(|record| record.update.0).collect();
    assert_eq!(updates, (1..=updates.len() as u64).collect::<Vec<_>>());
    let lengths = &job.training.as_ref().expect("training").lengths;
    for epoch in history.records.chunks_exact(3) {
        let mut seen: Vec<u32> =
            epoch.iter().flat_map(|record| record.lanes.iter().flatten()).map(|row| row.0).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
    }
}

pub(super) fn with_seed(seed: u64, check: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
        eprintln!("simulation failed with seed {seed}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn any_interleaving_at_any_number_of_workers_makes_the_same_run() {
    let (expected, network) = World::new(0, full_job(1)).play(Faults::default());
    assert_eq!(expected.records.len(), 8);
    assert_eq!(expected.outcome, Outcome::Completed);
    assert_eq!(expected.evaluations.len(), 4, "after 3 and 6, at the end, and the prediction");
    assert_eq!(network.computed, 64);
    let expected = expected.result();
    let mut overlapped = 0;
    for seed in SEEDS.step_by(10) {
        for workers in [1, 2, 3, 5, 8] {
            with_seed(seed, || {
                let (world, network) = World::new(seed, full_job(workers)).play_out(Faults::default());
                assert!(world.history.given_up.is_empty(), "{:?}", world.history.given_up);
                assert_eq!(world.history.result(), expected);
                assert_eq!(network.computed, 64, "no lane is computed twice");
                overlapped += world.overlapped;
            });
        }
    }
    assert!(overlapped > SEEDS.end / 2, "{overlapped} updates while a save was under way");
}

#[test]
fn a_stop_at_any_moment_loses_nothing() {
    let mut stopped_after_updates = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 4) as u32);
            let faults = Faults { stop: true, deaths: (seed % 3) as u32, ..Faults::default() };
            let (history, _) = World::new(seed, job.clone()).play(faults);
            assert_sound(&history, &job);
            match &history.outcome {
                Outcome::Completed => assert_eq!(history.records.len(), 8),
                // What it stopped at was saved; the updates after it, if any, were overtaken by a second request.
                Outcome::Stopped { update, saved } => {
                    let commit = |wanted: &Update| history.commits.iter().any(|(update, _)| update == wanted);
                    assert!(saved.as_ref().is_none_or(commit), "{saved:?} in {:?}", history.commits);
                    stopped_after_updates += u64::from(*saved == Some(*update));
                }
                Outcome::Failed(failure) => panic!("{failure}"),
            }
        });
    }
    assert!(stopped_after_updates > SEEDS.end / 20, "{stopped_after_updates} stops that had something to save");
}

#[test]
fn deaths_and_departures_change_nothing_in_the_result() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let (mut redone, mut rewound, mut given_up) = (0, 0, 0);
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 5) as u32);
            let faults = Faults { deaths: 1 + (seed % 7) as u32, leaves: (seed % 3) as u32, ..Faults::default() };
            let (history, network) = World::new(seed, job.clone()).play(faults);
            redone += u64::from(history.records.iter().any(|record| record.attempt > 1));
            rewound += u64::from(network.computed > 72);
            given_up += history.given_up.len() as u64;
            assert_eq!(history.result(), expected);
        });
    }
    assert!(redone > SEEDS.end / 4 && rewound > SEEDS.end / 20, "{redone} with a second attempt, {rewound} rewound");
    assert!(given_up > 0 && given_up < SEEDS.end / 5, "{given_up} saves were given up");
}

/// Operators ask for checkpoints, and have workers leave whose sessions may break before they have.
#[test]
fn orders_of_operators_change_nothing_in_the_result() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let mut saved = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let job = full_job(1 + (seed % 5) as u32);
            let faults = Faults {
                orders: 1 + (seed % 5) as u32,
                deaths: (seed % 2) as u32,
                cuts: (seed % 3) as u32,
                ..Faults::default()
            };
            let (history, _) = World::new(seed, job).play(faults);
            saved += history.commits.iter().filter(|(update, _)| update.0 % 2 == 1).count() as u64;
            assert_eq!(history.result(), expected);
        });
    }
    assert!(saved > SEEDS.end / 40, "{saved} checkpoints that were asked for");
}

/// The coordinator dies at any moment, and comes back; workers die with it, between and after, or come back in any order.
#[test]
fn deaths_of_the_coordinator_change_nothing_in_the_result() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let (mut back, mut kept) = (0, 0);
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 5) as u32);
            job.patience.reattach = Duration::from_millis(20);
            let faults = Faults {
                ends: 1 + (seed % 4) as u32,
                deaths: (seed % 3) as u32,
                cuts: (seed % 5) as u32,
                die_with_it: [0, 2, 4][(seed % 3) as usize],
                ..Faults::default()
            };
            let (world, _) = World::new(seed, job.clone()).play_out(faults);
            back += u64::from(world.ledger.rewound().0 > 0);
            kept += u64::from(world.ledger.rewound().0 == 0);
            assert_sound(&world.history, &job);
            assert_eq!(world.history.result(), expected);
        });
    }
    assert!(back > SEEDS.end / 20 && kept > SEEDS.end / 2, "{back} went back, {kept} did not");
}

/// As long as all workers come back, nothing is made again: no update, no evaluation, no checkpoint. And nobody is waited
/// for who is there already, under whatever name: such a wait would outlast the run.
#[test]
fn nothing_is_lost_with_the_coordinator_while_its_workers_live() {
    let (expected, clean) = World::new(0, full_job(1)).play(Faults::default());
    let expected = expected.result();
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 5) as u32);
            job.patience.reattach = Duration::from_secs(3_600);
            let faults = Faults { ends: 1 + (seed % 6) as u32, cuts: (seed % 3) as u32, ..Faults::default() };
            let (world, network) = World::new(seed, job).play_out(faults);
            assert_eq!(world.history.clone().result(), expected);
            assert_eq!(world.ledger.rewound(), (0, 0), "an update is made twice");
            assert!(network.computed < 2 * clean.computed, "{} lanes computed", network.computed);
            let made = world.history.evaluations.iter().map(|(_, update, _)| update.0);
            assert_eq!(made.filter(|update| *update < 8).collect::<Vec<_>>(), [3, 6], "an evaluation is made twice");
        });
    }
}

/// Workers leave in order, and take the places of those that do, while sessions break: hardly anything is
/// made again, and nobody is waited for who has left.
#[test]
fn nothing_is_lost_with_workers_that_leave_while_sessions_break() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let mut back = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 3) as u32);
            job.patience.reattach = Duration::from_secs(3_600);
            let (cuts, leaves) = (1 + (seed % 6) as u32, (seed % 4) as u32);
            let faults = Faults { cuts, leaves, orders: (seed % 5) as u32, ..Faults::default() };
            let (world, _) = World::new(seed, job).play_out(faults);
            back += u64::from(world.ledger.rewound().0 > 0);
            assert_eq!(world.history.result(), expected);
        });
    }
    // Where somebody is there who holds more than the disk does, the holder of one update more is not waited for.
    assert!(back < SEEDS.end / 500, "{back} went back");
}

/// Workers hang for longer than they may, and wake up or do not; others die meanwhile.
#[test]
fn hangs_change_nothing_in_the_result() {
    let expected = World::new(0, full_job(1)).play(Faults::default()).0.result();
    let mut replaced = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 5) as u32);
            job.patience.heartbeat = Duration::from_secs(1);
            // Under `train`, and under `serve`.
            job.patience.reattach = Duration::from_millis([0, 20][(seed % 2) as usize]);
            let (hangs, deaths) = (1 + (seed % 4) as u32, (seed % 3) as u32);
            let (leaves, ends, outages) = ((seed % 2) as u32, (seed % 2) as u32, (seed % 3) as u32);
            let faults = Faults { hangs, deaths, leaves, ends, outages, ..Faults::default() };
            let (world, _) = World::new(seed, job.clone()).play_out(faults);
            replaced += u64::from(world.replaced);
            assert_sound(&world.history, &job);
            assert_eq!(world.history.result(), expected);
        });
    }
    assert!(replaced > SEEDS.end / 2, "{replaced} workers were replaced");
}

/// The coordinator hears nobody for a while: all come back with what they hold, and hardly
/// anything is made again.
#[test]
fn nothing_is_lost_while_nobody_is_heard() {
    let (expected, clean) = World::new(0, full_job(1)).play(Faults::default());
    let expected = expected.result();
    let mut back = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let mut job = full_job(1 + (seed % 5) as u32);
            job.patience.heartbeat = Duration::from_secs(1);
            job.patience.reattach = Duration::from_secs(3_600);
            let faults = Faults { outages: 1 + (seed % 4) as u32, ..Faults::default() };
            let (world, network) = World::new(seed, job).play_out(faults);
            back += u64::from(world.ledger.rewound().0 > 0);
            assert!(network.computed < 2 * clean.computed, "{} lanes computed", network.computed);
            assert_eq!(world.history.result(), expected);
        });
    }
    // As above: the holder of one update more is not waited for.
    assert!(back < SEEDS.end / 500, "{back} went back");
}

/// Lanes wander between workers whose speeds change all the time, while some of them die.
#[test]
fn shares_by_speed_change_nothing_in_the_result() {
    let job = |workers| {
        let mut job = Job { rebalance: Some(1), ..full_job(workers) };
        (job.spec.schedule.total_updates, job.spec.rows_per_update) = (18, 8);
        let training = job.training.as_mut().expect("training");
        training.cadence.total_updates = 18;
        // A row a lane, so that all have something to compute.
        training.lengths = vec![5; 24];
        job
    };
    let expected = World::new(0, job(1)).play(Faults::default()).0.result();
    assert_eq!(expected.records.len(), 18);
    let mut moved = 0;
    for seed in SEEDS.step_by(3) {
        with_seed(seed, || {
            let deaths = (seed % 3) as u32;
            let faults = Faults { deaths, leaves: (seed % 2) as u32, ..Faults::default() };
            let (world, network) = World::new(seed, job(2 + (seed % 4) as u32)).play_out(faults);
            moved += u64::from(world.rebalances);
            assert!(deaths > 0 || seed % 2 > 0 || network.computed == 18 * 8, "no lane is computed twice");
            assert_eq!(world.history.result(), expected);
        });
    }
    assert!(moved > SEEDS.end / 3, "{moved} times");
}

/// The full job, evaluated after every second update and saved after every fourth: the best is the model after update 4, and
/// training ends after 6, whose model is no checkpoint.
fn choosy_job(workers: u32) -> Job {
    let mut job = full_job(workers);
    let training = job.training.as_mut().expect("training");
    (training.cadence.evaluation, training.cadence.saving) = (every(2), every(4));
    training.criterion = Some(Criterion {
        metric: "loss".into(),
        greater_is_better: false,
        load_best: true,
        patience: std::num::NonZeroU32::new(1),
        threshold: 0.0,
    });
    job
}

#[test]
fn the_best_model_is_the_result_whatever_happens() {
    let (world, _) = World::new(0, choosy_job(1)).play_out(Faults::default());
    assert_eq!((world.best, world.history.records.len()), (Some(Update(4)), 6), "{:?}", world.history.evaluations);
    let expected = world.history.result();
    let losses: Vec<f64> = expected.evaluations.iter().filter_map(|(_, _, it)| it.tally.mean_loss()).collect();
    // After 2, 4 and 6, and at the end by the model after 4: both splits have the same rows.
    let distances: Vec<i64> = losses.iter().map(|loss| (loss - losses[1]).round() as i64).collect();
    assert_eq!(distances, [2, 0, 2, 0, 0], "{losses:?}");
    let mut faulty = 0;
    for seed in SEEDS {
        with_seed(seed, || {
            let job = choosy_job(1 + (seed % 5) as u32);
            let faults = Faults {
                deaths: (seed % 3) as u32,
                leaves: (seed % 4) as u32,
                cuts: (seed % 3) as u32,
                ends: (seed % 2) as u32,
                die_with_it: seed % 4,
                ..Faults::default()
            };
            let (world, _) = World::new(seed, job).play_out(faults);
            assert_eq!(world.history.outcome, Outcome::Completed);
            if world.history.given_up.contains(&Update(4)) {
                return;
            }
            faulty += u64::from(world.replaced > 0 || faults.deaths > 0);
            assert_eq!(world.best, Some(Update(4)));
            let mut result = world.history.result();
            // What the last worker that leaves saves is more than is asked for.
            result.commits.retain(|(update, purpose)| *update != Update(2) || purpose.is_final());
            assert_eq!(result, expected);
        });
    }
    assert!(faulty > SEEDS.end / 2, "{faulty}");
}

/// The full job, evaluated after every update: the best loss is that after update 4, and each evaluation that does not
/// improve on the best halves the learning rate.
fn reacting_job(workers: u32) -> Job {
    let mut job = choosy_job(workers);
    let training = job.training.as_mut().expect("training");
    training.cadence.evaluation = every(1);
    training.criterion = training.criterion.take().map(|it| Criterion { load_best: false, patience: None, ..it });
    let settings = [("patience", 0.0), ("factor", 0.5)].map(|(name, value)| (name.to_owned(), Setting::Number(value)));
    let decay = Decay::new("reduce_lr_on_plateau", settings).expect("a schedule");
    job.spec.schedule = LrSchedule { decay, peak: 1.0, ..job.spec.schedule };
    job
}

#[test]
fn what_evaluations_do_to_the_learning_rate_is_the_same_whatever_happens() {
    let expected = World::new(0, reacting_job(1)).play(Faults::default()).0.result();
    let rates: Vec<f64> = expected.records.iter().map(|record| record.learning_rate).collect();
    assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.125]);
    for seed in SEEDS.step_by(3) {
        with_seed(seed, || {
            let faults = Faults {
                deaths: (seed % 3) as u32,
                leaves: (seed % 4) as u32,
                cuts: (seed % 3) as u32,
                ends: (seed % 2) as u32,
                ..Faults::default()
            };
            let found = World::new(seed, reacting_job(1 + (seed % 5) as u32)).play(faults).0.result();
            assert_eq!((found.records, found.evaluations), (expected.records.clone(), expected.evaluations.clone()));
        });
    }
}
