//! The one thread that owns the model, the optimizer and the collective.
//!
//! Orders come in by a channel and outputs go out by one; the async side never touches what computes. The thread makes
//! updates as far as it is allowed to and looks for orders between them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, mpsc as orders};

use medley_common::example::Example;
use medley_common::identity::{Digest, Generation, RowId, Split, Update};
use medley_common::message::{ArtifactKind, Command, Event, Failure, FailureKind, Lanes, UpdateReport, Welcome};
use medley_common::plan::Plan;
use medley_common::save::SaveId;
use tokio::sync::mpsc;

use crate::collective::{CollectiveError, Connect, Listener};
use crate::device::{Place, Work};
use crate::layout::Layout;
use crate::memory;
use crate::ops::{DeviceError, Ops};
use crate::state_copy::StateCopy;
use crate::trainer::{BLOCK_ROWS, GatherError, PredictError, StepError, Trainer, TrainerError};
use crate::weights;

mod forming;
mod handle;

use forming::Group;
use handle::Order;

pub use handle::EngineHandle;

/// What the engine starts from.
#[derive(Debug)]
pub struct Preparation {
    /// The coordinator's welcome.
    pub welcome: Welcome,
    /// The rows of every split.
    pub examples: BTreeMap<Split, Vec<Example>>,
    /// File name and content of every file of the model's state.
    pub artifacts: BTreeMap<ArtifactKind, (String, Vec<u8>)>,
    /// Where to listen for peers.
    pub collective: SocketAddr,
    /// What to compute on.
    pub place: Place,
    /// Whether to share memory with peers on this machine.
    pub shared_memory: bool,
}

/// What the engine hands up.
#[derive(Debug)]
pub enum Output {
    /// An event for the coordinator.
    Report(Event),
    /// What a person should know.
    Note(String),
    /// A copy of the state, to be saved.
    Copied(Arc<StateCopy>),
    /// The engine has left its group; all that it handed up before is of the session that is over.
    Detached {
        /// Updates done in the state that it holds.
        update: Update,
        /// Lanes of the next update whose gradients it keeps.
        kept: Lanes,
    },
    /// The engine cannot go on and has ended.
    Failed(Failure),
}

/// Starts the engine's thread. The end of `outputs` without a failure means that it panicked.
#[must_use]
pub fn spawn(preparation: Preparation, outputs: mpsc::Sender<Output>) -> EngineHandle {
    let (sender, receiver) = orders::channel();
    let thread = std::thread::spawn(move || {
        let (place, spec) = (preparation.place.clone(), preparation.welcome.spec.clone());
        let shared_memory = preparation.shared_memory;
        let result =
            place.compute(&spec, shared_memory, Start { preparation, orders: receiver, outputs: outputs.clone() });
        if let Err(failure) = result {
            // A closed channel means that the worker is ending anyway.
            outputs.blocking_send(Output::Failed(failure)).ok();
        }
    });
    EngineHandle::new(sender, thread)
}

/// What an engine starts from, on whatever device.
struct Start {
    preparation: Preparation,
    orders: orders::Receiver<Order>,
    outputs: mpsc::Sender<Output>,
}

impl Work for Start {
    fn run<O: Ops>(self, ops: O, connect: Connect<O::Buffer>) -> Result<(), Failure> {
        Engine::prepare(ops, connect, self)?.serve()
    }
}

struct Engine<O: Ops> {
    orders: orders::Receiver<Order>,
    outputs: mpsc::Sender<Output>,
    layout: Layout,
    trainer: Trainer<O>,
    connect: Connect<O::Buffer>,
    plan: Plan,
    total: Update,
    /// Updates from one digest of the parameters in a report to the next; 0 for none.
    digest_every: u64,
    examples: BTreeMap<Split, Vec<Example>>,
    listener: Listener,
    group: Option<Group<O::Buffer>>,
}

impl<O: Ops> Engine<O> {
    fn prepare(ops: O, connect: Connect<O::Buffer>, start: Start) -> Result<Self, Failure> {
        let Start { preparation, orders, outputs } = start;
        let Preparation { welcome, examples, mut artifacts, collective, .. } = preparation;
        let layout = Layout::new(&welcome.model);
        let mut notes = Vec::new();
        let parameters = match artifacts.remove(&ArtifactKind::Weights) {
            Some((name, bytes)) => {
                let loaded = weights::read(&name, bytes, &layout, &welcome.model, welcome.spec.seed).map_err(data)?;
                notes = loaded.notes(&name);
                loaded.parameters
            }
            None => weights::initialise(&layout, &welcome.model, welcome.spec.seed),
        };
        let lengths = examples.get(&Split::Train).map_or_else(Vec::new, |rows| lengths(rows));
        let plan = Plan::new(&welcome.spec, lengths);
        let (total, digest_every) = (Update(welcome.spec.schedule.total_updates), welcome.digest_every);
        let make = if welcome.shard_optimizer_state { Trainer::sharded } else { Trainer::new };
        let mut trainer = make(ops, welcome.model, welcome.spec, parameters).map_err(|error| match error {
            TrainerError::Device(error @ DeviceError::OutOfMemory { .. }) => device_failed("hold the model", &error),
            error => config(error),
        })?;
        if let Some((_, bytes)) = artifacts.remove(&ArtifactKind::Optimizer) {
            let kind = trainer.spec().optimizer.kind;
            let state = weights::read_optimizer(&bytes, &kind, &layout).map_err(data)?;
            if state.update != welcome.start {
                let (found, start) = (state.update, welcome.start);
                let message = format!("the optimizer's state is of update {found}; expected {start}");
                return Err(Failure { kind: FailureKind::Data, message });
            }
            if let Some(scale) = state.loss_scale {
                trainer.restore_loss_scale(scale);
            }
            trainer.restore(state.memory, welcome.start).map_err(|error| match error {
                TrainerError::Device(error) => device_failed("restore the optimizer's state", &error),
                error => data(error),
            })?;
        }
        let listener = Listener::bind(collective).map_err(config)?;
        let prepared = Event::Prepared { layout: layout.fingerprint(), endpoint: listener.endpoint(), notes };
        let group = None;
        let engine =
            Self { orders, outputs, layout, trainer, connect, plan, total, digest_every, examples, listener, group };
        engine.report(prepared);
        Ok(engine)
    }

    /// Follows orders until the agent hangs up.
    fn serve(mut self) -> Result<(), Failure> {
        loop {
            let order = if self.may_go_on() {
                match self.orders.try_recv() {
                    Ok(order) => Some(order),
                    Err(orders::TryRecvError::Empty) => None,
                    Err(orders::TryRecvError::Disconnected) => return Ok(()),
                }
            } else {
                match self.orders.recv() {
                    Ok(order) => Some(order),
                    Err(orders::RecvError) => return Ok(()),
                }
            };
            match order {
                Some(Order::Form(form, bridle)) => self.form(&form, bridle)?,
                Some(Order::Obey(command)) => self.obey(command)?,
                Some(Order::Detach) => self.detach(),
                None => self.step()?,
            }
        }
    }

    fn may_go_on(&self) -> bool {
        self.group.as_ref().is_some_and(|group| self.trainer.update() < group.through.min(self.total))
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Disband { generation } => {
                self.group = None;
                let (update, kept) = (self.trainer.update(), self.trainer.kept());
                self.report(Event::StandingBy { generation, update, kept });
                Ok(())
            }
            Command::Train { generation, through, peak } => {
                if let Some(group) = self.member_of(generation) {
                    group.through = through;
                    self.trainer.set_peak(peak);
                }
                Ok(())
            }
            // At rest after that update, and whatever has become of the group since.
            Command::Save { save, parts, piece: _ } => self.copy(save, &parts),
            Command::Evaluate { generation, split, rows, examples } if self.member_of(generation).is_some() => {
                if !examples.is_empty() {
                    self.examples.insert(split, examples);
                }
                self.evaluate(generation, split, rows)
            }
            // Orders of a group that is gone (INV-2), those that come by another way, and those that the agent keeps to
            // itself.
            Command::Evaluate { .. } | Command::Form(_) | Command::Token { .. } | Command::Forget { .. } => Ok(()),
            Command::Welcome(_) | Command::Reattach { .. } | Command::Stop { .. } => Ok(()),
        }
    }

    fn detach(&mut self) {
        self.group = None;
        self.hand_up(Output::Detached { update: self.trainer.update(), kept: self.trainer.kept() });
    }

    fn member_of(&mut self, generation: Generation) -> Option<&mut Group<O::Buffer>> {
        self.group.as_mut().filter(|group| group.generation == generation)
    }

    fn step(&mut self) -> Result<(), Failure> {
        let Some(group) = self.group.as_mut() else { return Ok(()) };
        let Some(examples) = self.examples.get(&Split::Train) else { return Ok(()) };
        let plan = self.plan.update(self.trainer.update().next());
        let generation = group.generation;
        self.listener.clear();
        let step = self.trainer.step(&plan, &group.lanes, examples, group.collective.as_mut());
        if let Some(note) = self.trainer.take_note() {
            self.hand_up(Output::Note(note));
        }
        match step {
            Ok(report) => {
                let parameters = self.due_digest(report.update)?;
                self.report(Event::Updated { generation, report: UpdateReport { parameters, ..report } });
            }
            Err(StepError::Collective(error)) => return self.disconnected(generation, &error),
            Err(error @ StepError::NonFinite { .. }) => {
                return Err(Failure { kind: FailureKind::Diverged, message: error.to_string() });
            }
            Err(error @ (StepError::OutOfMemory { .. } | StepError::GatherOutOfMemory { .. })) => {
                return Err(config(error));
            }
            Err(StepError::Device(error)) => {
                return Err(device_failed(&format!("update {}", self.trainer.update().next()), &error));
            }
            Err(error) => return Err(internal(error)),
        }
        Ok(())
    }

    /// The digest of the parameters after `update`, where one is due: this thread computes nothing else meanwhile.
    fn due_digest(&self, update: Update) -> Result<Option<Digest>, Failure> {
        if self.digest_every == 0 || !update.0.is_multiple_of(self.digest_every) {
            return Ok(None);
        }
        let parameters = self.trainer.parameters().map_err(internal)?;
        Ok(Some(weights::digest(&parameters)))
    }

    fn copy(&mut self, save: SaveId, parts: &[ArtifactKind]) -> Result<(), Failure> {
        if self.trainer.update() != save.update {
            let message = format!("asked to save update {}, but {} are made", save.update, self.trainer.update());
            return Err(Failure { kind: FailureKind::Internal, message });
        }
        let memory = match parts.contains(&ArtifactKind::Optimizer) {
            true => match self.memory()? {
                Some(memory) => memory,
                None => return Ok(()),
            },
            false => Vec::new(),
        };
        let copy = StateCopy::take(&self.trainer, save, memory).map_err(internal)?;
        self.hand_up(Output::Copied(Arc::new(copy)));
        Ok(())
    }

    /// What the optimizer remembers; none where a part of it is gone with a member of the group, whom the coordinator misses
    /// as well.
    fn memory(&mut self) -> Result<Option<Vec<Vec<f32>>>, Failure> {
        if !self.trainer.is_cut() {
            let memory = self.trainer.memory().map_err(internal)?;
            return Ok(Some(memory.into_iter().map(Cow::into_owned).collect()));
        }
        let Some(group) = self.group.as_mut() else { return Ok(None) };
        let generation = group.generation;
        match self.trainer.gather_memory(group.collective.as_mut()) {
            Ok(memory) => Ok(Some(memory)),
            Err(GatherError::Collective(error @ CollectiveError::OutOfMemory { .. })) => {
                let message = format!("gather the optimizer's state: {error}: {LOWER}");
                Err(Failure { kind: FailureKind::Config, message })
            }
            Err(GatherError::Collective(error)) => self.disconnected(generation, &error).map(|()| None),
            Err(GatherError::Device(error)) => Err(device_failed("gather the optimizer's state", &error)),
        }
    }

    fn evaluate(&mut self, generation: Generation, split: Split, rows: Vec<Range<u32>>) -> Result<(), Failure> {
        let Some((group, examples)) = self.group.as_ref().zip(self.examples.get(&split)) else { return Ok(()) };
        let rows: Vec<RowId> = rows.into_iter().flatten().map(RowId).collect();
        for rows in rows.chunk_by(|row, next| row.0 / BLOCK_ROWS == next.0 / BLOCK_ROWS) {
            if group.switch.is_aborted() {
                return Ok(());
            }
            let predictions = self.trainer.predict(rows, examples).map_err(|error| match error {
                PredictError::Row(error) => data(error),
                PredictError::Device(error) => device_failed("evaluate", &error),
            })?;
            self.outputs.blocking_send(Output::Report(Event::Predicted { generation, split, predictions })).ok();
        }
        self.report(Event::Evaluated { generation, split });
        Ok(())
    }

    fn report(&self, event: Event) {
        self.trainer.peak_bytes().into_iter().for_each(memory::note_device);
        self.hand_up(Output::Report(event));
    }

    fn hand_up(&self, output: Output) {
        // A closed channel means that the worker is ending: the next look for orders ends this thread.
        self.outputs.blocking_send(output).ok();
    }
}

fn lengths(examples: &[Example]) -> Vec<u32> {
    examples.iter().map(|example| u32::try_from(example.len()).unwrap_or(u32::MAX)).collect()
}

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn internal(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Internal, message: error.to_string() }
}

/// What makes a worker need less memory.
const LOWER: &str = "lower --per_device_train_batch_size or --max_seq_length, or add --gradient_checkpointing";

/// A group that the device has no memory left for will have none the next time.
fn no_room(error: &CollectiveError) -> Failure {
    Failure { kind: FailureKind::Config, message: format!("join the group: {error}: {LOWER}") }
}

/// A device whose memory does not hold what is to be done, or that has failed in it.
fn device_failed(doing: &str, error: &DeviceError) -> Failure {
    match error {
        DeviceError::OutOfMemory { .. } => {
            Failure { kind: FailureKind::Config, message: format!("{doing}: {error}: {LOWER}") }
        }
        DeviceError::Failed { .. } => Failure { kind: FailureKind::Internal, message: format!("{doing}: {error}") },
    }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Shortage;

    /// Exit code 78 and what to lower, not that of a bad row or of a fault.
    #[test]
    fn a_device_without_memory_is_a_matter_of_settings() {
        let shortage = Shortage { asked: 5 << 20, free: Some(1 << 20), total: Some(4 << 20) };
        let failure = device_failed("evaluate", &DeviceError::OutOfMemory { shortage });
        assert_eq!(failure.kind, FailureKind::Config);
        let said =
            "evaluate: out of memory: 5 MiB were asked for, 1 of 4 MiB are free: lower --per_device_train_batch_size";
        assert!(failure.message.starts_with(said), "{}", failure.message);
        let unknown = Shortage { asked: 0, free: Some(1 << 20), total: Some(4 << 20) };
        assert_eq!(unknown.to_string(), "1 of 4 MiB are free");
        let broken = DeviceError::Failed { doing: "multiply matrices", problem: "it is gone".to_owned() };
        assert_eq!(device_failed("evaluate", &broken).kind, FailureKind::Internal);
    }
}
