//! The run as others see it.

use std::time::Instant;

use medley_common::identity::{Digest, Generation, Rank, Split, Update, WorkerId};
use medley_common::spec::Precision;

use super::report::{EvaluationReport, Outcome, UpdateRecord};
use super::{Phase, PhaseSeconds, Run, Slowness};

/// A snapshot of a run.
#[derive(Debug, Clone)]
pub struct RunView<'a> {
    /// Which run it is.
    pub run: Digest,
    /// What it is doing.
    pub phase: PhaseName,
    /// Updates done.
    pub update: Update,
    /// Updates of the whole run.
    pub total: Update,
    /// Epochs done.
    pub epoch: f64,
    /// The last update made in this process.
    pub last: Option<&'a UpdateRecord>,
    /// Those of the updates done that moved no weight, because a gradient overflowed in half precision.
    pub skipped: u64,
    /// Workers the run waits for or works with.
    pub workers_expected: u32,
    /// The numbers that they compute in.
    pub precision: Precision,
    /// Workers that take part.
    pub workers: Vec<WorkerView<'a>>,
    /// Evaluations so far.
    pub evaluations: &'a [EvaluationView],
    /// Updates done in the newest checkpoint; `None` where there is none.
    pub checkpoint: Option<Update>,
    /// Updates done in the state that is being saved, if one is.
    pub saving: Option<Update>,
    /// The current group.
    pub generation: Generation,
    /// What it waits for, in words.
    pub waiting: Vec<String>,
    /// How it ended.
    pub outcome: Option<&'a Outcome>,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseName {
    /// Waiting for workers.
    Gathering,
    /// Workers leave a group, or connect to each other for a new one.
    Forming,
    /// Updates are made.
    Training,
    /// The state is being saved, and nothing else can be done before.
    Saving,
    /// The validation split is being predicted.
    Evaluating,
    /// The test split is being predicted.
    Predicting,
    /// The run is over, or about to be.
    Finished,
}

/// A worker of a run.
#[derive(Debug, Clone)]
pub struct WorkerView<'a> {
    /// Its number.
    pub worker: WorkerId,
    /// Its rank, once it has one.
    pub rank: Option<Rank>,
    /// Its host; empty until it has said so.
    pub host: &'a str,
    /// Its process id there.
    pub pid: u32,
    /// Its device.
    pub device: &'a str,
    /// What it is doing, in a word.
    pub state: &'static str,
    /// The last update it reported.
    pub update: Update,
    /// When it was last heard of.
    pub heard: Instant,
    /// In what it is slower than the others, if it is.
    pub slowness: Option<Slowness>,
    /// Where the time of its updates goes: medians of the last ones.
    pub phases: Option<PhaseSeconds>,
}

/// The result of an evaluation, without its predictions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvaluationView {
    /// The split.
    pub split: Split,
    /// Updates done when it was made.
    pub update: Update,
    /// Share of correct rows.
    pub accuracy: Option<f64>,
    /// Mean loss.
    pub loss: Option<f64>,
}

impl EvaluationView {
    pub(super) fn of(report: &EvaluationReport) -> Self {
        let (accuracy, loss) = (report.tally.accuracy(), report.tally.mean_loss());
        Self { split: report.split, update: report.update, accuracy, loss }
    }
}

impl Run {
    /// Updates done.
    #[must_use]
    pub fn update(&self) -> Update {
        self.reached()
    }

    /// Updates of the whole run, as far as is known.
    #[must_use]
    pub fn total(&self) -> Update {
        self.end()
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> PhaseName {
        match &self.phase {
            Phase::Gathering(_) => PhaseName::Gathering,
            Phase::Forming(_) | Phase::Disbanding(_) => PhaseName::Forming,
            Phase::Training(_) => PhaseName::Training,
            Phase::Saving => PhaseName::Saving,
            Phase::Evaluating(evaluating) if evaluating.split == Split::Test => PhaseName::Predicting,
            Phase::Idle => PhaseName::Predicting,
            Phase::Evaluating(_) => PhaseName::Evaluating,
            Phase::Finished(_) => PhaseName::Finished,
        }
    }

    /// The run as it stands. Takes the longer the more workers there are.
    #[must_use]
    pub fn view(&self) -> RunView<'_> {
        let phase = self.phase();
        let outcome = match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        };
        RunView {
            run: self.job.run,
            phase,
            update: self.reached(),
            total: self.end(),
            epoch: self.epoch(),
            last: self.progress.last.as_ref(),
            skipped: self.progress.skipped(),
            workers_expected: self.job.workers,
            precision: self.job.spec.compute.precision,
            workers: self.workers(phase),
            evaluations: &self.evaluations,
            checkpoint: Some(self.progress.checkpoint).filter(|update| update.0 > 0),
            saving: self.saving.as_ref().map(|saving| saving.save.update),
            generation: self.generation,
            waiting: self.waiting(),
            outcome,
        }
    }

    fn workers(&self, phase: PhaseName) -> Vec<WorkerView<'_>> {
        let busy = match phase {
            PhaseName::Gathering => "ready",
            PhaseName::Forming => "connecting",
            PhaseName::Training => "training",
            PhaseName::Saving => "saving",
            PhaseName::Evaluating | PhaseName::Predicting => "predicting",
            PhaseName::Finished => "stopping",
        };
        self.roster
            .iter()
            .map(|(worker, member)| {
                let hello = member.hello.as_ref();
                WorkerView {
                    worker,
                    rank: member.rank,
                    host: hello.map_or("", |hello| &hello.host),
                    pid: hello.map_or(0, |hello| hello.pid),
                    device: hello.map_or("", |hello| &hello.device),
                    state: match (&member.hello, &member.prepared, member.rank) {
                        (None, ..) => "connected",
                        (Some(_), None, _) if !member.welcomed => "waiting",
                        (Some(_), None, _) => "preparing",
                        (Some(_), Some(_), _) if member.leaving => "leaving",
                        (Some(_), Some(_), None) => "ready",
                        (Some(_), Some(_), Some(_)) => busy,
                    },
                    update: member.update,
                    heard: member.silent_since(),
                    slowness: self.paces.slowness(worker),
                    phases: self.paces.phases(worker),
                }
            })
            .collect()
    }
}
