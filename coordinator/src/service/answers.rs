//! How many answers may be on their way at once. One that nobody takes in is kept in memory for as long as its connection
//! stands, so those who only look have so many in all, and those who have shown nothing others. What workers ask for and
//! operators order is not held up by them, and has limits of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use medley_proto::details::refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use crate::access::limits::{ANSWERS, HEALTH_ANSWERS};

/// Who asks these has a token that is trusted, or is sent away.
const TRUSTED: [&str; 2] = ["/medley.v1.WorkerService/", "/medley.v1.OperatorService/"];
/// Who asks these may have shown nothing.
const HEALTH: &str = "/grpc.health.";

/// Room for the answers to those who look.
#[derive(Debug, Clone)]
pub struct Answers {
    looks: Arc<Semaphore>,
    health: Arc<Semaphore>,
}

/// An answer that takes up room until it is taken in, or its connection ends.
struct Held {
    body: Body,
    _room: OwnedSemaphorePermit,
}

impl Answers {
    /// Room for as many as the limits say.
    #[must_use]
    pub fn new() -> Self {
        Self { looks: Arc::new(Semaphore::new(ANSWERS)), health: Arc::new(Semaphore::new(HEALTH_ANSWERS)) }
    }

    /// Has a call answered where there is room for its answer.
    pub async fn admit(self, request: Request, next: Next) -> Response {
        let path = request.uri().path();
        let (room, most) = match path {
            _ if TRUSTED.iter().any(|service| path.starts_with(service)) => return next.run(request).await,
            _ if path.starts_with(HEALTH) => (self.health, HEALTH_ANSWERS),
            _ => (self.looks, ANSWERS),
        };
        match room.try_acquire_owned() {
            Ok(room) => next.run(request).await.map(|body| Body::new(Held { body, _room: room })),
            Err(_) => {
                let message = format!("{most} answers are on their way already, to callers that may not take them in");
                refusal(Code::ResourceExhausted, message, "TOO_MANY_ANSWERS", ("answers", &most.to_string()))
                    .into_http()
            }
        }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
