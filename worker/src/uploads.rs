//! Files on their way to the coordinator.

use medley_common::identity::WorkerId;
use medley_common::message::{Event, Failure, FailureKind};
use tokio::task::JoinHandle;

use crate::engine::Saved;
use crate::session::{Coordinator, Upload};

/// The files of a saved state on their way to the coordinator, beside all else that a worker does.
#[derive(Debug, Default)]
pub struct Uploading {
    task: Option<JoinHandle<Result<Event, Failure>>>,
}

impl Uploading {
    /// Begins to send; what was under way is given up.
    pub fn start(&mut self, coordinator: &Coordinator, worker: WorkerId, saved: Saved) {
        let coordinator = coordinator.clone();
        self.cancel();
        self.task = Some(tokio::spawn(async move {
            let Saved { generation, update, parameters, files } = saved;
            for (kind, bytes) in files {
                let upload = Upload { worker, generation, update, kind, bytes };
                let sent = coordinator.upload(upload).await;
                sent.map_err(|error| Failure { kind: FailureKind::Internal, message: error.to_string() })?;
            }
            Ok(Event::Saved { generation, update, parameters })
        }));
    }

    /// Gives up what is under way.
    pub fn cancel(&mut self) {
        self.task.take().into_iter().for_each(|task| task.abort());
    }

    /// What is to be said once all files have arrived; never returns while there are none. Safe to cancel.
    ///
    /// # Errors
    /// A file could not be sent.
    pub async fn done(&mut self) -> Result<Event, Failure> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let done = task.await;
        self.task = None;
        done.unwrap_or_else(|error| Err(Failure { kind: FailureKind::Internal, message: error.to_string() }))
    }
}
