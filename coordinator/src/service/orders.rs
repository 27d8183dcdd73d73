//! The operators' service: orders to the run, each by its meaning, none by a path or a command.

use medley_common::identity::WorkerId;
use medley_proto::details::refusal;
use medley_proto::v1;
use medley_proto::v1::operator_service_server::OperatorService;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Request, Response, Status};

use super::Arrival;
use crate::access::Standing;

/// What an operator orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// End the run.
    Stop {
        /// Without saving what is under way.
        at_once: bool,
    },
    /// Save the state.
    Checkpoint,
    /// Have a worker leave.
    Drain(WorkerId),
}

/// Hands orders to the driver.
#[derive(Debug, Clone)]
pub struct Orders {
    arrivals: mpsc::Sender<Arrival>,
    status: watch::Receiver<v1::Status>,
}

impl Orders {
    /// Hands orders to `arrivals`; answers by `status`.
    #[must_use]
    pub fn new(arrivals: mpsc::Sender<Arrival>, status: watch::Receiver<v1::Status>) -> Self {
        Self { arrivals, status }
    }

    /// Gives an order; returns the updates done.
    async fn give<T>(&self, order: Order, request: &Request<T>) -> Result<u64, Status> {
        let update = {
            let status = self.status.borrow();
            if !status.outcome.is_empty() {
                return Err(over(&status.outcome));
            }
            status.update
        };
        let who = request.extensions().get::<Standing>().map(Standing::peer).unwrap_or_default();
        self.arrivals.send(Arrival::Ordered(order, who)).await.map_err(|_| over("it has ended"))?;
        Ok(update)
    }
}

fn over(outcome: &str) -> Status {
    refusal(Code::FailedPrecondition, format!("the run is over: {outcome}"), "RUN_OVER", ("outcome", outcome))
}

#[tonic::async_trait]
impl OperatorService for Orders {
    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::StopResponse>, Status> {
        let at_once = request.get_ref().at_once;
        let update = self.give(Order::Stop { at_once }, &request).await?;
        Ok(Response::new(v1::StopResponse { update }))
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        let (update, total) = {
            let status = self.status.borrow();
            (status.update, status.total_updates)
        };
        if update == 0 || total == 0 {
            let message = "nothing is trained yet that could be saved".to_owned();
            return Err(refusal(Code::FailedPrecondition, message, "NOTHING_TO_SAVE", ("update", &update.to_string())));
        }
        let update = self.give(Order::Checkpoint, &request).await?;
        Ok(Response::new(v1::CheckpointResponse { update }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let worker = request.get_ref().worker;
        let known: Vec<String> = self.status.borrow().workers.iter().map(|it| it.worker.to_string()).collect();
        let number = worker.to_string();
        if !known.contains(&number) {
            let message = match known.join(", ") {
                there if there.is_empty() => format!("there is no worker {worker}, nor any other at present"),
                there => format!("there is no worker {worker}; there are {there}"),
            };
            return Err(refusal(Code::NotFound, message, "NO_SUCH_WORKER", ("worker", &number)));
        }
        let update = self.give(Order::Drain(WorkerId(worker)), &request).await?;
        Ok(Response::new(v1::DrainResponse { update }))
    }
}
