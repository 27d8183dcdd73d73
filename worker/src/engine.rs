//! The one thread that owns the model, the optimizer and the collective.
//!
//! Orders come in by a channel and outputs go out by one; the async side never touches what computes. The thread makes
//! updates as far as it is allowed to and looks for orders between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::mpsc as orders;

use medley_common::example::Example;
use medley_common::identity::{Digest, Generation, Split, Update};
use medley_common::message::{ArtifactKind, Command, Event, Failure, FailureKind, Form, Welcome};
use medley_common::plan::{Plan, evaluation_shards};
use tokio::sync::mpsc;

use crate::collective::{Collective, CollectiveError, Connect, Listener};
use crate::device::{Place, Work};
use crate::layout::Layout;
use crate::ops::Ops;
use crate::trainer::{StepError, Trainer};
use crate::weights::{self, Loaded};

/// Names of tensors that a note lists.
const SHOWN_NAMES: usize = 8;
/// Rows of an evaluation that are reported at once.
const REPORTED_ROWS: usize = 512;

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
}

/// What the engine hands up.
#[derive(Debug)]
pub enum Output {
    /// An event for the coordinator.
    Report(Event),
    /// The state after an update; `files` are to be uploaded first, by rank 0 alone.
    Saved {
        /// The group.
        generation: Generation,
        /// Updates done.
        update: Update,
        /// Digest of the parameters.
        parameters: Digest,
        /// The files of the state; empty on other ranks.
        files: Vec<(ArtifactKind, Vec<u8>)>,
    },
    /// The engine cannot go on and has ended.
    Failed(Failure),
}

/// Gives orders to the engine's thread.
#[derive(Debug)]
pub struct EngineHandle {
    orders: orders::Sender<Command>,
}

impl EngineHandle {
    /// Queues an order; an engine that has ended ignores it, having handed up why.
    pub fn order(&self, command: Command) {
        self.orders.send(command).ok();
    }
}

/// Starts the engine's thread. The end of `outputs` without a failure means that it panicked.
#[must_use]
pub fn spawn(preparation: Preparation, outputs: mpsc::Sender<Output>) -> EngineHandle {
    let (sender, receiver) = orders::channel();
    std::thread::spawn(move || {
        let (place, compute) = (preparation.place.clone(), preparation.welcome.spec.compute);
        let start = Start { preparation, orders: receiver, outputs: outputs.clone() };
        let result = place.compute(compute, start);
        if let Err(failure) = result {
            // A closed channel means that the worker is ending anyway.
            outputs.blocking_send(Output::Failed(failure)).ok();
        }
    });
    EngineHandle { orders: sender }
}

/// What an engine starts from, on whatever device.
struct Start {
    preparation: Preparation,
    orders: orders::Receiver<Command>,
    outputs: mpsc::Sender<Output>,
}

impl Work for Start {
    fn run<O: Ops>(self, ops: O, connect: Connect<O::Buffer>) -> Result<(), Failure> {
        Engine::prepare(ops, connect, self)?.serve()
    }
}

struct Engine<O: Ops> {
    orders: orders::Receiver<Command>,
    outputs: mpsc::Sender<Output>,
    layout: Layout,
    trainer: Trainer<O>,
    connect: Connect<O::Buffer>,
    plan: Plan,
    total: Update,
    examples: BTreeMap<Split, Vec<Example>>,
    listener: Listener,
    group: Option<Group<O::Buffer>>,
}

/// The group this worker is a member of.
struct Group<B> {
    generation: Generation,
    lanes: Range<u32>,
    collective: Box<dyn Collective<B>>,
    /// The last update that may be made.
    through: Update,
}

impl<O: Ops> Engine<O> {
    fn prepare(ops: O, connect: Connect<O::Buffer>, start: Start) -> Result<Self, Failure> {
        let Start { preparation, orders, outputs } = start;
        let Preparation { welcome, examples, mut artifacts, collective, place: _ } = preparation;
        let layout = Layout::new(&welcome.model);
        let mut notes = Vec::new();
        let parameters = match artifacts.remove(&ArtifactKind::Weights) {
            Some((name, bytes)) => {
                let loaded = weights::read(&name, bytes, &layout, &welcome.model, welcome.spec.seed).map_err(data)?;
                notes = weights_notes(&name, &loaded);
                loaded.parameters
            }
            None => weights::initialise(&layout, &welcome.model, welcome.spec.seed),
        };
        let lengths = examples.get(&Split::Train).map_or_else(Vec::new, |rows| lengths(rows));
        let plan = Plan::new(&welcome.spec, lengths);
        let total = Update(welcome.spec.schedule.total_updates);
        let mut trainer = Trainer::new(ops, welcome.model, welcome.spec, parameters).map_err(config)?;
        if let Some((_, bytes)) = artifacts.remove(&ArtifactKind::Optimizer) {
            let moments = weights::read_moments(&bytes, &layout).map_err(data)?;
            if moments.update != welcome.start {
                let (found, start) = (moments.update, welcome.start);
                let message = format!("the optimizer's state is of update {found}; expected {start}");
                return Err(Failure { kind: FailureKind::Data, message });
            }
            if let Some(scale) = moments.loss_scale {
                trainer.restore_loss_scale(scale);
            }
            trainer.restore([moments.exp_avg, moments.exp_avg_sq], welcome.start).map_err(data)?;
        }
        let listener = Listener::bind(collective).map_err(config)?;
        let prepared = Event::Prepared { layout: layout.fingerprint(), endpoint: listener.endpoint(), notes };
        let engine = Self { orders, outputs, layout, trainer, connect, plan, total, examples, listener, group: None };
        engine.report(prepared);
        Ok(engine)
    }

    /// Follows orders until the agent hangs up.
    fn serve(mut self) -> Result<(), Failure> {
        loop {
            let command = if self.may_go_on() {
                match self.orders.try_recv() {
                    Ok(command) => Some(command),
                    Err(orders::TryRecvError::Empty) => None,
                    Err(orders::TryRecvError::Disconnected) => return Ok(()),
                }
            } else {
                match self.orders.recv() {
                    Ok(command) => Some(command),
                    Err(orders::RecvError) => return Ok(()),
                }
            };
            match command {
                Some(command) => self.obey(command)?,
                None => self.step()?,
            }
        }
    }

    fn may_go_on(&self) -> bool {
        self.group.as_ref().is_some_and(|group| self.trainer.update() < group.through.min(self.total))
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Form(form) => self.form(&form),
            Command::Train { generation, through } => {
                if let Some(group) = self.member_of(generation) {
                    group.through = through;
                }
                Ok(())
            }
            Command::Save { generation, update, parts } if self.member_of(generation).is_some() => {
                self.save(generation, update, &parts)
            }
            Command::Evaluate { generation, split } if self.member_of(generation).is_some() => {
                self.evaluate(generation, split)
            }
            // Orders of a group that is gone (INV-2), and those that the agent keeps to itself.
            Command::Save { .. } | Command::Evaluate { .. } | Command::Welcome(_) | Command::Stop { .. } => Ok(()),
        }
    }

    fn member_of(&mut self, generation: Generation) -> Option<&mut Group<O::Buffer>> {
        self.group.as_mut().filter(|group| group.generation == generation)
    }

    fn form(&mut self, form: &Form) -> Result<(), Failure> {
        self.group = None;
        let collective = (self.connect)(&self.listener, form, &self.layout).map_err(lost)?;
        let lanes = form.lanes.get(form.rank.0 as usize).cloned().unwrap_or_default();
        let through = self.trainer.update();
        self.group = Some(Group { generation: form.generation, lanes, collective, through });
        self.report(Event::Formed { generation: form.generation });
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        let Some(group) = self.group.as_mut() else { return Ok(()) };
        let Some(examples) = self.examples.get(&Split::Train) else { return Ok(()) };
        let plan = self.plan.update(self.trainer.update().next());
        let report =
            self.trainer.step(&plan, group.lanes.clone(), examples, group.collective.as_mut()).map_err(step_failure)?;
        let generation = group.generation;
        self.report(Event::Updated { generation, report });
        Ok(())
    }

    fn save(&mut self, generation: Generation, update: Update, parts: &[ArtifactKind]) -> Result<(), Failure> {
        if self.trainer.update() != update {
            let message = format!("asked to save update {update}, but {} are made", self.trainer.update());
            return Err(Failure { kind: FailureKind::Internal, message });
        }
        let parameters = self.trainer.parameters().map_err(internal)?;
        let digest = weights::digest(&parameters);
        let is_first = self.group.as_ref().is_some_and(|group| group.collective.rank().0 == 0);
        let mut files = Vec::new();
        if is_first {
            for part in parts {
                let file = match part {
                    ArtifactKind::Weights => weights::write_model(&parameters, &self.layout).map(|file| file.to_vec()),
                    ArtifactKind::Optimizer => {
                        let [first, second] = self.trainer.moments().map_err(internal)?;
                        let position = (update, self.trainer.loss_scale());
                        weights::write_moments(&first, &second, position, &self.layout).map(|file| file.to_vec())
                    }
                };
                files.push((*part, file.map_err(internal)?));
            }
        }
        self.hand_up(Output::Saved { generation, update, parameters: digest, files });
        Ok(())
    }

    fn evaluate(&mut self, generation: Generation, split: Split) -> Result<(), Failure> {
        let Some((group, examples)) = self.group.as_ref().zip(self.examples.get(&split)) else { return Ok(()) };
        let (rank, world) = (group.collective.rank(), group.collective.world());
        let shards = evaluation_shards(&lengths(examples), world);
        let rows: Vec<_> = shards[rank.0 as usize].clone().map(medley_common::identity::RowId).collect();
        for rows in rows.chunks(REPORTED_ROWS) {
            let predictions = self.trainer.predict(rows, examples).map_err(data)?;
            self.outputs.blocking_send(Output::Report(Event::Predicted { generation, split, predictions })).ok();
        }
        self.report(Event::Evaluated { generation, split });
        Ok(())
    }

    fn report(&self, event: Event) {
        self.hand_up(Output::Report(event));
    }

    fn hand_up(&self, output: Output) {
        // A closed channel means that the worker is ending: the next look for orders ends this thread.
        self.outputs.blocking_send(output).ok();
    }
}

/// What a person should know of weights that are fit to start from.
fn weights_notes(file_name: &str, loaded: &Loaded) -> Vec<String> {
    let listed = |names: &[String]| {
        let rest = names.len().saturating_sub(SHOWN_NAMES);
        let shown = names[..names.len() - rest].join(", ");
        if rest > 0 { format!("{shown} and {rest} more") } else { shown }
    };
    let new = (!loaded.initialised.is_empty()).then(|| {
        format!("warning: not in {file_name}, so drawn anew and to be trained: {}", listed(&loaded.initialised))
    });
    let ignored = (!loaded.ignored.is_empty())
        .then(|| format!("note: in {file_name}, but of no use here: {}", listed(&loaded.ignored)));
    new.into_iter().chain(ignored).collect()
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

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}

fn lost(error: CollectiveError) -> Failure {
    Failure { kind: FailureKind::Lost, message: error.to_string() }
}

fn step_failure(error: StepError) -> Failure {
    match error {
        StepError::Collective(error) => lost(error),
        error => Failure { kind: FailureKind::Internal, message: error.to_string() },
    }
}
