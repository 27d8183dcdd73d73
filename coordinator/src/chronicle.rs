//! What a run has come to so far, for whoever asks for its report.

use std::collections::VecDeque;

use medley_common::identity::Update;
use medley_proto::v1;

use crate::run::Action;
use crate::run::report::{TrainLog, TrainSummary};

/// Lines of the log that are told: what a message may carry many times over.
const LINES: usize = 10_000;

/// The log and the summary of a run.
#[derive(Debug, Clone, Default)]
pub struct Chronicle {
    log: VecDeque<TrainLog>,
    omitted: u64,
    summary: Option<TrainSummary>,
}

impl Chronicle {
    /// That of a run that has logged `lines` before.
    #[must_use]
    pub fn new(lines: Vec<TrainLog>) -> Self {
        let mut chronicle = Self::default();
        lines.into_iter().for_each(|line| chronicle.log(line));
        chronicle
    }

    /// How many lines a report has.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.log.len()
    }

    /// Takes note of what is done; whether anything of it is for the report.
    pub fn did(&mut self, action: &Action) -> bool {
        match action {
            Action::Log(line) => self.log(*line),
            Action::Rewind(update, _) => self.rewind(*update),
            Action::Summarise(summary, _) => self.summary = Some(*summary),
            _ => return false,
        }
        true
    }

    fn log(&mut self, line: TrainLog) {
        if self.log.len() == LINES {
            self.log.pop_front();
            self.omitted += 1;
        }
        self.log.push_back(line);
    }

    /// What was logged after `update` is void.
    fn rewind(&mut self, update: Update) {
        self.log.retain(|line| line.update <= update);
        self.summary = None;
    }

    /// The report of a run that stands as `status` says.
    #[must_use]
    pub fn report(&self, status: &v1::Status) -> v1::Report {
        let line = |line: &TrainLog| {
            let TrainLog { update, epoch, loss, grad_norm, learning_rate, .. } = *line;
            v1::LogLine { update: update.0, epoch, loss, grad_norm, learning_rate }
        };
        let summary = |summary: TrainSummary| {
            let TrainSummary { mean_loss, updates, rows, seconds, .. } = summary;
            v1::TrainSummary { mean_loss, updates, rows, seconds }
        };
        v1::Report {
            run: status.run.clone(),
            update: status.update,
            total_updates: status.total_updates,
            epoch: status.epoch,
            log: self.log.iter().map(line).collect(),
            log_omitted: self.omitted,
            evaluations: status.evaluations.clone(),
            summary: self.summary.map(summary),
            outcome: status.outcome.clone(),
            curve: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(update: u64) -> TrainLog {
        TrainLog { update: Update(update), epoch: 0.0, loss: 1.0, grad_norm: 1.0, learning_rate: 1e-3, skipped: 0 }
    }

    #[test]
    fn what_is_void_is_not_told_and_what_is_old_is_counted() {
        let mut chronicle = Chronicle::new((1..=LINES as u64 + 2).map(line).collect());
        assert!(chronicle.did(&Action::Rewind(Update(LINES as u64), String::new())));
        assert!(!chronicle.did(&Action::Notice(String::new())));
        let report = chronicle.report(&v1::Status::default());
        assert_eq!((report.log.len(), report.log_omitted), (LINES - 2, 2));
        assert_eq!(report.log[0].update, 3);
    }
}
