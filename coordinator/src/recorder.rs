//! Writes what a run produces: one thread that owns the archive, so that no disk ever holds up the run.
//!
//! Orders are carried out one after the other. What the run waits for (a commit) and what it must know (a disk that
//! refuses) comes back as inputs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use medley_common::identity::{Digest, Split, Update, WorkerId};
use medley_common::message::Failure;
use tokio::sync::{mpsc, watch};

use crate::archive::{
    Agreed, Archive, ArchiveError, Begun, Cadence, Checkpoint, JsonObject, LEDGER_FILE, Ledger, Metrics, ModelSource,
    OutputDir, RunContents, RunFacts, Staging, StoredArtifact, TRAIN_RESULTS_FILE, TrainerState, save_predictions,
};
use crate::run::report::{EvaluationReport, TrainLog, TrainSummary, UpdateRecord};
use crate::run::{Input, Occasion, SavedState};
use crate::service::{Slot, lock};

/// What there is to write.
#[derive(Debug)]
pub enum Entry {
    /// An applied update.
    Update(UpdateRecord),
    /// A line of the training log.
    Log(TrainLog),
    /// Take in the state after an update from a worker.
    Receive(WorkerId, Update),
    /// Make the state that was taken in durable; answered with [`Input::Committed`].
    Commit(SavedState),
    /// Back to the state after this update: what came later is void.
    Rewind(Update),
    /// Training is over.
    Summary(TrainSummary),
    /// The result of an evaluation.
    Evaluation(EvaluationReport, Occasion),
}

/// What comes back.
#[derive(Debug)]
pub enum Answer {
    /// For the run.
    Input(Input),
    /// There is a newer state that workers can start from.
    Based(Update, Vec<StoredArtifact>),
    /// For the person who watches.
    Line(String),
}

/// What a recorder needs to know.
#[derive(Debug)]
pub struct Setting {
    /// The checkpoint that training goes on from.
    pub resumed: Option<Checkpoint>,
    /// What `trainer_state.json` says of the run's plan.
    pub cadence: Cadence,
    /// Rows of the training split.
    pub train_rows: u64,
    /// Rows of an evaluation batch, as Hugging Face would count batches.
    pub eval_batch_rows: u32,
    /// The labels, by id.
    pub labels: Vec<String>,
    /// The command line's settings, by flag.
    pub flags: JsonObject,
    /// Digests of what went in.
    pub inputs: BTreeMap<String, Digest>,
}

/// Starts the recorder's thread. It ends when `entries` does; `answers` ends with it.
///
/// `contents` is what all checkpoints share; `None` where nothing is trained. `slot` is where uploads are told to go.
#[must_use]
pub fn spawn(
    output: OutputDir,
    contents: Option<RunContents>,
    setting: Setting,
    slot: watch::Sender<Option<Slot>>,
    answers: mpsc::UnboundedSender<Answer>,
) -> mpsc::UnboundedSender<Entry> {
    let (sender, mut entries) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let state = match &setting.resumed {
            Some(checkpoint) => checkpoint.trainer_state().clone().resumed(&setting.cadence),
            None => TrainerState::new(&setting.cadence),
        };
        let folder = Folder::Untouched(output, contents);
        let bases = BTreeMap::from([(Update(state.global_step), state.clone())]);
        let (answers, trained) = (answers.clone(), None);
        let mut recorder = Recorder { setting, slot, answers, state, bases, folder, trained, owns_log: false };
        while let Some(entry) = entries.blocking_recv() {
            if let Err(error) = recorder.write(entry) {
                let failure = Failure { kind: error.kind(), message: error.to_string() };
                // A closed channel means that the run is over, and with it the interest in what failed.
                recorder.answers.send(Answer::Input(Input::Broken(failure))).ok();
            }
        }
    });
    sender
}

struct Recorder {
    setting: Setting,
    slot: watch::Sender<Option<Slot>>,
    answers: mpsc::UnboundedSender<Answer>,
    state: TrainerState,
    /// The state at each update that workers can start from.
    bases: BTreeMap<Update, TrainerState>,
    folder: Folder,
    /// The final model, from its last update until the results of training stand beside it.
    trained: Option<Trained>,
    /// Whether this run has trained, and so owns the log in the folder.
    owns_log: bool,
}

/// A final model that is on the disk, but not yet in its place.
#[derive(Debug)]
struct Trained {
    agreed: Agreed,
    staging: Arc<Mutex<Staging>>,
    /// Where the weights are, if a checkpoint has them.
    checkpoint: Option<Checkpoint>,
}

/// Nothing of an older run is touched before this one has something to write.
#[derive(Debug)]
enum Folder {
    Untouched(OutputDir, Option<RunContents>),
    Begun(Archive, Ledger),
    /// Beginning failed; the run has been told.
    Lost,
}

impl Recorder {
    fn write(&mut self, entry: Entry) -> Result<(), ArchiveError> {
        match entry {
            Entry::Update(record) => self.update(&record),
            Entry::Log(log) => {
                self.state.log_training(&log);
                Ok(())
            }
            Entry::Receive(worker, update) => self.receive(worker, update),
            Entry::Commit(saved) => self.commit(saved),
            Entry::Rewind(update) => self.rewind(update),
            Entry::Summary(summary) => self.summary(&summary),
            Entry::Evaluation(report, occasion) => self.evaluation(&report, occasion),
        }
    }

    fn update(&mut self, record: &UpdateRecord) -> Result<(), ArchiveError> {
        self.begin()?;
        self.state.advance(record.update, record.epoch, record.tokens);
        match &mut self.folder {
            Folder::Begun(_, ledger) => ledger.append(record),
            Folder::Untouched(..) | Folder::Lost => Ok(()),
        }
    }

    fn receive(&mut self, worker: WorkerId, update: Update) -> Result<(), ArchiveError> {
        self.begin()?;
        if let Folder::Begun(archive, _) = &self.folder {
            let staging = Arc::new(Mutex::new(archive.stage(update)?));
            self.slot.send_replace(Some(Slot { worker, update, staging }));
        }
        Ok(())
    }

    fn commit(&mut self, saved: SavedState) -> Result<(), ArchiveError> {
        let (Folder::Begun(archive, _), Some(slot)) = (&self.folder, self.slot.send_replace(None)) else {
            return Ok(());
        };
        let SavedState { update, purpose, layout, parameters } = saved;
        let agreed = Agreed { layout, parameters };
        let staging = lock(&slot.staging);
        let committed = if purpose.is_checkpoint() {
            let committed = archive.commit(&staging, &agreed, &self.state)?;
            self.say(format!("saved {}", committed.checkpoint.path().display()));
            if let Some(aside) = &committed.aside {
                self.say(format!("warning: a folder of another program was moved to {}", aside.display()));
            }
            if let Some(warning) = &committed.warning {
                self.say(format!("warning: {warning}"));
            }
            self.bases.insert(update, self.state.clone());
            self.answer(Answer::Based(update, committed.checkpoint.artifacts()));
            Some(committed)
        } else {
            None
        };
        drop(staging);
        if purpose.is_final() {
            let checkpoint = committed.map(|committed| committed.checkpoint);
            self.trained = Some(Trained { agreed, staging: slot.staging, checkpoint });
        }
        self.answer(Answer::Input(Input::Committed(update)));
        Ok(())
    }

    fn rewind(&mut self, update: Update) -> Result<(), ArchiveError> {
        if let Some(state) = self.bases.get(&update) {
            self.state = state.clone();
        }
        match &mut self.folder {
            Folder::Begun(_, ledger) => ledger.cut_after(update).map(|_| ()),
            Folder::Untouched(..) | Folder::Lost => Ok(()),
        }
    }

    fn summary(&mut self, summary: &TrainSummary) -> Result<(), ArchiveError> {
        self.owns_log = true;
        let Some(output) = self.output() else { return Ok(()) };
        if summary.updates > 0 {
            Metrics::of_training(summary, self.setting.train_rows).save(output)?;
        } else if !output.path().join(TRAIN_RESULTS_FILE).exists() {
            // Resumed after the last update, by a process that ended before it could say what training came to.
            let records = Ledger::read(&output.path().join(LEDGER_FILE))?;
            let losses: f64 = records.iter().map(|record| record.loss).sum();
            let mean_loss = losses / records.len().max(1) as f64;
            Metrics::of_training(&TrainSummary { mean_loss, ..*summary }, self.setting.train_rows).save(output)?;
        }
        if summary.updates > 0 {
            self.state.log_summary(summary);
        }
        if let Some(output) = self.output() {
            self.state.save(output.path())?;
        }
        self.export()
    }

    /// Puts the final model in its place. The run's record, written last, says that training is complete, so the
    /// results of training stand beside it by then.
    fn export(&mut self) -> Result<(), ArchiveError> {
        let (Folder::Begun(archive, _), Some(trained)) = (&self.folder, self.trained.take()) else { return Ok(()) };
        let (flags, inputs) = (self.setting.flags.clone(), self.setting.inputs.clone());
        let facts = RunFacts { epoch: self.state.epoch, agreed: trained.agreed, flags, inputs };
        let staging = lock(&trained.staging);
        let source = match &trained.checkpoint {
            Some(checkpoint) => ModelSource::Checkpoint(checkpoint),
            None => ModelSource::Staged(&staging),
        };
        archive.export(&source, facts)?;
        Ok(())
    }

    fn evaluation(&mut self, report: &EvaluationReport, occasion: Occasion) -> Result<(), ArchiveError> {
        let batch_rows = self.setting.eval_batch_rows;
        if report.split == Split::Validation {
            self.state.log_evaluation(report, batch_rows);
        }
        if occasion == Occasion::Training {
            return Ok(());
        }
        let Some(output) = self.output() else { return Ok(()) };
        Metrics::of_evaluation(report, batch_rows).save(output)?;
        if report.split == Split::Test {
            save_predictions(output, &report.predictions, &self.setting.labels)?;
        }
        if self.owns_log { self.state.save(output.path()) } else { Ok(()) }
    }

    /// Takes the folder over for this run, once.
    fn begin(&mut self) -> Result<(), ArchiveError> {
        let (output, contents) = match std::mem::replace(&mut self.folder, Folder::Lost) {
            Folder::Untouched(output, Some(contents)) => (output, contents),
            other => {
                self.folder = other;
                return Ok(());
            }
        };
        let Begun { archive, ledger, cut, removed } = Archive::begin(output, self.setting.resumed.as_ref(), contents)?;
        if let Some(cut) = cut.filter(|cut| cut.kept < cut.through) {
            let (from, through) = (cut.kept.next(), cut.through);
            let aside = cut.aside.map_or_else(String::new, |path| format!("; it is kept as {}", path.display()));
            self.say(format!("warning: {LEDGER_FILE} lacks the updates {from} to {through}{aside}"));
        }
        for path in removed {
            self.say(format!("removed {}", path.display()));
        }
        self.folder = Folder::Begun(archive, ledger);
        Ok(())
    }

    fn output(&self) -> Option<&OutputDir> {
        match &self.folder {
            Folder::Untouched(output, _) => Some(output),
            Folder::Begun(archive, _) => Some(archive.output()),
            Folder::Lost => None,
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
