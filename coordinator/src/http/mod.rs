//! The second port: probes, metrics and a live page in the clear, for kubelets, Prometheus and browsers, which have no token.
//! Read-only, and without anything of the rows or the weights.

mod assets;
mod browser;
mod events;
mod metrics;
mod page;
mod summary;

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use medley_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::access::limits::{HEADER_BYTES, HTTP_CALLS, HTTP_CONNECTIONS, HTTP_IDLE, QUESTION_BYTES};
use crate::access::{Connections, Idle, Standing};
use crate::live::Live;
use crate::service::{HealthFeed, is_serving};
use events::Listeners;

/// The driver publishes a status four times a second; one this old says that it hangs.
const STALE: Duration = Duration::from_secs(60);
/// Calls of a connection that may be under way.
const STREAMS: u32 = 16;
/// What Prometheus is told that it reads.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What can be seen of a run from here.
#[derive(Debug, Clone)]
pub struct Seen {
    /// How it stands.
    pub status: watch::Receiver<v1::Status>,
    /// What has become of it so far.
    pub live: watch::Receiver<Live>,
    /// Whether it is over, and whoever still listens is to be let go.
    pub over: watch::Receiver<bool>,
}

impl Seen {
    /// Waits until the run is over.
    pub async fn end(mut self) {
        // The sender lives until then: its end says the same.
        self.over.wait_for(|over| *over).await.ok();
    }
}

/// Answers probes, Prometheus and browsers at `listener` until the run is over, of a process that has `started`.
pub async fn serve(listener: TcpListener, seen: Seen, started: Instant) {
    let incoming = Connections::new(HTTP_CONNECTIONS, Idle::AtMost(HTTP_IDLE), HTTP_CALLS).incoming(listener);
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_keepalive_interval(Some(HTTP_IDLE / 3))
        .http2_keepalive_timeout(Some(HTTP_IDLE / 3))
        .add_routes(Routes::from(router(seen.clone(), started)));
    // What goes wrong is one connection's.
    server.serve_with_incoming_shutdown(incoming, seen.end()).await.ok();
}

fn router(seen: Seen, started: Instant) -> Router {
    let Seen { status, live, .. } = seen;
    let listeners = Listeners::new(status.clone(), live.clone());
    let health = HealthServer::new(HealthFeed::new(status.clone())).max_decoding_message_size(QUESTION_BYTES);
    let (alive, ready, shown) = (status.clone(), status.clone(), status.clone());
    assets::routes()
        .route("/", get(move || async move { page::answer(&shown, &live) }))
        .route("/events", get(move |headers: HeaderMap| async move { listeners.admit(&headers) }))
        .route("/healthz", get(move || async move { liveness(&alive.borrow(), started.elapsed()) }))
        .route("/readyz", get(move || async move { ready_answer(&ready.borrow()) }))
        .route("/metrics", get(move || async move { exposition(&status.borrow()) }))
        .route_service("/grpc.health.v1.Health/{method}", health)
        .fallback(|| async { text(StatusCode::NOT_FOUND, "there are /, /healthz, /readyz and /metrics\n") })
        .layer(from_fn(browser::check))
        .layer(from_fn(pace))
}

/// Lets a request through where its connection does not ask too often.
async fn pace(request: Request, next: Next) -> Response {
    let standing = request.extensions().get::<Standing>();
    match standing.is_some_and(|standing| standing.call().is_err()) {
        true => {
            let line = format!("over {} requests a second on one connection\n", HTTP_CALLS.per_second);
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], line).into_response()
        }
        false => next.run(request).await,
    }
}

/// Whether the process works, however its run goes: a probe that fails has it killed.
fn liveness(status: &v1::Status, since_start: Duration) -> impl IntoResponse + use<> {
    let published = Duration::try_from_secs_f64(status.elapsed_seconds).unwrap_or_default();
    // Before the first status the data are read, for as long as that takes; after the last one nothing is due.
    let is_due = status.phase() != v1::Phase::Unspecified && status.outcome.is_empty();
    let silent = since_start.saturating_sub(published);
    if is_due && silent > STALE {
        let line = format!("the coordinator has done nothing for {} s\n", silent.as_secs());
        return text(StatusCode::SERVICE_UNAVAILABLE, line);
    }
    text(StatusCode::OK, "ok\n")
}

/// Whether workers can join.
fn ready_answer(status: &v1::Status) -> impl IntoResponse + use<> {
    match is_serving(status) {
        true => text(StatusCode::OK, "ok\n"),
        false if status.phase() == v1::Phase::Unspecified => {
            text(StatusCode::SERVICE_UNAVAILABLE, "the data are read\n")
        }
        false => text(StatusCode::SERVICE_UNAVAILABLE, "the run ends\n"),
    }
}

fn exposition(status: &v1::Status) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, EXPOSITION)], metrics::exposition(status))
}

fn text(code: StatusCode, body: impl Into<String>) -> Response {
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(response: impl IntoResponse) -> StatusCode {
        response.into_response().status()
    }

    #[test]
    fn alive_is_not_ready_and_a_driver_that_hangs_is_neither() {
        let mut status = v1::Status::default();
        let hour = Duration::from_secs(3600);
        assert_eq!(code(liveness(&status, hour)), StatusCode::OK, "it reads its data");
        assert_eq!(code(ready_answer(&status)), StatusCode::SERVICE_UNAVAILABLE);
        status.set_phase(v1::Phase::Gathering);
        status.elapsed_seconds = 3599.9;
        assert_eq!(code(liveness(&status, hour)), StatusCode::OK);
        assert_eq!(code(ready_answer(&status)), StatusCode::OK);
        status.elapsed_seconds = 3000.0;
        assert_eq!(code(liveness(&status, hour)), StatusCode::SERVICE_UNAVAILABLE);
        status.outcome = "completed".to_owned();
        assert_eq!(code(liveness(&status, hour)), StatusCode::OK);
        assert_eq!(code(ready_answer(&status)), StatusCode::SERVICE_UNAVAILABLE);
    }
}
