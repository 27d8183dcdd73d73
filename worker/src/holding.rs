//! What a worker holds from one session to the next: its engine, and what there is to say of it.

use std::collections::VecDeque;
use std::sync::Arc;

use medley_common::identity::{Digest, Generation, Update};
use medley_common::message::{Command, Event, Failure, FailureKind, Held, Lanes, UpdateReport};
use tokio::sync::mpsc;

use crate::engine::{self, EngineHandle, Output, Preparation};
use crate::state_copy::StateCopy;

/// Engine outputs that may wait for the network.
const QUEUED_OUTPUTS: usize = 256;
/// The most reports that are kept, whatever a coordinator asks for.
const MOST_REPORTS: u64 = 1024;

/// An engine, and what the coordinator may ask of it after a session has broken.
#[derive(Debug)]
pub struct Holding {
    engine: EngineHandle,
    outputs: mpsc::Receiver<Output>,
    window: usize,
    /// Whether the state is shared out among the group, and gone with it.
    is_sharded: bool,
    /// The layout's fingerprint and the collective's address, once the model is built.
    prepared: Option<(Digest, String)>,
    /// The newest group of the ledger on whose line the state lies.
    line: Generation,
    /// The group that is being connected, and the line of the state that it starts from.
    forming: Option<(Generation, Generation)>,
    /// The last reports, as many as the ledger may not have.
    reports: VecDeque<UpdateReport>,
    /// The copy of a state that is kept until it is saved.
    copy: Option<Arc<StateCopy>>,
    /// The update whose copy the engine was asked for, unless it is needed no more.
    copying: Option<Update>,
    /// Where the engine stands while there is no session.
    position: Option<(Update, Lanes)>,
}

impl Holding {
    /// Starts an engine.
    #[must_use]
    pub fn start(preparation: Preparation) -> Self {
        let (window, is_sharded) = (preparation.welcome.window, preparation.welcome.shard_optimizer_state);
        let (sender, outputs) = mpsc::channel(QUEUED_OUTPUTS);
        Self {
            engine: engine::spawn(preparation, sender),
            outputs,
            window: usize::try_from(window.min(MOST_REPORTS)).unwrap_or(0),
            is_sharded,
            prepared: None,
            line: Generation(0),
            forming: None,
            reports: VecDeque::new(),
            copy: None,
            copying: None,
            position: None,
        }
    }

    /// Goes on in another session.
    pub fn reattach(&mut self) {
        self.position = None;
    }

    /// Passes an order down.
    ///
    /// # Errors
    /// The system has no file descriptors left for a new group.
    pub fn order(&mut self, command: Command) -> std::io::Result<()> {
        match &command {
            Command::Form(form) => self.forming = Some((form.generation, form.line)),
            // A second piece of what is kept, or about to be.
            Command::Save { save, .. } if self.copying == Some(save.update) => return Ok(()),
            Command::Save { save, .. } => {
                // One copy at a time.
                self.copy = None;
                self.copying = Some(save.update);
            }
            // Only a group of the ledger is given work.
            command => self.line = command.work_of().unwrap_or(self.line),
        }
        self.engine.order(command)
    }

    /// The copy of a state that is kept.
    #[must_use]
    pub fn copy(&self) -> Option<&Arc<StateCopy>> {
        self.copy.as_ref()
    }

    /// Lets the copy of the state after `update` go, or an older one.
    pub fn forget(&mut self, update: Update) {
        self.copying = self.copying.filter(|copying| *copying > update);
        self.copy = self.copy.take().filter(|copy| copy.save().update > update);
    }

    /// Waits for the next thing that the engine hands up. Safe to cancel.
    pub async fn output(&mut self) -> Output {
        let output = self.outputs.recv().await.unwrap_or_else(|| Output::Failed(crashed()));
        self.note(&output);
        output
    }

    /// Pulls the engine out of its group, and waits until it stands still.
    ///
    /// # Errors
    /// The engine has failed.
    pub async fn detach(&mut self) -> Result<(), Failure> {
        if self.position.is_none() {
            self.engine.detach();
        }
        while self.position.is_none() {
            if let Output::Failed(failure) = self.output().await {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// What to tell a coordinator; `None` before the engine stands still with a built model, and where it had but a shard
    /// of the state.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        let (layout, endpoint) = self.prepared.clone().filter(|_| !self.is_sharded)?;
        let (update, kept) = self.position.clone()?;
        let reports = self.reports.iter().cloned().collect();
        let copy = self.copy.as_ref().map(|copy| copy.save());
        Some(Held { layout, endpoint, generation: self.line, update, kept, reports, copy })
    }

    /// Ends the engine and waits until what it held is free.
    pub async fn end(self) {
        let Self { engine, outputs, .. } = self;
        drop(outputs);
        // Nothing is left to be said where the wait itself fails.
        tokio::task::spawn_blocking(move || engine.end()).await.ok();
    }

    fn note(&mut self, output: &Output) {
        match output {
            Output::Report(Event::Updated { report, .. }) => {
                self.reports.push_back(report.clone());
                let surplus = self.reports.len().saturating_sub(self.window);
                self.reports.drain(..surplus);
            }
            Output::Report(Event::Prepared { layout, endpoint, .. }) => {
                self.prepared = Some((*layout, endpoint.clone()));
            }
            // Whatever it held before, it now holds what the group starts from.
            Output::Report(Event::Formed { generation }) => {
                let forming = self.forming.filter(|(forming, _)| forming == generation);
                self.line = forming.map_or(self.line, |(_, line)| line);
            }
            Output::Detached { update, kept } => self.position = Some((*update, kept.clone())),
            Output::Copied(copy) if self.copying == Some(copy.save().update) => self.copy = Some(Arc::clone(copy)),
            Output::Report(_) | Output::Note(_) | Output::Copied(_) | Output::Failed(_) => {}
        }
    }
}

fn crashed() -> Failure {
    let message = "the engine thread panicked; its message stands in this worker's standard error".to_owned();
    Failure { kind: FailureKind::Internal, message }
}
