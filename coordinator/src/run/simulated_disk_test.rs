//! The disk of the simulation: what it is told, it has done at some time, in order, and then it answers.

use super::super::simulated_fate::committed;
use super::super::*;
use super::World;
use crate::archive::{CheckpointRecord, Evaluated, FinalRecord, LogEntry, Logged, Record, RewindRecord};

impl World {
    /// The disk does the next thing that it was told to; the ledger itself says whether that is in turn.
    pub(super) fn write(&mut self, write: Action) -> Vec<Input> {
        let no_files = std::collections::BTreeMap::new();
        let (record, answers) = match write {
            Action::Summarise(summary, ranking) => {
                assert_eq!(self.staged, None, "the end waits for the save");
                self.best = ranking.first().copied().filter(|best| *best != summary.update);
                let based = |update| Input::Based(Base { update, artifacts: Vec::new() });
                return self.best.map(based).into_iter().collect();
            }
            Action::Group(group) => (Record::Group(group.clone()), vec![Input::Grouped(group.generation)]),
            Action::Record(record) => {
                self.overlapped += u64::from(self.staged.is_some());
                assert_eq!(record.workers.len(), record.lanes.len(), "a lane of nobody");
                self.history.records.push(record.clone());
                (Record::Update(record.clone()), vec![Input::Recorded(record.update)])
            }
            Action::Log(log) => {
                self.history.logs.push(log);
                let entry = LogEntry::of_training(&log);
                (Record::Log(Logged { update: log.update, occasion: Occasion::Training, entry }), Vec::new())
            }
            Action::Rewind(to, reason) => {
                self.history.records.retain(|record| record.update <= to);
                self.history.logs.retain(|log| log.update <= to);
                self.history.evaluations.retain(|(_, update, _)| *update <= to);
                (Record::Rewind(RewindRecord { to, reason }), Vec::new())
            }
            Action::Publish(mut report, occasion) => {
                report.seconds = 0.0;
                let (update, split, entry) = (report.update, report.split, LogEntry::of_evaluation(&report, 8, &[]));
                self.history.evaluations.push((report.split, report.update, report));
                (Record::Evaluation(Evaluated { update, split, occasion, entry }), vec![Input::Published(update)])
            }
            Action::Commit(state) => {
                let SavedState { save, parameters, .. } = state;
                let update = save.update;
                let (staged, count, arrived) = self.staged.take().expect("a save that was begun");
                assert_eq!((staged, count as usize), (save, arrived.len()), "all pieces have arrived");
                self.history.commits.push((update, state.purpose));
                let record = if state.purpose.is_checkpoint() {
                    self.base = update;
                    let (name, manifest) = (format!("checkpoint-{update}"), parameters);
                    Record::Checkpoint(CheckpointRecord { update, name, manifest, parameters })
                } else {
                    Record::Final(FinalRecord { update, parameters, best: None, files: no_files })
                };
                (record, committed(state))
            }
            other => panic!("the disk was told {other:?}"),
        };
        if let Err(problem) = self.ledger.take(record) {
            panic!("the ledger refuses a record that {problem}");
        }
        answers
    }
}
