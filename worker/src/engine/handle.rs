//! Orders for the engine's thread.

use std::sync::mpsc;
use std::thread::JoinHandle;

use medley_common::identity::Generation;
use medley_common::message::Command;

use crate::collective::AbortSwitch;

/// Gives orders to the engine's thread.
#[derive(Debug)]
pub struct EngineHandle {
    pub(super) orders: mpsc::Sender<Order>,
    /// Pulls the engine out of the newest group, whatever it is doing there.
    pub(super) switch: Option<(Generation, AbortSwitch)>,
    pub(super) thread: JoinHandle<()>,
}

/// What the engine's thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Obey the coordinator; with the switch of the group that the command forms.
    Obey(Command, Option<AbortSwitch>),
    /// Leave the group, whichever it is: the coordinator is lost.
    Detach,
}

impl EngineHandle {
    /// Queues an order; an engine that has ended ignores it, having handed up why.
    ///
    /// # Errors
    /// The system has no file descriptors left for a new group.
    pub fn order(&mut self, command: Command) -> std::io::Result<()> {
        let mut switch = None;
        match &command {
            // Made here and not by the engine, so that a group can be dissolved before it is formed.
            Command::Form(form) => {
                let new = AbortSwitch::new()?;
                self.switch = Some((form.generation, new.clone()));
                switch = Some(new);
            }
            Command::Disband { generation } => {
                let current = self.switch.as_ref().filter(|(known, _)| known == generation);
                current.into_iter().for_each(|(_, switch)| switch.abort());
            }
            Command::Welcome(_) | Command::Reattach { .. } | Command::Train { .. } | Command::Save { .. } => {}
            Command::Evaluate { .. } | Command::Forget { .. } | Command::Stop { .. } => {}
        }
        self.orders.send(Order::Obey(command, switch)).ok();
        Ok(())
    }

    /// Pulls the engine out of its group; it answers [`Output::Detached`](super::Output::Detached), and keeps all that it holds.
    pub fn detach(&mut self) {
        self.switch.take().into_iter().for_each(|(_, switch)| switch.abort());
        self.orders.send(Order::Detach).ok();
    }

    /// Ends the engine and waits until what it held is free.
    pub fn end(mut self) {
        self.detach();
        let Self { orders, thread, .. } = self;
        drop(orders);
        // One that has panicked holds nothing any more.
        thread.join().ok();
    }
}
