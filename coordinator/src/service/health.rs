//! `grpc.health.v1`: whether the coordinator takes calls. Not whether training goes well: a probe that fails for that
//! would have a job restarted that only waits.

use std::pin::Pin;

use medley_proto::details::refusal;
use medley_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// What may be asked for: the coordinator as a whole, and its services.
const NAMES: [&str; 4] = ["", "medley.v1.WorkerService", "medley.v1.StatusService", "medley.v1.OperatorService"];

/// Serves from what the driver publishes; its watches end with the run.
#[derive(Debug, Clone)]
pub struct HealthFeed {
    status: watch::Receiver<v1::Status>,
}

impl HealthFeed {
    /// Serves what follows from `status`.
    #[must_use]
    pub fn new(status: watch::Receiver<v1::Status>) -> Self {
        Self { status }
    }
}

/// Whether calls are taken: from when the run waits for workers until it stops or ends.
#[must_use]
pub fn is_serving(status: &v1::Status) -> bool {
    status.phase() != v1::Phase::Unspecified && !status.stopping && status.outcome.is_empty()
}

fn answer(name: &str, status: &v1::Status) -> ServingStatus {
    match (NAMES.contains(&name), is_serving(status)) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl Health for HealthFeed {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match answer(&request.get_ref().service, &self.status.borrow()) {
            ServingStatus::ServiceUnknown => {
                let names = NAMES[1..].join(", ");
                let message = format!("there is no service of that name; there are {names}");
                Err(refusal(Code::NotFound, message, "NO_SUCH_SERVICE", ("services", &names)))
            }
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (messages, stream) = mpsc::channel(1);
        tokio::spawn(watch(request.into_inner().service, self.status.clone(), messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Sends the answer at once and whenever it changes, until the watcher hangs up or the run ends.
async fn watch(
    name: String,
    mut status: watch::Receiver<v1::Status>,
    messages: mpsc::Sender<Result<HealthCheckResponse, Status>>,
) {
    let mut told = None;
    loop {
        let (now, over) = {
            let status = status.borrow_and_update();
            (answer(&name, &status), !status.outcome.is_empty())
        };
        if told != Some(now) && messages.send(Ok(HealthCheckResponse { status: now.into() })).await.is_err() {
            return;
        }
        told = Some(now);
        if over {
            return;
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = messages.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    fn running() -> v1::Status {
        v1::Status { phase: v1::Phase::Training.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_watch_sees_the_end_come_and_ends_with_the_run() {
        let (sender, status) = watch::channel(v1::Status::default());
        let feed = HealthFeed::new(status);
        let ask = |service: &str| Request::new(HealthCheckRequest { service: service.to_owned() });
        assert_eq!(feed.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
        sender.send_replace(running());
        assert_eq!(feed.check(ask(NAMES[1])).await.unwrap().into_inner().status(), ServingStatus::Serving);
        assert_eq!(feed.check(ask("else")).await.unwrap_err().code(), tonic::Code::NotFound);
        let mut watch = feed.watch(ask("")).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        sender.send_replace(v1::Status { update: 1, ..running() });
        sender.send_replace(v1::Status { stopping: true, ..running() });
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        sender.send_replace(v1::Status { stopping: true, outcome: "stopped".to_owned(), ..running() });
        assert!(watch.next().await.is_none());
    }
}
