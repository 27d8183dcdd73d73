//! Carries out one order at a time. An order that has failed may be given again: what of it is done is not done twice.

mod final_model;

use std::sync::Arc;

use medley_common::identity::{Split, Update};
use medley_common::save::SaveId;
use tokio::sync::{mpsc, watch};

use super::{Answer, Entry, Setting};
use crate::archive::{
    Agreed, Archive, ArchiveError, Begun, Certificate, Checkpoint, Evaluated, Ledger, LogEntry, Logged, Metrics,
    Origin, OutputDir, Patience, Record, RewindRecord, Staging, TRAIN_RESULTS_FILE, TrainerState, save_predictions,
};
use crate::peak_memory::PeakMemory;
use crate::run::report::{EvaluationReport, GroupRecord, TrainLog, TrainSummary, UpdateRecord};
use crate::run::{Input, Occasion, SavedState};
use crate::service::Slot;
use crate::tracker::{self, Ending};

/// Where a run writes.
pub(super) enum Place {
    /// Nothing is trained: results alone.
    Folder(OutputDir),
    /// A run that trains.
    Run(Box<Archive>),
}

/// Writes what it is told to.
pub(super) struct Scribe {
    place: Place,
    setting: Setting,
    slot: watch::Sender<Option<Slot>>,
    answers: mpsc::UnboundedSender<Answer>,
    patience: Patience,
    state: TrainerState,
    /// Open once there is something to write: nothing of an older run is touched before.
    ledger: Option<Box<Ledger>>,
    /// Whether the present order's own record is in the ledger.
    recorded: bool,
    /// The final model, from its last update until the results of training stand beside it.
    trained: Option<Trained>,
    /// The certificate, once training is complete.
    certificate: Option<Certificate>,
    /// Whether this run has trained, and so owns the log in the folder.
    owns_log: bool,
    /// How the run ends, as far as it is known.
    ending: Option<Ending>,
    /// The most memory that was taken so far.
    memory: PeakMemory,
}

/// A final model that is on the disk, but not yet in its place.
#[derive(Debug)]
struct Trained {
    agreed: Agreed,
    staging: Arc<Staging>,
    /// Where the weights are, if a checkpoint has them.
    checkpoint: Option<Checkpoint>,
}

impl Scribe {
    pub(super) fn new(
        place: Place,
        setting: Setting,
        slot: watch::Sender<Option<Slot>>,
        answers: mpsc::UnboundedSender<Answer>,
        patience: Patience,
    ) -> Self {
        let state = match &setting.origin {
            Origin::Fresh => TrainerState::new(&setting.cadence),
            Origin::Checkpoint(checkpoint) => checkpoint.trainer_state().clone().resumed(&setting.cadence),
            Origin::Ledger(unfinished) => unfinished.recovered.history.trainer_state(&setting.cadence),
        };
        Self {
            place,
            setting,
            slot,
            answers,
            patience,
            state,
            ledger: None,
            recorded: false,
            trained: None,
            certificate: None,
            owns_log: false,
            ending: None,
            memory: PeakMemory::default(),
        }
    }

    /// Another order comes.
    pub(super) fn next_entry(&mut self) {
        self.recorded = false;
    }

    /// Carries an order out, as far as it is not done. Blocks.
    ///
    /// # Errors
    /// The disk refuses; the order can be given again.
    pub(super) fn write(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        match entry {
            Entry::Group(group) => self.group(group),
            Entry::Update(record) => self.update(record),
            Entry::Log(log) => self.log(log),
            Entry::Receive(save, pieces) => self.receive(*save, *pieces),
            Entry::Commit(saved) => self.commit(*saved),
            Entry::Discard(save) => {
                self.discard(*save);
                Ok(())
            }
            Entry::Rewind(update, reason) => self.rewind(*update, reason),
            Entry::Summary(summary, ranking) => self.summary(summary, ranking),
            Entry::Memory(peak) => {
                self.memory = *peak;
                Ok(())
            }
            Entry::Evaluation(report, occasion) => self.evaluation(report, *occasion),
            Entry::Over(ending) => {
                // What has failed stays so.
                self.ending.get_or_insert(*ending);
                Ok(())
            }
        }
    }

    /// Something cannot be written.
    pub(super) fn fail(&mut self) {
        self.ending = Some(Ending::Failed);
    }

    /// Nothing more comes. Waits for the trackers, while the folder is still this process's own.
    pub(super) fn conclude(self) {
        self.setting.tracking.end(self.ending.unwrap_or(Ending::Failed));
    }

    /// Begins to report, once, what is logged from the update `kept` on; with `None`, from the beginning.
    fn track(&mut self, kept: Option<Update>) {
        let answers = self.answers.clone();
        // A closed channel means that the run is over.
        let tell: tracker::Tell = Arc::new(move |line| drop(answers.send(Answer::Line(line))));
        let state = &self.state;
        let start = || tracker::Start::after(kept.map(|kept| kept.0), &state.log_history);
        self.setting.tracking.begin(start, &tell);
    }

    fn group(&mut self, group: &GroupRecord) -> Result<(), ArchiveError> {
        self.begin()?;
        self.record(Record::Group(group.clone()))?;
        self.answer(Answer::Input(Input::Grouped(group.generation)));
        Ok(())
    }

    fn update(&mut self, record: &UpdateRecord) -> Result<(), ArchiveError> {
        self.begin()?;
        self.record(Record::Update(record.clone()))?;
        self.state.advance(record.update, record.epoch, record.tokens);
        self.answer(Answer::Recorded(record.update));
        if self.setting.until == Some(record.update) {
            self.answer(Answer::Input(Input::StopRequested));
        }
        Ok(())
    }

    fn rewind(&mut self, to: Update, reason: &str) -> Result<(), ArchiveError> {
        self.begin()?;
        self.record(Record::Rewind(RewindRecord { to, reason: reason.to_owned() }))?;
        if let Some(ledger) = &self.ledger {
            self.state = ledger.history().trainer_state(&self.setting.cadence);
        }
        self.setting.tracking.rewind(to.0);
        let Place::Run(archive) = &self.place else { return Ok(()) };
        for path in archive.clear_after(to)? {
            self.say(format!("removed {}", path.display()));
        }
        Ok(())
    }

    fn log(&mut self, log: &TrainLog) -> Result<(), ArchiveError> {
        self.begin()?;
        let (update, entry) = (log.update, LogEntry::of_training(log));
        self.record(Record::Log(Logged { update, occasion: Occasion::Training, entry: entry.clone() }))?;
        self.setting.tracking.log(&entry);
        self.state.log(entry);
        Ok(())
    }

    /// Appends the present order's record, once.
    fn record(&mut self, record: Record) -> Result<(), ArchiveError> {
        if let Some(ledger) = self.ledger.as_mut().filter(|_| !self.recorded) {
            ledger.append(record)?;
            self.recorded = true;
        }
        Ok(())
    }

    fn receive(&mut self, save: SaveId, pieces: u32) -> Result<(), ArchiveError> {
        self.begin()?;
        if let Place::Run(archive) = &self.place {
            let staging = Arc::new(archive.stage((save.update, pieces), &self.patience)?);
            self.slot.send_replace(Some(Slot { save, staging }));
        }
        Ok(())
    }

    fn discard(&mut self, save: SaveId) {
        let slot = self.slot.borrow().clone().filter(|slot| slot.save == save);
        if let Some(slot) = slot {
            self.slot.send_replace(None);
            // What stays goes with the next save.
            slot.staging.remove().ok();
        }
    }

    fn commit(&mut self, saved: SavedState) -> Result<(), ArchiveError> {
        let SavedState { save, purpose, layout, parameters } = saved;
        let slot = self.slot.borrow().clone().filter(|slot| slot.save == save);
        let state = self.state_after(save.update);
        let (Place::Run(archive), Some(ledger), Some(slot)) = (&self.place, &mut self.ledger, slot) else {
            return Ok(());
        };
        let agreed = Agreed { layout, parameters };
        let mut checkpoint = None;
        if purpose.is_checkpoint() {
            let committed = archive.commit(ledger, &slot.staging, &agreed, &state)?;
            self.say(format!("saved {}", committed.checkpoint.path().display()));
            if let Some(aside) = &committed.aside {
                self.say(format!("warning: a folder of another program was moved to {}", aside.display()));
            }
            if let Some(warning) = &committed.warning {
                self.say(format!("warning: {warning}"));
            }
            self.answer(Answer::Based(save.update, committed.checkpoint.artifacts()));
            checkpoint = Some(committed.checkpoint);
        }
        self.slot.send_replace(None);
        if purpose.is_final() {
            self.trained = Some(Trained { agreed, staging: slot.staging, checkpoint });
        }
        self.answer(Answer::Input(Input::Committed(save.update)));
        Ok(())
    }

    /// `trainer_state.json` as it was after an update, though later ones have been made since.
    fn state_after(&self, update: Update) -> TrainerState {
        let made = self.ledger.as_ref().map_or(&[][..], |ledger| ledger.history().updates());
        let later = made.iter().filter(|past| past.update > update).map(|past| past.tokens).sum();
        let epoch = made.iter().find(|past| past.update == update).map_or(self.state.epoch, |past| past.epoch);
        self.with_best(self.state.clone().back_at((update, epoch), later), update)
    }

    fn summary(&mut self, summary: &TrainSummary, ranking: &[Update]) -> Result<(), ArchiveError> {
        self.begin()?;
        let output = self.output();
        if summary.updates > 0 || !output.path().join(TRAIN_RESULTS_FILE).exists() {
            let metrics = Metrics::of_training(summary, self.setting.train_rows, self.setting.trained_parameters);
            metrics.with_memory(self.memory.with_own()).save(output)?;
        }
        // A coordinator that comes back may find it done.
        let is_told = self.ledger.as_ref().is_none_or(|ledger| ledger.history().is_summarised());
        if !is_told && !self.owns_log {
            let (update, entry) = (summary.update, LogEntry::of_summary(summary));
            self.record(Record::Log(Logged { update, occasion: Occasion::End, entry: entry.clone() }))?;
            self.setting.tracking.log(&entry);
            self.state.log(entry);
        }
        self.owns_log = true;
        self.state = self.with_best(self.state.clone(), summary.update);
        self.state.save(self.output().path())?;
        self.export(ranking)
    }

    fn evaluation(&mut self, report: &EvaluationReport, occasion: Occasion) -> Result<(), ArchiveError> {
        if occasion == Occasion::End {
            self.reopen()?;
        }
        let batch_rows = self.setting.eval_batch_rows;
        let entry = LogEntry::of_evaluation(report, batch_rows, &self.setting.labels);
        if !self.recorded {
            // A run that only evaluates what an earlier one has trained makes no updates of its own.
            let update = self.ledger.as_ref().map_or(report.update, |ledger| ledger.last());
            let evaluated = Evaluated { update, split: report.split, occasion, entry: entry.clone() };
            self.record(Record::Evaluation(evaluated))?;
            // At the same update the last model was evaluated as well: who looks at both must tell them apart.
            let is_best = self.certificate.as_ref().is_some_and(|certificate| certificate.best.is_some());
            match occasion == Occasion::End && report.split == Split::Validation && is_best {
                true => self.setting.tracking.log(&entry.of_best()),
                false => self.setting.tracking.log(&entry),
            }
            if report.split == Split::Validation {
                self.state.log(entry);
            }
            self.recorded = true;
            self.answer(Answer::Input(Input::Published(report.update)));
        }
        if occasion == Occasion::Training {
            return Ok(());
        }
        let output = self.output();
        let metrics = Metrics::of_evaluation(report, batch_rows, &self.setting.labels);
        metrics.with_memory(self.memory.with_own()).save(output)?;
        if report.split == Split::Test {
            save_predictions(output, &report.predictions, &self.setting.labels, &self.setting.test_rows)?;
        }
        if self.owns_log {
            self.state.save(output.path())?;
        }
        self.certify()
    }

    /// Opens the ledger of a complete run, whose results are asked for again; where it is gone, a new one begins.
    fn reopen(&mut self) -> Result<(), ArchiveError> {
        let Place::Folder(output) = &self.place else { return Ok(()) };
        if self.ledger.is_some() {
            return Ok(());
        }
        // Without a valid certificate the folder is not that of a complete run: its ledger is left alone.
        self.certificate = Certificate::read_alone(output.path()).unwrap_or_default();
        if self.certificate.is_none() {
            self.track(None);
            return Ok(());
        }
        let ledger = match (output.ledger()?, &self.setting.lost) {
            (Some(recovered), _) => Some(Ledger::reopen(output.path(), recovered)?),
            (None, Some(identity)) => Some(Ledger::create(output.path(), (**identity).clone())?),
            (None, None) => None,
        };
        self.track(ledger.as_ref().map(Ledger::last));
        self.ledger = ledger.map(Box::new);
        Ok(())
    }

    /// Issues the certificate anew, with the results that have come.
    fn certify(&mut self) -> Result<(), ArchiveError> {
        let output = match &self.place {
            Place::Folder(output) => output,
            Place::Run(archive) => archive.output(),
        };
        match (&mut self.certificate, &mut self.ledger) {
            (Some(certificate), Some(ledger)) => certificate.issue(output, ledger),
            _ => Ok(()),
        }
    }

    /// Takes the folder over for this run, once.
    fn begin(&mut self) -> Result<(), ArchiveError> {
        let Place::Run(archive) = &self.place else { return Ok(()) };
        if self.ledger.is_none() {
            let Begun { ledger, dropped, removed } = archive.begin(&self.setting.origin)?;
            if let Some(torn) = dropped {
                self.say(format!("warning: {torn}"));
            }
            let start = ledger.history().identity().start;
            if start.0 > 0 {
                let path = ledger.path().display();
                self.say(format!("warning: {path} begins after update {start}: what came before cannot be proved"));
            }
            for path in removed {
                self.say(format!("removed {}", path.display()));
            }
            self.track((self.setting.origin != Origin::Fresh).then(|| ledger.last()));
            self.ledger = Some(Box::new(ledger));
        }
        Ok(())
    }

    fn output(&self) -> &OutputDir {
        match &self.place {
            Place::Folder(output) => output,
            Place::Run(archive) => archive.output(),
        }
    }

    fn say(&self, line: String) {
        self.answer(Answer::Line(line));
    }

    fn answer(&self, answer: Answer) {
        // A closed channel means that the run is over.
        self.answers.send(answer).ok();
    }
}
