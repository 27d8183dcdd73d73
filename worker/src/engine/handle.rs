//! Orders for the engine's thread.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use medley_common::identity::Generation;
use medley_common::message::{Command, Form, Token};

use crate::collective::AbortSwitch;

/// Gives orders to the engine's thread.
#[derive(Debug)]
pub struct EngineHandle {
    orders: mpsc::Sender<Order>,
    newest: Option<Reins>,
    thread: JoinHandle<()>,
}

/// What reaches the engine in the newest group, whatever it is doing there.
#[derive(Debug)]
struct Reins {
    generation: Generation,
    /// Pulls it out.
    switch: AbortSwitch,
    /// Brings it the group's token.
    token: SyncSender<Token>,
}

/// The engine's end of a group's reins.
#[derive(Debug)]
pub(super) struct Bridle {
    pub(super) switch: AbortSwitch,
    pub(super) told: Receiver<Token>,
}

/// What the engine's thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Become a member of a new group.
    Form(Form, Bridle),
    /// Obey the coordinator in all else.
    Obey(Command),
    /// Leave the group, whichever it is: the coordinator is lost.
    Detach,
}

impl EngineHandle {
    pub(super) fn new(orders: mpsc::Sender<Order>, thread: JoinHandle<()>) -> Self {
        Self { orders, newest: None, thread }
    }

    /// Queues an order; an engine that has ended ignores it, having handed up why.
    ///
    /// # Errors
    /// The system has no file descriptors left for a new group.
    pub fn order(&mut self, command: Command) -> std::io::Result<()> {
        let order = match command {
            // Made here and not by the engine, so that a group can be dissolved, and its token come, before it is formed.
            Command::Form(form) => {
                let (switch, (token, told)) = (AbortSwitch::new()?, mpsc::sync_channel(1));
                self.newest = Some(Reins { generation: form.generation, switch: switch.clone(), token });
                Order::Form(form, Bridle { switch, told })
            }
            // Past the queue: the engine waits for it in the midst of an order.
            Command::Token { generation, token } => {
                // A second one, or one that the engine does not wait for any more, goes nowhere.
                if let Some(reins) = self.reins(generation) {
                    reins.token.try_send(token).ok();
                }
                return Ok(());
            }
            Command::Disband { generation } => {
                self.reins(generation).into_iter().for_each(|reins| reins.switch.abort());
                Order::Obey(command)
            }
            Command::Welcome(_) | Command::Reattach { .. } | Command::Train { .. } | Command::Save { .. } => {
                Order::Obey(command)
            }
            Command::Evaluate { .. } | Command::Forget { .. } | Command::Stop { .. } => Order::Obey(command),
        };
        self.orders.send(order).ok();
        Ok(())
    }

    /// Pulls the engine out of its group; it answers [`Output::Detached`](super::Output::Detached), and keeps all that it holds.
    pub fn detach(&mut self) {
        self.newest.take().into_iter().for_each(|reins| reins.switch.abort());
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

    /// The reins of the newest group, if that is the one that is meant.
    fn reins(&self, generation: Generation) -> Option<&Reins> {
        self.newest.as_ref().filter(|reins| reins.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    use medley_common::identity::{Rank, Update};
    use medley_common::secret::Secret;

    use super::*;

    fn form(generation: u64) -> Command {
        Command::Form(Form {
            generation: Generation(generation),
            rank: Rank(1),
            peers: vec![String::new(); 2],
            secret: Secret([0; 32]),
            lanes: vec![vec![0..1], vec![1..2]],
            update: Update(0),
            line: Generation(0),
            source: None,
        })
    }

    #[test]
    fn a_token_comes_to_its_own_group_once() {
        let (sender, orders) = mpsc::channel();
        let mut handle = EngineHandle::new(sender, std::thread::spawn(|| {}));
        let token = |byte| Token::new(vec![byte; 128]).unwrap();
        let tell = |generation, byte| Command::Token { generation: Generation(generation), token: token(byte) };
        let bridle = |order| match order {
            Ok(Order::Form(_, bridle)) => bridle,
            other => panic!("{other:?}"),
        };
        handle.order(form(1)).unwrap();
        let first = bridle(orders.try_recv());
        handle.order(form(2)).unwrap();
        let second = bridle(orders.try_recv());
        for (generation, byte) in [(1, 1), (3, 3), (2, 2), (2, 4)] {
            handle.order(tell(generation, byte)).unwrap();
        }
        assert!(orders.try_recv().is_err(), "past the queue");
        assert!(first.told.try_recv().is_err());
        assert_eq!(second.told.try_recv(), Ok(token(2)));
        assert!(second.told.try_recv().is_err(), "the one that came first counts");
        handle.detach();
        handle.order(tell(2, 5)).unwrap();
        assert_eq!(second.told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        assert!(second.switch.is_aborted());
        handle.end();
    }
}
