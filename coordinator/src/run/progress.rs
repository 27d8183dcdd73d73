//! How far training has come.

use std::collections::BTreeSet;
use std::time::Instant;

use medley_common::identity::Update;

use super::report::{TrainSummary, UpdateRecord};
use super::{Job, TrainingJob};

/// The position of a run, and the sums over what it has done.
#[derive(Debug)]
pub(super) struct Progress {
    /// Updates done.
    pub(super) done: Update,
    /// Updates that are in the ledger.
    pub(super) recorded: Update,
    /// Updates done in the newest checkpoint; before there is one, in the state on the disk that the run started from.
    pub(super) checkpoint: Update,
    /// Updates done in the newest state that is on the disk, as a checkpoint or as the final model.
    pub(super) saved: Update,
    pub(super) last: Option<UpdateRecord>,
    /// How many groups have tried the next update, the one that tries it now included.
    pub(super) attempt: u32,
    /// Updates that were made in this process.
    made: u64,
    /// The loss of every update done; empty where those before a resume are not known.
    losses: Vec<f64>,
    /// Updates done that moved no weight.
    skipped: BTreeSet<Update>,
    began: Option<Instant>,
    ended: Option<Instant>,
    rows: u64,
    /// Updates since the last line of the log, and the sum of their losses.
    unlogged: (u64, f64),
}

impl Progress {
    /// The position that `job` goes on from: sums go on as if the run had never stopped.
    pub(super) fn new(job: &Job) -> Self {
        let (start, saved) = (job.past.update, job.base.update);
        let losses = job.past.losses.clone();
        let mut unlogged = unlogged(&losses, job.training.as_ref());
        if job.is_log_overdue() {
            // The line that the last update ends is still to be written.
            let (last, before) = losses.split_last().map_or((0.0, &losses[..]), |(last, before)| (*last, before));
            let (updates, sum) = self::unlogged(before, job.training.as_ref());
            unlogged = (updates + 1, sum + last);
        }
        Self {
            done: start,
            recorded: start,
            checkpoint: saved,
            saved,
            last: None,
            attempt: 1,
            made: 0,
            began: None,
            ended: None,
            losses,
            skipped: job.past.skipped.iter().copied().collect(),
            rows: 0,
            unlogged,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// Counts the next update.
    pub(super) fn note(&mut self, now: Instant, record: &UpdateRecord) {
        self.done = record.update;
        self.attempt = 1;
        self.ended = Some(now);
        self.made += 1;
        self.losses.push(record.loss);
        if record.skipped {
            self.skipped.insert(record.update);
        }
        self.rows += record.lanes.iter().map(|lane| lane.len() as u64).sum::<u64>();
        self.unlogged = (self.unlogged.0 + 1, self.unlogged.1 + record.loss);
        self.last = Some(record.clone());
    }

    /// The mean loss of the updates since the last line of the log, for the next one.
    pub(super) fn take_mean(&mut self) -> f64 {
        let (updates, losses) = std::mem::take(&mut self.unlogged);
        losses / updates.max(1) as f64
    }

    /// How many of the updates done moved no weight.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.len() as u64
    }

    /// Goes back to `update`: sums are as they were then.
    pub(super) fn rewind(&mut self, update: Update, training: Option<&TrainingJob>) {
        let void = self.done.0.saturating_sub(update.0);
        let known = self.losses.len().saturating_sub(usize::try_from(void).unwrap_or(usize::MAX));
        self.losses.truncate(known);
        self.skipped.retain(|skipped| *skipped <= update);
        self.unlogged = if known as u64 == update.0 { unlogged(&self.losses, training) } else { (0, 0.0) };
        self.done = update;
        self.recorded = self.recorded.min(update);
        self.checkpoint = self.checkpoint.min(update);
        // What was saved beyond that as the final model is no state to go on from.
        self.saved = if self.saved > update { self.checkpoint } else { self.saved };
        self.attempt += 1;
        self.last = None;
    }

    /// Workers hold the state after `update`, which is on the disk: nothing is trained any more.
    pub(super) fn load(&mut self, update: Update) {
        (self.done, self.recorded, self.saved) = (update, update, update);
    }

    pub(super) fn summary(&self, epoch: f64) -> TrainSummary {
        let seconds = self.began.zip(self.ended).map_or(0.0, |(began, ended)| (ended - began).as_secs_f64());
        // Added in order, so that a run that was stopped has the same mean to the bit.
        let mean_loss = self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64;
        TrainSummary { update: self.done, epoch, mean_loss, rows: self.rows, updates: self.made, seconds }
    }
}

/// Updates since the last line of the log that these losses led to, and the sum of theirs.
fn unlogged(losses: &[f64], training: Option<&TrainingJob>) -> (u64, f64) {
    let mut unlogged = (0, 0.0);
    for (update, loss) in (1..).map(Update).zip(losses) {
        unlogged = (unlogged.0 + 1, unlogged.1 + loss);
        if training.is_some_and(|training| training.cadence.logs_after(update)) {
            unlogged = (0, 0.0);
        }
    }
    unlogged
}
