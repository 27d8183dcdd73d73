//! Updates are made, by grants; every report is checked against the coordinator's own plan.

use std::collections::BTreeMap;
use std::time::Instant;

use medley_common::identity::{RowId, Update, WorkerId};
use medley_common::lane::{LaneTree, Node};
use medley_common::message::{Command, Failure, FailureKind, UpdateReport};

use super::report::{TrainLog, TrainSummary, UpdateRecord};
use super::{Action, Job, Phase, Run};

/// Workers make updates.
#[derive(Debug)]
pub(super) struct Training {
    /// The update at which all come to rest, whatever happens.
    boundary: Update,
    /// The last update that workers may make.
    through: Update,
    /// Reports of updates that not all ranks have reported, by rank order.
    reports: BTreeMap<Update, BTreeMap<WorkerId, UpdateReport>>,
}

/// How far training has come.
#[derive(Debug)]
pub(super) struct Progress {
    /// Updates done.
    pub(super) done: Update,
    /// Updates done in the newest checkpoint, and in the state that the run started from.
    pub(super) checkpoint: Update,
    /// Updates done in the newest state that is on the disk, as a checkpoint or as the final model.
    pub(super) saved: Update,
    pub(super) last: Option<UpdateRecord>,
    first: Update,
    /// Updates whose loss is known, those before a resume included, and the sum of their losses.
    losses: (u64, f64),
    began: Option<Instant>,
    ended: Option<Instant>,
    rows: u64,
    unlogged: (u64, f64),
}

impl Progress {
    /// The position that `job` goes on from: sums go on as if the run had never stopped.
    pub(super) fn new(job: &Job) -> Self {
        let start = job.start;
        let (mut losses, mut unlogged) = ((0, 0.0), (0, 0.0));
        for (update, loss) in (1..).map(Update).zip(&job.past_losses) {
            losses = (losses.0 + 1, losses.1 + loss);
            unlogged = (unlogged.0 + 1, unlogged.1 + loss);
            if job.training.as_ref().is_some_and(|training| training.cadence.logs_after(update)) {
                unlogged = (0, 0.0);
            }
        }
        Self {
            done: start,
            checkpoint: start,
            saved: start,
            last: None,
            first: start,
            began: None,
            ended: None,
            losses,
            rows: 0,
            unlogged,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    pub(super) fn summary(&self, epoch: f64) -> TrainSummary {
        let updates = self.done.0 - self.first.0;
        let seconds = self.began.zip(self.ended).map_or(0.0, |(began, ended)| (ended - began).as_secs_f64());
        let mean_loss = self.losses.1 / self.losses.0.max(1) as f64;
        TrainSummary { update: self.done, epoch, mean_loss, rows: self.rows, updates, seconds }
    }
}

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
        let through = Update(done.0 + self.job.patience.window.max(1)).min(training.boundary);
        if !self.stopping && through > training.through {
            training.through = through;
            let generation = self.generation;
            let order = |worker| Action::Order(worker, Command::Train { generation, through });
            actions.extend(self.roster.ranked().into_iter().map(order));
        } else if done == training.through {
            self.agenda = self.agenda_after(done);
            self.go_on(now, actions);
        }
    }

    /// Whether workers may still be making updates when a stop is requested.
    pub(super) fn is_moving(&self) -> bool {
        matches!(&self.phase, Phase::Training(training) if training.through > self.progress.done)
    }

    pub(super) fn updated(&mut self, now: Instant, worker: WorkerId, report: UpdateReport, actions: &mut Vec<Action>) {
        let (done, group) = (self.progress.done, self.roster.ranked());
        let Phase::Training(training) = &mut self.phase else { return };
        let Some(member) = self.roster.get_mut(worker).filter(|member| member.rank.is_some()) else { return };
        if report.update != member.update.next() || report.update > training.through {
            let (found, last, through) = (report.update, member.update, training.through);
            let problem = format!("reported update {found} after {last}, with leave to go on through {through}");
            return self.fail_worker(worker, &problem, actions);
        }
        member.update = report.update;
        training.reports.entry(report.update).or_default().insert(worker, report);
        let complete = training.reports.get(&done.next()).is_some_and(|reports| reports.len() == group.len());
        if complete {
            let reports = training.reports.remove(&done.next()).unwrap_or_default();
            self.complete(now, &group, &reports, actions);
        }
    }

    /// All ranks have reported the next update.
    fn complete(
        &mut self,
        now: Instant,
        group: &[WorkerId],
        reports: &BTreeMap<WorkerId, UpdateReport>,
        actions: &mut Vec<Action>,
    ) {
        let update = self.progress.done.next();
        let record = match self.check(update, group, reports) {
            Ok(record) => record,
            Err((worker, problem)) => return self.fail_worker(worker, &problem, actions),
        };
        if !record.loss.is_finite() || !record.grad_norm.is_finite() {
            let UpdateRecord { loss, learning_rate, grad_norm, .. } = record;
            let message = format!(
                "update {update} has loss {loss} and gradient norm {grad_norm} at learning rate {learning_rate:e}: \
                 the run diverged; lower --learning_rate or lengthen the warm-up{}",
                self.way_back()
            );
            return self.fail(Failure { kind: FailureKind::Internal, message }, actions);
        }
        self.progress.done = update;
        self.progress.ended = Some(now);
        self.progress.losses.0 += 1;
        self.progress.losses.1 += record.loss;
        self.progress.rows += record.lanes.iter().map(|lane| lane.len() as u64).sum::<u64>();
        self.progress.unlogged.0 += 1;
        self.progress.unlogged.1 += record.loss;
        self.progress.last = Some(record.clone());
        let logs = self.job.training.as_ref().is_some_and(|training| training.cadence.logs_after(update));
        let log = logs.then(|| self.take_log(&record));
        actions.push(Action::Record(record));
        actions.extend(log.map(Action::Log));
        self.grant(now, actions);
    }

    fn take_log(&mut self, record: &UpdateRecord) -> TrainLog {
        let (updates, losses) = std::mem::take(&mut self.progress.unlogged);
        TrainLog {
            update: record.update,
            epoch: record.epoch,
            loss: losses / updates.max(1) as f64,
            grad_norm: record.grad_norm,
            learning_rate: record.learning_rate,
        }
    }

    /// Compares what every rank says it did with what the plan says it should have done (INV-3).
    fn check(
        &mut self,
        update: Update,
        group: &[WorkerId],
        reports: &BTreeMap<WorkerId, UpdateReport>,
    ) -> Result<UpdateRecord, (WorkerId, String)> {
        let planned = self.plan.update(update);
        let learning_rate = self.job.spec.schedule.at(update);
        let mut lanes = vec![Vec::new(); planned.lanes.len()];
        let mut losses = vec![None; planned.lanes.len()];
        let mut workers = Vec::new();
        let mut tokens = 0;
        let mut grad_norm: Option<f64> = None;
        for (worker, assigned) in group.iter().zip(self.tree.assign(self.job.workers)) {
            let Some(report) = reports.get(worker) else { continue };
            if report.learning_rate.to_bits() != learning_rate.to_bits() {
                let found = report.learning_rate;
                let problem =
                    format!("made update {update} with learning rate {found:e}; the plan says {learning_rate:e}");
                return Err((*worker, problem));
            }
            let norm = *grad_norm.get_or_insert(report.grad_norm);
            if norm.to_bits() != report.grad_norm.to_bits() {
                let found = report.grad_norm;
                let problem = format!("has gradient norm {found} after update {update}; rank 0 has {norm}");
                return Err((*worker, problem));
            }
            tokens += report.tokens;
            workers.extend(assigned.clone().map(|_| *worker));
            for lane in &report.lanes {
                match lanes.get_mut(lane.lane as usize).filter(|_| assigned.contains(&lane.lane)) {
                    Some(rows) => rows.clone_from(&lane.rows),
                    None => return Err((*worker, format!("computed lane {} of update {update}", lane.lane))),
                }
                losses[lane.lane as usize] = (!lane.rows.is_empty()).then_some(lane.loss_sum);
            }
            let different = |lane: &u32| lanes[*lane as usize] != planned.lanes[*lane as usize];
            if let Some(lane) = assigned.clone().find(different) {
                let (found, plan) = (rows_text(&lanes[lane as usize]), rows_text(&planned.lanes[lane as usize]));
                return Err((
                    *worker,
                    format!("took rows {found} for lane {lane} of update {update}; the plan says {plan}"),
                ));
            }
        }
        let loss = sum(self.tree, self.tree.root(), &losses).unwrap_or(0.0) / f64::from(planned.rows().max(1));
        let epoch = self.plan.epoch_at(update);
        Ok(UpdateRecord {
            update,
            attempt: 1,
            epoch,
            learning_rate,
            loss,
            grad_norm: grad_norm.unwrap_or(0.0),
            lanes,
            workers,
            tokens,
            parameters: None,
        })
    }
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
