//! What operators order, as inputs of the run.

use super::{Driver, Ties};
use crate::run::Input;
use crate::service::Order;

impl Driver {
    /// An operator at `who` orders; said aloud, so that nobody wonders afterwards.
    pub(super) fn ordered(&self, order: Order, who: &str, ties: &mut Ties) -> Vec<Input> {
        match order {
            // Asked twice is asked once: only who says so ends it at once.
            Order::Stop { at_once: false } if ties.stopping => Vec::new(),
            Order::Stop { at_once } => {
                let how = if at_once { ", at once" } else { "" };
                self.display.line(&format!("an operator at {who} ends the run{how}"));
                let first = (!std::mem::replace(&mut ties.stopping, true)).then_some(Input::StopRequested);
                first.into_iter().chain(at_once.then_some(Input::StopAtOnce)).collect()
            }
            Order::Checkpoint => {
                self.display.line(&format!("an operator at {who} asks for a checkpoint"));
                vec![Input::CheckpointRequested]
            }
            Order::Drain(worker) => {
                self.display.line(&format!("an operator at {who} has worker {worker} leave"));
                vec![Input::DrainRequested(worker)]
            }
        }
    }
}
