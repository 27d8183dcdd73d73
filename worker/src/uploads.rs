//! Pieces of a kept state on their way to the coordinator.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use medley_common::identity::{Update, WorkerId};
use medley_common::message::{ArtifactKind, Event, Failure, FailureKind};
use medley_common::save::{Piece, SaveId};
use tokio::task::JoinHandle;

use crate::session::{Coordinator, Upload, UploadError};
use crate::state_copy::StateCopy;

/// Between two attempts to send a piece.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often a piece may arrive damaged.
const DAMAGED_ATTEMPTS: u32 = 3;

/// An order to send a piece.
#[derive(Debug, Clone, PartialEq)]
pub struct PieceOrder {
    /// The save.
    pub save: SaveId,
    /// The files.
    pub parts: Vec<ArtifactKind>,
    /// The piece of each of them.
    pub piece: Piece,
}

/// The pieces that a worker is to send in one session, one after the other, beside all else that it does.
#[derive(Debug, Default)]
pub struct Uploading {
    orders: VecDeque<PieceOrder>,
    task: Option<(SaveId, JoinHandle<Result<Event, Failure>>)>,
}

impl Uploading {
    /// A piece is to be sent, once the state is there.
    pub fn order(&mut self, order: PieceOrder) {
        self.orders.push_back(order);
    }

    /// Sends the next piece, if none is under way and `copy` is what is asked for.
    pub fn go_on(&mut self, coordinator: &Coordinator, worker: WorkerId, copy: Option<&Arc<StateCopy>>) {
        let Some(copy) = copy.filter(|_| self.task.is_none()) else { return };
        // Whatever is older was given up.
        self.orders.retain(|order| order.save.update >= copy.save().update);
        let is_next = |order: &mut PieceOrder| order.save.update == copy.save().update;
        let Some(order) = self.orders.pop_front_if(is_next) else { return };
        let (coordinator, copy) = (coordinator.clone(), Arc::clone(copy));
        self.task = Some((order.save, tokio::spawn(send(coordinator, worker, copy, order))));
    }

    /// Gives up what is of the state after `update` or an older one.
    pub fn forget(&mut self, update: Update) {
        self.orders.retain(|order| order.save.update > update);
        let task = self.task.take_if(|(save, _)| save.update <= update);
        task.into_iter().for_each(|(_, task)| task.abort());
    }

    /// What is to be said once a piece has arrived; never returns while none is under way. Safe to cancel.
    ///
    /// # Errors
    /// The piece could not be sent.
    pub async fn done(&mut self) -> Result<Event, Failure> {
        let Some((_, task)) = &mut self.task else { return std::future::pending().await };
        let done = task.await;
        self.task = None;
        done.unwrap_or_else(|error| Err(internal(error.to_string())))
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.task.take().into_iter().for_each(|(_, task)| task.abort());
    }
}

async fn send(
    coordinator: Coordinator,
    worker: WorkerId,
    copy: Arc<StateCopy>,
    order: PieceOrder,
) -> Result<Event, Failure> {
    let PieceOrder { save, parts, piece } = order;
    let hashed = Arc::clone(&copy);
    let hashing = tokio::task::spawn_blocking(move || hashed.digest());
    for kind in parts {
        let mut damaged = 0;
        loop {
            let upload = Upload { worker, save, kind, piece };
            match coordinator.upload(upload, &copy).await {
                Ok(()) => break,
                Err(UploadError::Damaged(error)) if damaged + 1 >= DAMAGED_ATTEMPTS => return Err(internal(error)),
                Err(UploadError::Damaged(_)) => damaged += 1,
                Err(UploadError::Refused(error)) => return Err(internal(error)),
                // The network was away, the coordinator is not ready yet, or has no use for it any more: in the end it
                // lets this copy go, or the session ends, and with either this task.
                Err(UploadError::Passing(_)) => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    let parameters = hashing.await.map_err(|error| internal(error.to_string()))?;
    Ok(Event::Saved { save, piece, parameters })
}

fn internal(message: String) -> Failure {
    Failure { kind: FailureKind::Internal, message }
}
