//! Writes what a run produces: one thread that owns the archive, so that no disk ever holds up the run.
//!
//! Orders are carried out one after the other. What the run waits for (a commit, a record) and what it must know (a
//! disk that refuses) comes back as answers. A disk that is full or ill does not end the run: the order is tried again
//! until there is room, and those after it wait; the queue has a capacity, so who orders must hold back for answers.

mod scribe;

use std::collections::BTreeMap;
use std::fmt;

use medley_common::identity::{Digest, Update};
use medley_common::message::Failure;
use medley_common::save::SaveId;
use tokio::sync::{mpsc, watch};

use crate::archive::{
    Archive, Cadence, Origin, OutputDir, Patience, RowOrigin, RunContents, RunIdentity, StoredArtifact,
};
use crate::peak_memory::PeakMemory;
use crate::run::report::{EvaluationReport, GroupRecord, TrainLog, TrainSummary, UpdateRecord};
use crate::run::{Input, Occasion, SavedState};
use crate::service::Slot;
use crate::tracker::{Ending, Tracking};

use scribe::{Place, Scribe};

/// Orders that may wait for the disk.
pub(crate) const QUEUED_ENTRIES: usize = 1024;

/// What there is to write.
#[derive(Debug)]
pub enum Entry {
    /// A group of workers is connected; answered with [`Input::Grouped`].
    Group(GroupRecord),
    /// An applied update; answered with [`Answer::Recorded`].
    Update(UpdateRecord),
    /// A line of the training log.
    Log(TrainLog),
    /// Take in the pieces of a save, so many of each file.
    Receive(SaveId, u32),
    /// Make the state that was taken in durable; answered with [`Input::Committed`].
    Commit(SavedState),
    /// The save is given up: what was taken in goes.
    Discard(SaveId),
    /// Back to the state after this update, and why: what came later is void.
    Rewind(Update, String),
    /// Training is over; the model is the first of these checkpoints that is whole, if there are any. Where that is not the
    /// last model, [`Answer::Based`] comes back.
    Summary(TrainSummary, Vec<Update>),
    /// The most memory that was taken so far: it goes with the next results.
    Memory(PeakMemory),
    /// The result of an evaluation; answered with [`Input::Published`].
    Evaluation(EvaluationReport, Occasion),
    /// The run is over, for now or for good.
    Over(Ending),
}

/// What comes back.
#[derive(Debug)]
pub enum Answer {
    /// For the run.
    Input(Input),
    /// The update is in the ledger: whatever becomes of this process, it is not forgotten.
    Recorded(Update),
    /// There is a newer state that workers can start from.
    Based(Update, Vec<StoredArtifact>),
    /// Why nothing can be written at present; `None` when it can again.
    Paused(Option<String>),
    /// For the person who watches.
    Line(String),
    /// The recorder has ended: nothing more is written, and nothing more is answered.
    Ended,
}

/// Says that a keeper has ended, however it ends. The channel itself may stay open: an upload that is still on its
/// way has a hold of it.
pub(crate) struct Farewell(mpsc::UnboundedSender<Answer>);

impl Farewell {
    /// Says it to `answers` when it is dropped.
    pub(crate) fn of(answers: &mpsc::UnboundedSender<Answer>) -> Self {
        Self(answers.clone())
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // A closed channel means that nobody waits.
        self.0.send(Answer::Ended).ok();
    }
}

/// What a recorder needs to know.
#[derive(Debug)]
pub struct Setting {
    /// Where training goes on.
    pub origin: Origin,
    /// What `trainer_state.json` says of the run's plan.
    pub cadence: Cadence,
    /// Rows of the training split.
    pub train_rows: u64,
    /// Parameters that are trained, where others are frozen.
    pub trained_parameters: Option<u64>,
    /// Rows of an evaluation batch, as Hugging Face would count batches.
    pub eval_batch_rows: u32,
    /// The labels, by id.
    pub labels: Vec<String>,
    /// Where the test rows come from, by row id.
    pub test_rows: Vec<RowOrigin>,
    /// Digests of what went in, by name.
    pub inputs: BTreeMap<String, Digest>,
    /// Digests of the programs, by name.
    pub programs: BTreeMap<String, Digest>,
    /// What a new ledger begins with, where that of a complete run is gone.
    pub lost: Option<Box<RunIdentity>>,
    /// The update after which the run is asked to stop, if any.
    pub until: Option<Update>,
    /// Whom the log is reported to, beside the ledger.
    pub tracking: Tracking,
}

/// Who takes in what a run produces, on a thread of its own.
pub trait Keeper: fmt::Debug + Send {
    /// Starts the thread. It ends when its entries do; [`Answer::Ended`] is its last answer. `slot` is where uploads are
    /// told to go.
    fn start(
        self: Box<Self>,
        slot: watch::Sender<Option<Slot>>,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> mpsc::Sender<Entry>;
}

/// Writes what a run produces to its output folder.
#[derive(Debug)]
pub struct Recorder {
    /// The folder, locked.
    pub output: OutputDir,
    /// What all checkpoints share; `None` where nothing is trained.
    pub contents: Option<RunContents>,
    /// What it needs to know of the run.
    pub setting: Setting,
}

impl Keeper for Recorder {
    fn start(
        self: Box<Self>,
        slot: watch::Sender<Option<Slot>>,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> mpsc::Sender<Entry> {
        let Self { output, contents, setting } = *self;
        let (sender, entries) = mpsc::channel(QUEUED_ENTRIES);
        let wanted = sender.downgrade();
        let told = answers.clone();
        let tell = move |reason: Option<&str>| {
            let line = match reason {
                Some(reason) => {
                    format!("paused: {reason}; what is to be written waits and goes on when the disk lets it")
                }
                None => "the pause is over".to_owned(),
            };
            // A closed channel means that the run is over.
            told.send(Answer::Line(line)).ok();
            told.send(Answer::Paused(reason.map(str::to_owned))).ok();
        };
        let patience = Patience::new(tell, move || wanted.strong_count() > 0);
        std::thread::spawn(move || {
            let _farewell = Farewell::of(&answers);
            let place = match contents {
                Some(contents) => Place::Run(Box::new(Archive::new(output, contents))),
                None => Place::Folder(output),
            };
            follow(Scribe::new(place, setting, slot, answers.clone(), patience.clone()), entries, &answers, &patience);
        });
        sender
    }
}

/// Carries orders out, each until it is done or has failed for good.
fn follow(
    mut scribe: Scribe,
    mut entries: mpsc::Receiver<Entry>,
    answers: &mpsc::UnboundedSender<Answer>,
    patience: &Patience,
) {
    while let Some(entry) = entries.blocking_recv() {
        scribe.next_entry();
        if let Err(error) = patience.keep_trying(|| scribe.write(&entry)) {
            let failure = Failure { kind: error.kind(), message: error.to_string() };
            // A closed channel means that the run is over, and with it the interest in what failed.
            answers.send(Answer::Input(Input::Broken(failure))).ok();
            scribe.fail();
        }
    }
    scribe.conclude();
}

#[cfg(test)]
#[path = "recorder_test.rs"]
mod tests;
