//! One worker's session: its events go to the driver, the driver's commands to it.

use std::time::Instant;

use medley_common::identity::WorkerId;
use medley_common::message::Event;
use medley_proto::details::refusal;
use medley_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming};

use super::Arrival;
use super::passes::{Issued, Passes};
use crate::access::Bucket;
use crate::access::limits::EVENTS_PER_SECOND;

/// Commands that may wait for a worker. A run orders few; a worker that reads none is as good as dead.
const QUEUED_COMMANDS: usize = 64;

/// Announces the worker and starts to forward its events, which takes its `place` and its pass for as long; the returned
/// stream carries its commands, and notes in `passes` what they order.
///
/// # Errors
/// The run is over.
pub async fn open(
    worker: WorkerId,
    events: Streaming<v1::SessionRequest>,
    arrivals: mpsc::Sender<Arrival>,
    (place, issued, passes): (OwnedSemaphorePermit, Issued, Passes),
) -> Result<impl Stream<Item = Result<v1::SessionResponse, Status>>, Status> {
    let (commands, outbound) = mpsc::channel(QUEUED_COMMANDS);
    arrivals.send(Arrival::Joined(worker, commands)).await.map_err(|_| over())?;
    tokio::spawn(async move {
        forward(worker, events, arrivals).await;
        drop((place, issued));
    });
    Ok(ReceiverStream::new(outbound).map(move |command| {
        // Before it is sent: what it orders may come at once.
        passes.note(worker, &command);
        Ok(v1::SessionResponse::from(command))
    }))
}

fn over() -> Status {
    refusal(Code::Unavailable, "the run is over".to_owned(), "RUN_OVER", ("service", "medley.v1.WorkerService"))
}

/// Forwards events until the stream ends; then says that the worker has left. Ends with the run.
async fn forward(worker: WorkerId, mut events: Streaming<v1::SessionRequest>, arrivals: mpsc::Sender<Arrival>) {
    let mut pace = Bucket::new(EVENTS_PER_SECOND, EVENTS_PER_SECOND, Instant::now());
    let why = loop {
        // One that says too much waits; the others do not wait for it.
        if let Err(wait) = pace.take(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        match events.message().await {
            Ok(Some(message)) => match Event::try_from(message) {
                Ok(event) => {
                    if arrivals.send(Arrival::From(worker, event)).await.is_err() {
                        return;
                    }
                }
                Err(error) => break error.to_string(),
            },
            Ok(None) => break "it closed its session".to_owned(),
            Err(status) => break format!("its connection broke: {}", status.message()),
        }
    };
    // A closed channel means that the run is over: nobody is left to be told.
    arrivals.send(Arrival::Left(worker, why)).await.ok();
}
