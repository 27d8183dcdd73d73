//! What a ledger's records come to: the updates, log and checkpoints that are in effect.

use std::collections::{BTreeMap, BTreeSet};

use medley_common::identity::{Digest, Generation, Split, Update, WorkerId};
use serde::{Deserialize, Serialize};

use super::event::{Change, Event, What};
use super::record::{CheckpointRecord, FinalRecord, Record, RunIdentity};
use crate::archive::trainer_state::{Cadence, LogEntry, TrainerState};
use crate::run::report::{GroupRecord, MemberRecord, TrainLog, UpdateRecord};
use crate::run::{Occasion, Past};
use crate::spec::Measured;

/// An update that is in effect, without its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PastUpdate {
    /// The update.
    pub update: Update,
    /// Epochs done after it.
    pub epoch: f64,
    /// The learning rate it was made with.
    pub learning_rate: f64,
    /// Mean loss over its rows.
    pub loss: f64,
    /// L2 norm of its gradient before clipping.
    pub grad_norm: f64,
    /// Whether it moved no weight.
    pub skipped: bool,
    /// Tokens computed.
    pub tokens: u64,
    /// Digest of the parameters after it, where it was taken.
    pub parameters: Option<Digest>,
}

/// Who computed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Host {
    /// The host's name.
    pub host: String,
    /// What it computed on.
    pub device: String,
    /// Its processor, and the instructions that a worker used.
    pub processor: String,
    /// Threads of a worker.
    pub threads: u32,
    /// SHA-256 of the worker's program.
    pub program: Digest,
}

/// An entry of `log_history` that is in effect.
#[derive(Debug, Clone, PartialEq)]
struct PastEntry {
    update: Update,
    occasion: Occasion,
    /// Whether it is the result of an evaluation, and not a line of the training log.
    is_evaluation: bool,
    entry: LogEntry,
}

/// All that is in effect after a number of records.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    identity: RunIdentity,
    updates: Vec<PastUpdate>,
    entries: Vec<PastEntry>,
    checkpoints: Vec<CheckpointRecord>,
    /// In effect or not.
    events: Vec<Event>,
    group: Option<GroupRecord>,
    /// After how many updates each group started.
    groups: BTreeMap<Generation, Update>,
    hosts: BTreeSet<Host>,
    outputs: Option<FinalRecord>,
    rewinds: u64,
    superseded: u64,
}

impl History {
    /// The history of a ledger that has its first record only.
    #[must_use]
    pub fn new(identity: RunIdentity) -> Self {
        Self {
            identity,
            updates: Vec::new(),
            entries: Vec::new(),
            checkpoints: Vec::new(),
            events: Vec::new(),
            group: None,
            groups: BTreeMap::new(),
            hosts: BTreeSet::new(),
            outputs: None,
            rewinds: 0,
            superseded: 0,
        }
    }

    /// Takes the next record in.
    ///
    /// # Errors
    /// It is out of turn; then it changes nothing.
    pub fn take(&mut self, record: Record) -> Result<(), String> {
        self.turn(&record)?;
        self.events.extend(self.event(&record));
        match record {
            Record::Run(_) => {}
            Record::Group(group) => {
                let host = |member: &MemberRecord| {
                    let MemberRecord { host, device, processor, threads, program, .. } = member.clone();
                    Host { host, device, processor, threads, program }
                };
                self.hosts.extend(group.members.iter().map(host));
                self.groups.insert(group.generation, self.last());
                self.group = Some(group);
            }
            Record::Update(update) => self.updates.push(PastUpdate::of(&update)),
            Record::Log(logged) => {
                let (update, occasion, entry) = (logged.update, logged.occasion, logged.entry);
                self.entries.push(PastEntry { update, occasion, is_evaluation: false, entry });
            }
            Record::Evaluation(evaluated) if evaluated.split == Split::Validation => {
                let (update, occasion, entry) = (evaluated.update, evaluated.occasion, evaluated.entry);
                self.entries.push(PastEntry { update, occasion, is_evaluation: true, entry });
            }
            Record::Evaluation(_) => {}
            Record::Checkpoint(checkpoint) => self.checkpoints.push(checkpoint),
            Record::Rewind(rewind) => self.rewind(rewind.to),
            Record::Final(outputs) => self.outputs = Some(outputs),
        }
        Ok(())
    }

    /// What `record` tells of that happened, if it is next.
    fn event(&self, record: &Record) -> Option<Event> {
        let what = match record {
            Record::Group(group) => What::Group(Change::between(self.group.as_ref(), group)),
            Record::Update(update) if update.attempt > 1 => What::Retry(update.attempt),
            Record::Checkpoint(_) => What::Checkpoint,
            Record::Rewind(rewind) => What::Rewind { to: rewind.to, reason: rewind.reason.clone() },
            Record::Run(_) | Record::Update(_) | Record::Log(_) | Record::Evaluation(_) | Record::Final(_) => {
                return None;
            }
        };
        Some(Event { update: self.last(), what })
    }

    /// Whether `record` may come next.
    ///
    /// # Errors
    /// It may not, and why.
    pub fn turn(&self, record: &Record) -> Result<(), String> {
        let last = self.last();
        let at_rest = |update: Update, what: &str| {
            if update == last {
                return Ok(());
            }
            Err(format!("{what} of update {update} comes after update {last}"))
        };
        match record {
            Record::Run(_) => Err("is a second record of the run".to_owned()),
            Record::Update(record) if record.update != last.next() => {
                Err(format!("is of update {}; after update {last} comes {}", record.update, last.next()))
            }
            Record::Rewind(rewind) if rewind.to > last || rewind.to < self.identity.start => {
                let (to, start) = (rewind.to, self.identity.start);
                Err(format!("goes back to update {to}, but the ledger has those after {start} through {last}"))
            }
            Record::Log(logged) => at_rest(logged.update, "an entry of the log"),
            Record::Evaluation(evaluated) => at_rest(evaluated.update, "an evaluation"),
            // Training goes on while a checkpoint is saved.
            Record::Checkpoint(checkpoint) if checkpoint.update > last || checkpoint.update < self.newest() => {
                let (update, newest) = (checkpoint.update, self.newest());
                Err(format!("a checkpoint of update {update} comes after update {last} and the checkpoint of {newest}"))
            }
            Record::Final(outputs) => at_rest(outputs.update, "an output"),
            Record::Update(_) | Record::Rewind(_) | Record::Group(_) | Record::Checkpoint(_) => Ok(()),
        }
    }

    /// The update of the newest checkpoint in effect; where there is none, that before the first record.
    fn newest(&self) -> Update {
        self.checkpoints.last().map_or(self.identity.start, |newest| newest.update)
    }

    /// Later updates, and all that followed the end of training, are no longer in effect.
    fn rewind(&mut self, to: Update) {
        self.rewinds += 1;
        self.superseded += self.last().0 - to.0;
        self.updates.retain(|past| past.update <= to);
        self.entries.retain(|past| past.update <= to && past.occasion == Occasion::Training);
        self.checkpoints.retain(|checkpoint| checkpoint.update <= to);
        self.outputs = None;
    }

    /// Which run it is.
    #[must_use]
    pub fn identity(&self) -> &RunIdentity {
        &self.identity
    }

    /// The last update in effect.
    #[must_use]
    pub fn last(&self) -> Update {
        self.updates.last().map_or(self.identity.start, |past| past.update)
    }

    /// The updates in effect, in order, from the one after [`RunIdentity::start`].
    #[must_use]
    pub fn updates(&self) -> &[PastUpdate] {
        &self.updates
    }

    /// The losses of updates 1 through `through`; `None` where the ledger does not have all of them.
    #[must_use]
    pub fn losses(&self, through: Update) -> Option<Vec<f64>> {
        let whole = self.identity.start == Update(0) && self.last() >= through;
        whole.then(|| self.updates.iter().take(through.0 as usize).map(|past| past.loss).collect())
    }

    /// What happened beside updates, in order, in effect or not.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The evaluations of the validation split that are in effect, in order: after which update, and the metrics.
    pub fn evaluations(&self) -> impl Iterator<Item = (Update, &LogEntry)> {
        self.entries.iter().filter(|past| past.is_evaluation).map(|past| (past.update, &past.entry))
    }

    /// The checkpoints in effect, in order; some may be gone from the disk by `--save_total_limit`.
    #[must_use]
    pub fn checkpoints(&self) -> &[CheckpointRecord] {
        &self.checkpoints
    }

    /// The best checkpoint in effect that was evaluated, by what the run chooses by or else by the highest accuracy; the
    /// earliest of equals.
    #[must_use]
    pub fn best(&self) -> Option<Measured> {
        let is_kept = |measured: &Measured| self.checkpoints.iter().any(|kept| kept.update == measured.update);
        match &self.identity.criterion {
            Some(criterion) => criterion.best(self.candidates(self.measured(&criterion.metric)).filter(is_kept)),
            None => {
                let better = |best: Measured, next: Measured| if next.value > best.value { next } else { best };
                self.measured("accuracy").filter(is_kept).reduce(better)
            }
        }
    }

    /// What the evaluations during training that are in effect measured, by a metric's key, in order.
    pub fn measured(&self, metric: &str) -> impl Iterator<Item = Measured> {
        let during = self.entries.iter().filter(|past| past.is_evaluation && past.occasion == Occasion::Training);
        let is_its = self.identity.criterion.as_ref().is_some_and(|criterion| criterion.metric == metric);
        // One that was made again counts once.
        let first = during.clone().next().map_or(Update(u64::MAX), |past| past.update);
        let before = self.identity.measured.iter().filter(move |it| is_its && it.update < first).copied();
        let metric = metric.to_owned();
        let during =
            during.filter_map(move |past| Some(Measured { update: past.update, value: past.entry.measured(&metric)? }));
        before.chain(during)
    }

    /// Whether an evaluation during training that is in effect was made after `update`.
    #[must_use]
    pub fn is_evaluated(&self, update: Update) -> bool {
        let mut during = self.entries.iter().filter(|past| past.is_evaluation && past.occasion == Occasion::Training);
        during.any(|past| past.update == update) || self.identity.measured.iter().any(|it| it.update == update)
    }

    /// Those of the updates that were measured after which the run saves by its cadence.
    pub fn candidates(&self, measured: impl Iterator<Item = Measured>) -> impl Iterator<Item = Measured> {
        let cadence = self.identity.cadence;
        measured.filter(move |it| cadence.is_none_or(|cadence| cadence.saves_after(it.update)))
    }

    /// The group that was connected last.
    #[must_use]
    pub fn group(&self) -> Option<&GroupRecord> {
        self.group.as_ref()
    }

    /// What a coordinator that comes back must know of it.
    #[must_use]
    pub fn past(&self) -> Past {
        let update = self.last();
        let is_line = |past: &PastEntry| !past.is_evaluation && past.occasion == Occasion::Training;
        let logged = self.entries.iter().rev().take_while(|past| past.update == update).any(is_line);
        let members = self.group.iter().flat_map(|group| &group.members);
        Past {
            update,
            losses: self.losses(update).unwrap_or_default(),
            skipped: self.updates.iter().filter(|past| past.skipped).map(|past| past.update).collect(),
            grad_norm: self.updates.last().map_or(0.0, |past| past.grad_norm),
            logged,
            evaluated: self.is_evaluated(update),
            measured: self.identity.criterion.iter().flat_map(|it| self.measured(&it.metric)).collect(),
            groups: self.groups.clone(),
            shares: members.map(|member| (member.worker, member.lanes.clone())).collect(),
        }
    }

    /// The lines of the training log that are in effect, as far as they can be read back.
    #[must_use]
    pub fn log(&self) -> Vec<TrainLog> {
        let lines = self.entries.iter().filter(|past| past.occasion == Occasion::Training && !past.is_evaluation);
        let line = |past: &PastEntry| {
            let number = |key: &str| past.entry.0.get(key)?.as_f64();
            Some(TrainLog {
                update: past.update,
                epoch: number("epoch")?,
                loss: number("loss")?,
                grad_norm: number("grad_norm")?,
                learning_rate: number("learning_rate")?,
                skipped: 0,
            })
        };
        lines.filter_map(line).collect()
    }

    /// Whether the summary of the whole training is in the log.
    #[must_use]
    pub fn is_summarised(&self) -> bool {
        self.entries.iter().any(|past| past.occasion == Occasion::End && !past.is_evaluation)
    }

    /// Rows a second of the whole training, once it is summed up; those of the process that ended it.
    #[must_use]
    pub fn rows_per_second(&self) -> Option<f64> {
        let summary = self.entries.iter().rev().find(|past| past.occasion == Occasion::End && !past.is_evaluation)?;
        summary.entry.0.get("train_samples_per_second")?.as_f64()
    }

    /// The worker of the newest group that came last: later ones have higher numbers.
    #[must_use]
    pub fn last_worker(&self) -> WorkerId {
        let members = self.group.iter().flat_map(|group| &group.members);
        members.map(|member| member.worker).max().unwrap_or_default()
    }

    /// Who has computed, in whatever group.
    #[must_use]
    pub fn hosts(&self) -> &BTreeSet<Host> {
        &self.hosts
    }

    /// The outputs, once training is complete.
    #[must_use]
    pub fn outputs(&self) -> Option<&FinalRecord> {
        self.outputs.as_ref()
    }

    /// How often training went back, and how many updates that undid.
    #[must_use]
    pub fn rewound(&self) -> (u64, u64) {
        (self.rewinds, self.superseded)
    }

    /// `trainer_state.json` as it was after the last record, under the cadence of the run that goes on.
    ///
    /// Tokens of updates before [`RunIdentity::start`] and log entries of that time are not known.
    #[must_use]
    pub fn trainer_state(&self, cadence: &Cadence) -> TrainerState {
        let mut state = TrainerState::new(cadence);
        for past in &self.updates {
            state.advance(past.update, past.epoch, past.tokens);
        }
        self.entries.iter().for_each(|past| state.log(past.entry.clone()));
        state
    }
}

impl PastUpdate {
    fn of(record: &UpdateRecord) -> Self {
        let UpdateRecord { update, epoch, learning_rate, loss, grad_norm, skipped, tokens, parameters, .. } = *record;
        Self { update, epoch, learning_rate, loss, grad_norm, skipped, tokens, parameters }
    }
}
