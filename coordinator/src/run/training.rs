//! Updates are made, by grants; every report is checked against the coordinator's own plan.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use medley_common::identity::{RowId, Update, WorkerId};
use medley_common::lane::{LaneTree, Node};
use medley_common::message::{Command, Failure, FailureKind, LaneReport, UpdateReport};
use medley_common::plan::UpdatePlan;

use super::agreement::compare;
use super::pace::Change;
use super::report::{TrainLog, UpdateRecord};
use super::{Action, Phase, Run};

/// Workers make updates.
#[derive(Debug)]
pub(super) struct Training {
    /// The update at which all come to rest, whatever happens.
    pub(super) boundary: Update,
    /// The last update that workers may make.
    through: Update,
    /// Reports of updates that not all ranks have reported.
    pub(super) reports: BTreeMap<Update, Reports>,
}

/// What each worker says of one update.
pub(super) type Reports = BTreeMap<WorkerId, UpdateReport>;

impl Run {
    /// Starts a stretch of updates up to the next boundary.
    pub(super) fn train(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let boundary = self.boundary();
        let done = self.progress.done;
        self.phase = Phase::Training(Training { boundary, through: done, reports: BTreeMap::new() });
        self.grant(now, actions);
    }

    /// The next update that something follows.
    fn boundary(&self) -> Update {
        let total = self.job.total();
        let Some(training) = &self.job.training else { return total };
        let mut update = self.progress.done.next();
        while update < total && !training.cadence.evaluates_after(update) && !training.cadence.saves_after(update) {
            update = update.next();
        }
        update
    }

    /// Lets workers go on as far as they may; at rest, goes on to what follows.
    fn grant(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Phase::Training(training) = &mut self.phase else { return };
        let done = self.progress.done;
        // A disk that does not follow holds training up: what is not in the ledger could be lost.
        let through = Update(self.progress.recorded.0 + self.job.patience.window.max(1)).min(training.boundary);
        // Workers come to rest for a stop, for a group that changes, and for a checkpoint that was asked for.
        let rests = self.stopping || self.changed || self.save_asked;
        let may_go_on = !rests && self.unpublished == 0;
        if may_go_on && through > training.through {
            training.through = through;
            // Whatever evaluations decide, they do at a boundary.
            let (generation, peak) = (self.generation, self.peak(through));
            let order = |worker| Action::Order(worker, Command::Train { generation, through, peak });
            actions.extend(self.roster.ranked().into_iter().map(order));
        } else if done == training.through && (rests || done == training.boundary) {
            self.agenda = self.agenda_after(done);
            self.go_on(now, actions);
        }
    }

    pub(super) fn recorded(&mut self, now: Instant, update: Update, actions: &mut Vec<Action>) {
        // After a rewind, the records before it may still be answered.
        if update == self.progress.recorded.next() && update <= self.progress.done {
            self.progress.recorded = update;
            self.grant(now, actions);
        }
    }

    /// The ledger has an evaluation.
    pub(super) fn published(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.unpublished = self.unpublished.saturating_sub(1);
        self.grant(now, actions);
    }

    /// Whether workers may still be making updates.
    pub(super) fn is_moving(&self) -> bool {
        matches!(&self.phase, Phase::Training(training) if training.through > self.progress.done)
    }

    pub(super) fn updated(&mut self, now: Instant, worker: WorkerId, report: UpdateReport, actions: &mut Vec<Action>) {
        let (done, group) = (self.progress.done, self.shares.len());
        let Phase::Training(training) = &mut self.phase else { return };
        let Some(member) = self.roster.get_mut(worker).filter(|member| member.rank.is_some()) else { return };
        if report.update != member.update.next() || report.update > training.through {
            let (found, last, through) = (report.update, member.update, training.through);
            let problem = format!("reported update {found} after {last}, with leave to go on through {through}");
            return self.fail_worker(worker, &problem, actions);
        }
        member.update = report.update;
        self.paces.arrived(now, worker, report.update);
        training.reports.entry(report.update).or_default().insert(worker, report);
        let complete = training.reports.get(&done.next()).is_some_and(|reports| reports.len() == group);
        if complete {
            let reports = training.reports.remove(&done.next()).unwrap_or_default();
            if self.apply(now, &reports, actions) {
                self.grant(now, actions);
            }
        }
    }

    /// Takes note of the next update, as the group or what is left of it reports it; `false` where that ends the run.
    pub(super) fn apply(&mut self, now: Instant, reports: &Reports, actions: &mut Vec<Action>) -> bool {
        let update = self.progress.done.next();
        let record = match self.check(update, reports) {
            Ok(record) => record,
            Err((worker, problem)) => {
                self.fail_worker(worker, &problem, actions);
                return false;
            }
        };
        let digests = reports.iter().filter_map(|(worker, report)| Some((*worker, report.parameters?)));
        if self.parameters_differ(update, &digests.collect(), actions) {
            return false;
        }
        if !record.loss.is_finite() || !record.grad_norm.is_finite() {
            let UpdateRecord { loss, learning_rate, grad_norm, .. } = record;
            let message = format!(
                "update {update} has loss {loss} and gradient norm {grad_norm} at learning rate {learning_rate:e}: \
                 the run diverged; lower --learning_rate or lengthen the warm-up"
            );
            self.broken(Failure { kind: FailureKind::Diverged, message }, actions);
            return false;
        }
        // In an update that was taken up again, some have computed less than their lanes.
        if record.attempt == 1 && reports.keys().eq(self.shares.keys()) {
            self.watch_paces(update, reports, actions);
        }
        self.progress.note(now, &record);
        self.rebalance(actions);
        self.futile = 0;
        let cadence = self.job.training.as_ref().map(|training| training.cadence);
        let log = cadence.filter(|cadence| cadence.logs_after(update)).map(|_| {
            let UpdateRecord { update, epoch, grad_norm, learning_rate, .. } = record;
            TrainLog {
                update,
                epoch,
                loss: self.progress.take_mean(),
                grad_norm,
                learning_rate,
                skipped: self.progress.skipped(),
            }
        });
        actions.push(Action::Record(record));
        actions.extend(log.map(Action::Log));
        true
    }

    /// Says who is slow from now on, and who is no more.
    fn watch_paces(&mut self, update: Update, reports: &Reports, actions: &mut Vec<Action>) {
        for change in self.paces.note(update, reports) {
            let line = match change {
                Change::Slow(worker, slowness, times) => {
                    let name = self.roster.describe(worker);
                    format!("{name} is slow: {slowness} makes it take {times:.1} times as long as the others")
                }
                Change::Well(worker) => format!("{} is as fast as the others again", self.roster.describe(worker)),
            };
            actions.push(Action::Notice(line));
        }
    }

    /// Compares what every rank says it did with what the plan says it should have done (INV-3).
    ///
    /// A rank that was lost may have said nothing: what it did is known from the plan and from the others, who have its
    /// gradients and losses.
    fn check(&mut self, update: Update, reports: &Reports) -> Result<UpdateRecord, (WorkerId, String)> {
        let planned = self.plan.update(update);
        let learning_rate = self.learning_rate(update);
        let cadence = self.job.training.as_ref().map(|training| training.cadence);
        let is_digested = cadence.is_some_and(|cadence| cadence.digests_after(update));
        let mut agreed: Option<(WorkerId, &UpdateReport)> = None;
        for (worker, report) in reports {
            // Who has come back was in the group under another name.
            let share = self.shares.get(worker).map(Vec::as_slice);
            let (first, known) = *agreed.get_or_insert((*worker, report));
            let problem =
                compare(report, (first, known), learning_rate).or_else(|| rows_differ(report, share, &planned));
            if let Some(problem) = problem {
                return Err((*worker, problem));
            }
            if is_digested != report.parameters.is_some() {
                let not = if is_digested { "without" } else { "with" };
                return Err((*worker, format!("reported update {update} {not} a digest of its parameters")));
            }
        }
        let (grad_norm, losses) = agreed.map_or((0.0, &[][..]), |(_, report)| (report.grad_norm, &report.losses));
        let skipped = agreed.is_some_and(|(_, report)| report.skipped);
        let losses: Vec<Option<f64>> = (planned.lanes.iter().enumerate())
            .map(|(lane, rows)| losses.get(lane).filter(|_| !rows.is_empty()).map(|loss| f64::from(*loss)))
            .collect();
        let loss = sum(self.tree, self.tree.root(), &losses).unwrap_or(0.0) / self.divisor(&planned);
        let lengths = self.job.training.as_ref().map_or(&[][..], |training| &training.lengths);
        let tokens = planned.lanes.iter().flatten().filter_map(|row| lengths.get(row.0 as usize));
        let owner = |lane| self.shares.iter().find(|(_, runs)| runs.iter().any(|run| run.contains(&lane)));
        let workers = (0..self.tree.lanes()).filter_map(|lane| owner(lane).map(|(worker, _)| *worker)).collect();
        Ok(UpdateRecord {
            update,
            epoch: self.plan.epoch_at(update),
            learning_rate,
            loss,
            grad_norm,
            skipped,
            tokens: tokens.map(|length| u64::from(*length)).sum(),
            lanes: planned.lanes,
            workers,
            attempt: self.progress.attempt,
            parameters: agreed.and_then(|(_, report)| report.parameters),
        })
    }
}

impl Run {
    /// What the losses of an update are divided by.
    fn divisor(&self, planned: &UpdatePlan) -> f64 {
        let labels = self.job.training.as_ref().map_or(&[][..], |training| &training.labels);
        planned.divisor(&self.job.spec.class_weights, |row| labels.get(row.0 as usize).copied().flatten())
    }
}

/// In what the lanes that a worker computed differ from the plan's, and from its share where that is known.
fn rows_differ(report: &UpdateReport, share: Option<&[Range<u32>]>, planned: &UpdatePlan) -> Option<String> {
    let update = report.update;
    let found: Vec<u32> = report.lanes.iter().map(|lane| lane.lane).collect();
    let lanes = share.map_or_else(|| found.clone(), |share| share.iter().cloned().flatten().collect());
    if found != lanes {
        return Some(format!("computed lanes {found:?} of update {update}; its own are {lanes:?}"));
    }
    let rows = |lane: &LaneReport| planned.lanes.get(lane.lane as usize).map_or(&[][..], Vec::as_slice);
    let lane = report.lanes.iter().find(|lane| lane.rows != rows(lane))?;
    let (found, plan, lane) = (rows_text(&lane.rows), rows_text(rows(lane)), lane.lane);
    Some(format!("took rows {found} for lane {lane} of update {update}; the plan says {plan}"))
}

/// Adds the lanes' losses in the order of the gradients, so that they too are the same at any number of workers.
fn sum(tree: LaneTree, node: Node, losses: &[Option<f64>]) -> Option<f64> {
    let Some((left, right)) = tree.children(node) else {
        return losses.get(node.index as usize).copied().flatten();
    };
    let right = right.and_then(|right| sum(tree, right, losses));
    match (sum(tree, left, losses), right) {
        (Some(left), Some(right)) => Some(left + right),
        (left, right) => left.or(right),
    }
}

fn rows_text(rows: &[RowId]) -> String {
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    format!("[{}]", rows.join(", "))
}
