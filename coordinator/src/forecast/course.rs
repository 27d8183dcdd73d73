//! What training comes to: its updates, rows by lane, learning rates, what happens in between.

use medley_common::example::Example;
use medley_common::identity::Update;
use medley_common::lane::LaneTree;
use medley_common::plan::{Plan, UpdatePlan};
use serde::Serialize;

use super::memory::Load;
use crate::spec::{Bound, Cadence, Every};

/// Updates that are looked at one by one: all of most runs; of longer ones so many, which epochs that come differ from
/// by chance alone.
const MOST_UPDATES: u64 = 50_000;

/// The course of training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Course {
    /// Updates of the whole run.
    pub updates: u64,
    /// Those that are done already, by what lies in the output folder.
    pub updates_done: u64,
    /// Updates of an epoch.
    pub updates_per_epoch: u64,
    /// Epochs, the last of which may be a part.
    pub epochs: f64,
    /// Updates of warm-up.
    pub warmup_updates: u64,
    /// Rows of the global batch.
    pub rows_per_update: u32,
    /// Rows of an epoch.
    pub rows: u64,
    /// Tokens of an epoch.
    pub tokens: u64,
    /// Tokens of the longest row.
    pub longest_row: u32,
    /// The learning rate of some updates, in their order.
    pub learning_rates: Vec<RateAt>,
    /// What each lane takes of the first epoch.
    pub lanes: Vec<LaneShare>,
    /// Evaluations during training.
    pub evaluations: Times,
    /// Checkpoints during training.
    pub checkpoints: Times,
}

/// The learning rate of an update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RateAt {
    /// The update, from 1.
    pub update: u64,
    /// The rate that it is made with.
    pub learning_rate: f64,
}

/// What a lane takes of the first epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LaneShare {
    /// The worker that computes it, from 0, as long as all are there.
    pub worker: u32,
    /// Its rows.
    pub rows: u64,
    /// Their tokens.
    pub tokens: u64,
}

/// How often something is done during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Times {
    /// How often.
    pub times: u64,
    /// After which update first.
    pub first: Option<u64>,
    /// After which update last.
    pub last: Option<u64>,
}

/// The course, and the heaviest update of each worker.
pub(super) struct Surveyed {
    pub course: Course,
    pub loads: Vec<Load>,
    /// Whether all updates were looked at.
    pub is_whole: bool,
}

/// Looks at the updates of a run that trains on `rows`, after `done` of them.
pub(super) fn survey(bound: &Bound, rows: &[Example], done: u64) -> Surveyed {
    let lengths: Vec<u32> = rows.iter().map(|row| u32::try_from(row.len()).unwrap_or(u32::MAX)).collect();
    let (cadence, schedule) = (&bound.cadence, &bound.train.schedule);
    let mut plan = Plan::new(&bound.train, lengths.clone());
    let worker_of = workers_of(bound);
    let mut lanes: Vec<LaneShare> =
        worker_of.iter().map(|worker| LaneShare { worker: *worker, rows: 0, tokens: 0 }).collect();
    let mut loads = vec![Load::default(); bound.team.workers as usize];
    let last = cadence.total_updates.min(MOST_UPDATES);
    for update in 1..=last {
        let planned = plan.update(Update(update));
        weigh(&planned, &lengths, &worker_of, &mut loads);
        if update <= cadence.updates_per_epoch {
            for (share, rows) in lanes.iter_mut().zip(&planned.lanes) {
                share.rows += rows.len() as u64;
                share.tokens += rows.iter().map(|row| u64::from(lengths[row.0 as usize])).sum::<u64>();
            }
        }
    }
    let course = Course {
        updates: cadence.total_updates,
        updates_done: done,
        updates_per_epoch: cadence.updates_per_epoch,
        epochs: cadence.total_updates as f64 / cadence.updates_per_epoch.max(1) as f64,
        warmup_updates: schedule.warmup_updates,
        rows_per_update: bound.train.rows_per_update,
        rows: lengths.len() as u64,
        tokens: lengths.iter().map(|length| u64::from(*length)).sum(),
        longest_row: lengths.iter().copied().max().unwrap_or(0),
        learning_rates: rates(bound),
        lanes,
        evaluations: times(cadence, cadence.evaluations(), cadence.evaluation),
        checkpoints: times(cadence, cadence.checkpoints(), cadence.saving),
    };
    Surveyed { course, loads, is_whole: last == cadence.total_updates }
}

/// The worker of each lane, as long as all workers are there.
fn workers_of(bound: &Bound) -> Vec<u32> {
    let shares = LaneTree::new(bound.train.lanes).assign(bound.team.workers);
    (0..).zip(shares).flat_map(|(worker, lanes)| lanes.map(move |_| worker)).collect()
}

/// Adds what an update asks of each worker to the most that any did.
fn weigh(planned: &UpdatePlan, lengths: &[u32], worker_of: &[u32], loads: &mut [Load]) {
    let mut own = vec![Load::default(); loads.len()];
    for (worker, rows) in worker_of.iter().zip(&planned.lanes) {
        let tokens: u64 = rows.iter().map(|row| u64::from(lengths[row.0 as usize])).sum();
        own[*worker as usize].add_lane(rows.len() as u64, tokens);
    }
    loads.iter_mut().zip(own).for_each(|(most, load)| *most = most.heavier(load));
}

/// The rates at the points where a schedule turns: begin, middle and end of the warm-up, quarters of the run, its end.
fn rates(bound: &Bound) -> Vec<RateAt> {
    let schedule = &bound.train.schedule;
    let (total, warmup) = (schedule.total_updates, schedule.warmup_updates.min(schedule.total_updates));
    if schedule.decay.wants().is_some() {
        // What evaluations make of it is not known before them.
        return vec![RateAt { update: 1, learning_rate: schedule.at(Update(1), schedule.peak) }];
    }
    let mut points = vec![1, warmup / 2 + 1, warmup + 1, total / 4, total / 2, total / 4 * 3, total];
    points.retain(|update| (1..=total).contains(update));
    points.sort_unstable();
    points.dedup();
    points
        .into_iter()
        .map(|update| RateAt { update, learning_rate: schedule.at(Update(update), schedule.peak) })
        .collect()
}

fn times(cadence: &Cadence, times: u64, every: Every) -> Times {
    let (first, last) = match every {
        _ if times == 0 => (None, None),
        Every::Never => (None, None),
        Every::Epoch => (Some(cadence.updates_per_epoch.min(cadence.total_updates)), Some(cadence.total_updates)),
        Every::Updates(updates) => (Some(updates.get()), Some(times * updates.get())),
    };
    Times { times, first, last }
}
