//! What evaluations during training decide: the peak of the learning rate, when training ends early, and which checkpoint
//! is the result.
//!
//! Where that is not the last model, workers begin anew with it once training is summarised, as in a run that trains
//! nothing and only predicts: what is in the ledger, and the position that results are told of, stay those of the end of
//! training.

use std::time::Instant;

use medley_common::identity::{Split, Update};

use super::action::Task;
use super::{Action, Base, Occasion, Past, Phase, Run};
use crate::metrics;
use crate::spec::Measured;

/// What evaluations have measured, and what has come of it.
#[derive(Debug)]
pub(super) struct Selecting {
    /// In the order of their updates.
    measured: Vec<Measured>,
    loading: Loading,
}

/// How far the best model is with the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loading {
    /// They hold what they have trained.
    Not,
    /// The archive looks for it, and they leave their group; training ended after so many updates.
    Awaited(Update),
    /// They begin anew with it.
    Begun(Update),
    /// A group has stood with it.
    Done(Update),
}

impl Selecting {
    pub(super) fn new(past: &Past) -> Self {
        Self { measured: past.measured.clone(), loading: Loading::Not }
    }

    /// The run goes back to `update`: later evaluations are made again.
    pub(super) fn rewind(&mut self, update: Update) {
        self.loading = Loading::Not;
        self.measured.retain(|measured| measured.update <= update);
    }

    /// Whether the archive has still to say which checkpoint it is.
    pub(super) fn awaits_choice(&self) -> bool {
        matches!(self.loading, Loading::Awaited(_))
    }

    /// Whether workers are to begin anew with it, and no group has yet stood.
    pub(super) fn is_loading(&self) -> bool {
        matches!(self.loading, Loading::Begun(_))
    }

    /// Whether nothing is trained any more, and who comes begins with it.
    pub(super) fn has_loaded(&self) -> bool {
        matches!(self.loading, Loading::Begun(_) | Loading::Done(_))
    }

    /// A group stands.
    pub(super) fn grouped(&mut self) {
        if let Loading::Begun(trained) = self.loading {
            self.loading = Loading::Done(trained);
        }
    }
}

impl Run {
    /// The last update of the run, as far as is known.
    pub(super) fn end(&self) -> Update {
        let training = self.job.training.as_ref();
        let criterion = training.and_then(|training| training.criterion.as_ref());
        let early = criterion.and_then(|criterion| criterion.ends_after(self.selecting.measured.iter().copied()));
        match self.selecting.loading {
            Loading::Not => early.map_or(self.job.total(), |early| early.min(self.job.total())),
            Loading::Awaited(trained) | Loading::Begun(trained) | Loading::Done(trained) => trained,
        }
    }

    /// Updates done, whatever workers hold now.
    pub(super) fn reached(&self) -> Update {
        if self.selecting.has_loaded() { self.end() } else { self.progress.done }
    }

    /// Whether the result is the best of the checkpoints.
    pub(super) fn chooses_best(&self) -> bool {
        let criterion = self.job.training.as_ref().and_then(|training| training.criterion.as_ref());
        criterion.is_some_and(|criterion| criterion.load_best)
    }

    /// The checkpoints that may be the result, the best first; none where that is the last model anyway.
    pub(super) fn ranking(&self) -> Vec<Update> {
        let training = self.job.training.as_ref().filter(|_| self.chooses_best());
        let Some((training, criterion)) = training.and_then(|it| Some((it, it.criterion.as_ref()?))) else {
            return Vec::new();
        };
        let saved = self.selecting.measured.iter().filter(|it| training.cadence.saves_after(it.update));
        criterion.ranking(saved.copied())
    }

    /// The highest learning rate of the schedule, as the evaluations before `update` have left it.
    pub(super) fn peak(&self, update: Update) -> f64 {
        let measured = &self.selecting.measured;
        let criterion = self.job.training.as_ref().and_then(|training| training.criterion.as_ref());
        criterion
            .map_or(self.job.spec.schedule.peak, |criterion| criterion.peak(&self.job.spec.schedule, measured, update))
    }

    /// The learning rate that `update` is made with.
    pub(super) fn learning_rate(&self, update: Update) -> f64 {
        self.job.spec.schedule.at(update, self.peak(update))
    }

    /// Takes note of what the newest evaluation has measured: it may be the last of training.
    pub(super) fn select(&mut self, occasion: Occasion, actions: &mut Vec<Action>) {
        let Some(training) = self.job.training.as_ref().filter(|_| occasion == Occasion::Training) else { return };
        let Some((criterion, report)) = training.criterion.as_ref().zip(self.evaluated.as_ref()) else { return };
        let value = match criterion.metric.as_str() {
            "loss" => report.tally.mean_loss(),
            "accuracy" => report.tally.accuracy(),
            key => metrics::value(key, &report.predictions, &report.labels, &self.job.labels),
        };
        // As the ledger has it: a metric of labelled rows that is no number.
        let value = value.or_else(|| report.tally.mean_loss().map(|_| f64::NAN));
        let update = report.update;
        if let Some(value) = value {
            self.selecting.measured.retain(|measured| measured.update < update);
            let before = self.peak(update.next());
            self.selecting.measured.push(Measured { update, value });
            let peak = self.peak(update.next());
            // Told where an update follows.
            if peak < before && update < self.end() {
                let metric = &criterion.metric;
                actions.push(Action::Notice(format!(
                    "the learning rate goes from {before:e} down to {peak:e}: eval_{metric} improves no more"
                )));
            }
        }
        if update >= self.end() && update < self.job.total() {
            let (metric, patience) = (&criterion.metric, criterion.patience.map_or(0, std::num::NonZeroU32::get));
            let best = criterion.best(self.selecting.measured.iter().copied());
            let best = best.map_or_else(String::new, |best| format!(", {} after update {}", best.value, best.update));
            let result = if criterion.load_best { "" } else { "; the last model is the result" };
            let line = format!(
                "training ends after update {update}: no evaluation of the last {patience} has improved on the best \
                 eval_{metric}{best}{result}"
            );
            actions.push(Action::Notice(line));
            self.agenda = self.agenda_after(update);
            self.agenda.retain(|task| *task != Task::Evaluate(Split::Validation, Occasion::Training));
        }
    }

    /// Says what training came to; where another model than the last is the result, the archive looks for it.
    pub(super) fn summarise(&mut self, actions: &mut Vec<Action>) {
        let (done, ranking) = (self.progress.done, self.ranking());
        if self.agenda.contains(&Task::LoadBest) && ranking.first().is_some_and(|best| *best != done) {
            self.selecting.loading = Loading::Awaited(done);
        }
        actions.push(Action::Summarise(self.progress.summary(self.epoch()), ranking));
    }

    /// Has workers leave their group until the archive has found the model, where it looks for one.
    pub(super) fn load_best(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.selecting.awaits_choice() {
            true => self.disband(now, actions),
            false => self.go_on(now, actions),
        }
    }

    /// There is another state on the disk for those that come: a newer one, or the best.
    pub(super) fn based(&mut self, now: Instant, base: Base, actions: &mut Vec<Action>) {
        self.base = base;
        if let Loading::Awaited(trained) = self.selecting.loading {
            self.begin_anew(now, trained, actions);
        }
    }

    /// From here on it is a run that trains nothing: all begin with the best model, and nobody holds anything else of use.
    fn begin_anew(&mut self, now: Instant, trained: Update, actions: &mut Vec<Action>) {
        let best = self.base.update;
        actions.push(Action::Notice(format!("the workers load the best model, that of update {best}")));
        self.selecting.loading = Loading::Begun(trained);
        self.progress.load(best);
        (self.job.training, self.evaluated, self.interrupted) = (None, None, None);
        self.agenda.retain(|task| !matches!(task, Task::Save(_)));
        self.shares.clear();
        self.untold.clear();
        if let Phase::Gathering(gathering) = &mut self.phase {
            // The archive was waited for, not the workers.
            (gathering.since, gathering.returns) = (now, None);
            self.reform(now, actions);
        }
    }

    /// Goes on with the best model, or a state that is sharded, as soon as all who are here have it.
    pub(super) fn tend_loading(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let is_enough = |run: &Self| run.roster.ready().len() >= run.needed() as usize;
        if self.is_renewing() && matches!(self.phase, Phase::Gathering(_)) && is_enough(self) {
            self.reform(now, actions);
        }
    }

    /// Those that are in the run and stay.
    pub(super) fn taking_part(&self) -> u32 {
        let members = self.roster.all(|member| member.welcomed && !member.leaving);
        u32::try_from(members.len()).unwrap_or(u32::MAX).max(1)
    }
}
