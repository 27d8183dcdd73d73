//! What is done between updates, or between the chunks of a stream, and in which order.

use std::collections::VecDeque;
use std::time::Instant;

use medley_common::identity::{Split, Update};

use super::action::Task;
use super::report::Outcome;
use super::{Action, Occasion, Phase, Run, SavePurpose};

impl Run {
    /// Does the next thing on the agenda; with an empty agenda, trains on, or waits for the next rows of a stream.
    pub(super) fn go_on(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.renew_orphan(actions);
        if self.stopping && !matches!(self.agenda.back(), Some(Task::Stop)) {
            self.agenda = self.stop_agenda();
        }
        // Who would take the save along goes when it is done.
        if self.changed && self.leavers_hold_the_save() {
            self.phase = Phase::Saving;
            return;
        }
        // A group that has lost somebody cannot even finish what is due before a stop.
        let suffices = self.stopping && self.roster.ranked().len() == self.shares.len();
        if self.changed && !suffices && !self.saves_for_leavers() && !self.is_over() {
            if self.saves_shards(actions) {
                return;
            }
            return self.disband(now, actions);
        }
        self.save_if_asked();
        // One save at a time, and none is left behind.
        if self.saving.is_some() && (self.is_over() || matches!(self.agenda.front(), Some(Task::Save(_)))) {
            self.phase = Phase::Saving;
            return;
        }
        match self.agenda.pop_front() {
            None if self.job.is_stream => self.phase = Phase::Idle,
            None => self.train(now, actions),
            Some(Task::Evaluate(split, occasion)) => self.evaluate(now, split, occasion, actions),
            Some(Task::Save(purpose)) => {
                self.save(purpose, actions);
                self.go_on(now, actions);
            }
            Some(Task::Summarise) => {
                self.summarise(actions);
                self.go_on(now, actions);
            }
            Some(Task::LoadBest) => self.load_best(now, actions),
            Some(Task::Finish(outcome)) => self.finish(outcome, actions),
            Some(Task::Stop) => self.finish(self.stopped(), actions),
        }
    }

    /// Whether nothing is left to do that needs workers in the group that there is.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.agenda.front(), Some(Task::Summarise | Task::LoadBest | Task::Finish(_) | Task::Stop))
    }

    /// What follows `update`: as in Hugging Face, evaluation comes before saving.
    pub(super) fn agenda_after(&self, update: Update) -> VecDeque<Task> {
        let Some(training) = &self.job.training else { return VecDeque::new() };
        let mut agenda = VecDeque::new();
        if training.cadence.evaluates_after(update) && self.job.validation.is_some() {
            agenda.push_back(Task::Evaluate(Split::Validation, Occasion::Training));
        }
        let saves = training.cadence.saves_after(update);
        if update >= self.end() {
            // Who holds a shard has no state to predict with in another group but that of a checkpoint.
            let goes_on = self.has_shards() && self.results().next().is_some();
            let purpose = if saves || goes_on { SavePurpose::CheckpointAndFinal } else { SavePurpose::Final };
            agenda.extend(self.end_agenda(purpose));
        } else if saves {
            agenda.push_back(Task::Save(SavePurpose::Checkpoint));
        }
        agenda
    }

    pub(super) fn end_agenda(&self, save: SavePurpose) -> VecDeque<Task> {
        let results: Vec<Task> = self.results().collect();
        // Where nothing is predicted, the best model need not be with the workers.
        let best = (self.chooses_best() && !results.is_empty()).then_some(Task::LoadBest);
        let end = [Task::Save(save), Task::Summarise].into_iter().chain(best);
        end.chain(results).chain([Task::Finish(Outcome::Completed)]).collect()
    }

    /// The results that are asked for.
    pub(super) fn results(&self) -> impl Iterator<Item = Task> + use<> {
        let validation = self.job.validation.is_some().then_some(Split::Validation);
        let test = self.job.test.is_some().then_some(Split::Test);
        validation.into_iter().chain(test).map(|split| Task::Evaluate(split, Occasion::End))
    }
}
