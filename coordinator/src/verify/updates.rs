//! The updates of a ledger against the plan and the schedule, and the rows of each epoch counted.

use std::collections::{BTreeMap, BTreeSet};

use medley_common::identity::{Digest, RowId, Split, Update, WorkerId};
use medley_common::plan::Plan;
use medley_common::spec::Precision;

use super::Verdict;
use crate::archive::{History, LEDGER_FILE, Record, RunIdentity};
use crate::run::Occasion;
use crate::run::report::UpdateRecord;
use crate::spec::Measured;

/// What the updates in effect came to so far.
pub(super) struct Updates {
    identity: RunIdentity,
    plan: Plan,
    /// The workers of the group that computes.
    group: BTreeSet<WorkerId>,
    /// The line and the rows of each update in effect, from the one after the ledger's start.
    rows: Vec<(u64, Vec<RowId>)>,
    highest_attempt: u32,
    /// The digests of the parameters that updates have.
    digests: BTreeMap<Update, Digest>,
    /// What evaluations in effect have measured, where something goes by it.
    measured: Vec<Measured>,
    /// The highest learning rate that they have left.
    peak: f64,
}

impl Updates {
    pub(super) fn new(identity: RunIdentity) -> Self {
        let plan = Plan::new(&identity.train, identity.lengths.clone());
        let measured = identity.measured.clone();
        let mut updates = Self {
            identity,
            plan,
            group: BTreeSet::new(),
            rows: Vec::new(),
            highest_attempt: 0,
            digests: BTreeMap::new(),
            measured,
            peak: 0.0,
        };
        updates.judge_peak();
        updates
    }

    /// Checks a record by itself.
    pub(super) fn take(&mut self, line: u64, record: &Record, verdict: &mut Verdict) {
        match record {
            Record::Group(group) => self.group = group.members.iter().map(|member| member.worker).collect(),
            Record::Update(update) => {
                self.check(line, update, verdict);
                self.highest_attempt = self.highest_attempt.max(update.attempt);
                self.rows.push((line, update.lanes.concat()));
                self.digests.extend(update.parameters.map(|digest| (update.update, digest)));
            }
            Record::Rewind(rewind) => {
                self.rows.truncate(self.index(rewind.to));
                self.digests.split_off(&rewind.to.next());
                self.measured.retain(|measured| measured.update <= rewind.to);
                self.judge_peak();
            }
            Record::Checkpoint(saved) => self.compare(line, saved.update, saved.parameters, verdict),
            Record::Final(outputs) => {
                self.compare(line, outputs.best.unwrap_or(outputs.update), outputs.parameters, verdict);
            }
            Record::Evaluation(evaluated) => {
                let during = evaluated.split == Split::Validation && evaluated.occasion == Occasion::Training;
                let criterion = self.identity.criterion.as_ref().filter(|_| during);
                let value = criterion.and_then(|criterion| evaluated.entry.measured(&criterion.metric));
                // One that was made again counts once.
                self.measured.retain(|measured| value.is_none() || measured.update < evaluated.update);
                self.measured.extend(value.map(|value| Measured { update: evaluated.update, value }));
                self.judge_peak();
            }
            Record::Run(_) | Record::Log(_) => {}
        }
    }

    /// What is saved must be what the update has left.
    fn compare(&self, line: u64, update: Update, saved: Digest, verdict: &mut Verdict) {
        if let Some(made) = self.digests.get(&update).filter(|made| **made != saved) {
            let what = format!("parameters {saved} were saved after update {update}, which has left {made}");
            verdict.wrong(LEDGER_FILE, Some(line), what);
        }
    }

    /// How many updates of the ledger lie before the one after `done`.
    fn index(&self, done: Update) -> usize {
        usize::try_from(done.0.saturating_sub(self.identity.start.0)).unwrap_or(usize::MAX)
    }

    fn check(&mut self, line: u64, record: &UpdateRecord, verdict: &mut Verdict) {
        let mut wrong = |what: String| verdict.wrong(LEDGER_FILE, Some(line), what);
        let update = record.update;
        let total = self.identity.train.schedule.total_updates;
        if update.0 == 0 || update.0 > total {
            // No plan says anything of it.
            return wrong(format!("update {update} is none of the run's {total}"));
        }
        let planned = self.plan.update(update);
        if record.lanes != planned.lanes {
            let lane = (0..).zip(&planned.lanes).find(|(lane, rows)| record.lanes.get(*lane) != Some(*rows));
            let lane = lane.map_or(planned.lanes.len(), |(lane, _)| lane);
            wrong(format!("update {update}: lane {lane} does not have the rows of the plan"));
        }
        let rate = self.identity.train.schedule.at(update, self.peak);
        if record.learning_rate.to_bits() != rate.to_bits() {
            let found = record.learning_rate;
            wrong(format!("update {update} has learning rate {found:e}; the schedule says {rate:e}"));
        }
        let epoch = self.plan.epoch_at(update);
        if record.epoch.to_bits() != epoch.to_bits() {
            wrong(format!("update {update} has epoch {}; the plan says {epoch}", record.epoch));
        }
        let precision = self.identity.train.compute.precision;
        if record.skipped && (precision != Precision::Float16 || record.grad_norm != 0.0) {
            let norm = record.grad_norm;
            wrong(format!(
                "update {update} is skipped with gradient norm {norm}, in a run that computes in {precision}"
            ));
        }
        let stranger = record.workers.iter().find(|worker| !self.group.contains(worker));
        if let Some(worker) = stranger {
            wrong(format!("update {update}: worker {worker} is not of the group that the ledger has connected"));
        }
        if record.workers.len() != record.lanes.len() || record.attempt == 0 {
            wrong(format!("update {update} does not say who computed which lane, or in which attempt"));
        }
    }

    /// What evaluations so far have left of the learning rate: the next update is one after all of them.
    fn judge_peak(&mut self) {
        let (schedule, criterion) = (&self.identity.train.schedule, self.identity.criterion.as_ref());
        let next = Update(u64::MAX);
        self.peak = criterion.map_or(schedule.peak, |criterion| criterion.peak(schedule, &self.measured, next));
    }

    /// Counts the rows of every epoch, once all records are taken.
    pub(super) fn conclude(&self, history: &History, verdict: &mut Verdict) {
        let (last, start) = (history.last(), self.identity.start);
        let total = self.identity.train.schedule.total_updates;
        let (rewinds, again) = history.rewound();
        let mut found = match last == start {
            true => format!("none of {total}"),
            false => format!("{} to {last} of {total}, each applied once", start.next()),
        };
        if rewinds > 0 {
            found.push_str(&format!("; {again} made again after {rewinds} rewinds"));
        }
        if self.highest_attempt > 1 {
            found.push_str(&format!("; the hardest took {} attempts, as workers were lost", self.highest_attempt));
        }
        if !self.digests.is_empty() {
            found.push_str(&format!("; the digest of the parameters after {} of them", self.digests.len()));
        }
        verdict.check("updates", found);
        if start.0 > 0 {
            verdict.wrong(LEDGER_FILE, Some(1), format!("begins after update {start}: what came before is not proved"));
        }
        let before = verdict.problems.len();
        let rows = self.identity.lengths.len();
        let counted = self.count_rows(verdict);
        let whole = last.0 / self.plan.updates_per_epoch();
        if verdict.problems.len() == before {
            let part = if last.0.is_multiple_of(self.plan.updates_per_epoch()) { "" } else { " and a part of one" };
            let found = match start.0 {
                0 => format!("{rows} x {whole} epochs{part}: {counted} rows, each exactly once an epoch"),
                _ => format!("{counted} of the {} updates that there are, none twice an epoch", last.0 - start.0),
            };
            verdict.check("rows", found);
        } else {
            verdict.check("rows", "not each exactly once an epoch".to_owned());
        }
        self.judge(history, verdict);
        let decay = &self.identity.train.schedule.decay;
        let warmup = if decay.has_warmup() { format!(" with {} of warm-up", self.warmup()) } else { String::new() };
        let rates = format!("{decay:?}{warmup}");
        verdict.check("learning rates", rates);
    }

    /// Whether a complete run ended where it should, with the model that it should.
    fn judge(&self, history: &History, verdict: &mut Verdict) {
        // Of a ledger that was begun anew, the evaluations before it are not known.
        let Some(outputs) = history.outputs().filter(|_| self.identity.start == Update(0)) else { return };
        let (last, total) = (history.last(), self.identity.train.schedule.total_updates);
        let criterion = self.identity.criterion.as_ref();
        let measured = || criterion.into_iter().flat_map(|criterion| history.measured(&criterion.metric));
        let early = criterion.and_then(|criterion| criterion.ends_after(measured()));
        let mut wrong = |what: String| verdict.wrong(LEDGER_FILE, None, what);
        match early {
            Some(early) if early < last => {
                wrong(format!("goes on to update {last}, though by its evaluations training ends after {early}"));
            }
            None if last.0 < total => wrong(format!("is of a complete run, but ends after update {last} of {total}")),
            Some(early) if last < early => wrong(format!("ends after update {last}, before the {early} it should")),
            _ => {}
        }
        let Some(criterion) = criterion else { return };
        let kept = |measured: &Measured| history.checkpoints().iter().any(|it| it.update == measured.update);
        let best = criterion.best(history.candidates(measured()).filter(kept));
        let chosen = best.filter(|_| criterion.load_best).map(|best| best.update);
        if chosen.unwrap_or(last) != outputs.best.unwrap_or(last) {
            let (best, is) = (chosen.unwrap_or(last), outputs.best.unwrap_or(last));
            wrong(format!("has the model of update {is}; the best that was evaluated and saved is that of {best}"));
        }
        let saved = history.checkpoints().iter().rev().find(|it| Some(it.update) == outputs.best);
        if outputs.best.is_some() && saved.map(|it| it.parameters) != Some(outputs.parameters) {
            wrong("has a best model whose parameters are not those of its checkpoint".to_owned());
        }
        let metric = &criterion.metric;
        let model = match best {
            Some(best) => format!("best eval_{metric} {} after update {}", best.value, best.update),
            None => format!("no checkpoint with an eval_{metric}"),
        };
        let taken = if criterion.load_best { "the result" } else { "the last model is the result" };
        let ended = early.map_or(String::new(), |early| format!("; training ended early, after {early} of {total}"));
        verdict.check("selection", format!("{model}: {taken}{ended}"));
    }

    fn warmup(&self) -> u64 {
        self.identity.train.schedule.warmup_updates
    }

    /// Counts, without the plan: whatever it says, each row must be there once an epoch.
    fn count_rows(&self, verdict: &mut Verdict) -> u64 {
        let per_epoch = self.plan.updates_per_epoch();
        let mut seen = vec![0u32; self.identity.lengths.len()];
        let mut counted = 0;
        for (update, (line, rows)) in (self.identity.start.0 + 1..).zip(&self.rows) {
            for row in rows {
                counted += 1;
                match seen.get_mut(row.0 as usize) {
                    Some(count) => {
                        *count += 1;
                        if *count > 1 {
                            let what = format!("update {update} takes row {row}, which its epoch has had already");
                            verdict.wrong(LEDGER_FILE, Some(*line), what);
                        }
                    }
                    None => verdict.wrong(LEDGER_FILE, Some(*line), format!("update {update}: there is no row {row}")),
                }
            }
            if update.is_multiple_of(per_epoch) {
                let epoch_is_whole = update > self.identity.start.0 + per_epoch - 1;
                let missing = seen.iter().position(|count| *count == 0);
                if let Some(row) = missing.filter(|_| epoch_is_whole) {
                    let what = format!("the epoch that ends with update {update} has not had row {row}");
                    verdict.wrong(LEDGER_FILE, Some(*line), what);
                }
                seen.fill(0);
            }
        }
        counted
    }
}
