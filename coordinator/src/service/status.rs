//! The status service: whoever asks sees the run as the driver last saw it.

use std::pin::Pin;
use std::time::Duration;

use medley_proto::v1;
use medley_proto::v1::status_service_server::StatusService;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

/// The least time between two messages of a watch.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Serves what the driver publishes; never asks the run, so it never delays it.
#[derive(Debug, Clone)]
pub struct StatusFeed {
    status: watch::Receiver<v1::Status>,
}

impl StatusFeed {
    /// Serves the values of `status`.
    #[must_use]
    pub fn new(status: watch::Receiver<v1::Status>) -> Self {
        Self { status }
    }
}

#[tonic::async_trait]
impl StatusService for StatusFeed {
    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send>>;

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(v1::GetStatusResponse { status: Some(self.status.borrow().clone()) }))
    }

    async fn watch_status(
        &self,
        _request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let (messages, stream) = mpsc::channel(1);
        tokio::spawn(watch(self.status.clone(), messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Sends the status at once and after every change, until the watcher hangs up or the run ends.
async fn watch(
    mut status: watch::Receiver<v1::Status>,
    messages: mpsc::Sender<Result<v1::WatchStatusResponse, Status>>,
) {
    loop {
        let now = status.borrow_and_update().clone();
        let over = !now.outcome.is_empty();
        if messages.send(Ok(v1::WatchStatusResponse { status: Some(now) })).await.is_err() || over {
            return;
        }
        // Not a wait for something to happen: a bound on how often a watcher is told.
        tokio::time::sleep(WATCH_PAUSE).await;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = messages.closed() => return,
        }
    }
}
