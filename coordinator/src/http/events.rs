//! `/events`: the run as it goes on, as server-sent events. The first one is a picture of all there is to see, those that
//! follow have what is new; whoever comes back with the id of the last event it got is told what it has missed.
//!
//! A listener has no queue but the one message that is on its way to it. What happens while it takes that in, it is told
//! afterwards, at once or as a new picture: so one that is slow, or does not read at all, holds up nobody but itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use medley_proto::v1;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::summary::Summary;
use crate::access::limits::{HTTP_IDLE, LISTENERS};
use crate::live::{Curve, Evaluation, Live, Missed, Moment, News, Picture, Place};

/// The least time between two messages to a listener.
const PAUSE: Duration = Duration::from_millis(500);
/// How long after it was cut off a browser comes back.
const COMES_BACK: Duration = Duration::from_secs(2);
/// After how many seconds one that finds no room is to come again.
const NO_ROOM_SECONDS: &str = "10";

/// Whom the run is told.
#[derive(Debug, Clone)]
pub struct Listeners {
    room: Arc<Semaphore>,
    status: watch::Receiver<v1::Status>,
    live: watch::Receiver<Live>,
}

/// One of them.
struct Listener {
    status: watch::Receiver<v1::Status>,
    live: watch::Receiver<Live>,
    told: Option<Place>,
    messages: mpsc::Sender<Result<Event, Infallible>>,
    _room: OwnedSemaphorePermit,
}

/// What is told of all there is to see.
#[derive(Serialize)]
struct Whole<'a> {
    status: &'a Summary,
    plan: &'a [(String, String)],
    labels: &'a [String],
    training: Buckets<'a, 4>,
    validation: Buckets<'a, 3>,
    evaluations: Vec<&'a Evaluation>,
    moments: Vec<&'a Moment>,
    forgotten: u64,
}

#[derive(Serialize)]
struct Buckets<'a, const N: usize> {
    span: u64,
    buckets: &'a [crate::live::Bucket<N>],
}

impl<'a, const N: usize> From<&'a Curve<N>> for Buckets<'a, N> {
    fn from(curve: &'a Curve<N>) -> Self {
        Self { span: curve.span(), buckets: curve.buckets() }
    }
}

impl Listeners {
    /// Those of a run.
    #[must_use]
    pub fn new(status: watch::Receiver<v1::Status>, live: watch::Receiver<Live>) -> Self {
        Self { room: Arc::new(Semaphore::new(LISTENERS)), status, live }
    }

    /// Lets one more in, where there is room, from what `headers` say that it was told last.
    pub fn admit(self, headers: &HeaderMap) -> Response {
        let Ok(room) = self.room.try_acquire_owned() else {
            let line = format!("{LISTENERS} browsers listen already\n");
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, NO_ROOM_SECONDS)], line).into_response();
        };
        let told = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
        let (messages, stream) = mpsc::channel(1);
        let listener = Listener { status: self.status, live: self.live, told, messages, _room: room };
        tokio::spawn(listener.tell());
        Sse::new(ReceiverStream::new(stream)).into_response()
    }
}

impl Listener {
    /// Tells it what there is, and what comes, until it hangs up or the run ends.
    async fn tell(mut self) {
        loop {
            let (event, over) = self.next();
            // One that takes nothing in keeps its place no longer than an idle connection does.
            let sent = tokio::time::timeout(HTTP_IDLE, self.messages.send(Ok(event))).await;
            if !matches!(sent, Ok(Ok(()))) || over {
                return;
            }
            if self.rest().await.is_none() {
                return;
            }
        }
    }

    /// Waits until there is something to tell, and no longer than an idle connection may; nothing where it has hung up or
    /// there is nobody any more who tells.
    async fn rest(&mut self) -> Option<()> {
        // A bound on how often it is told, but for the end, after which there is no more time.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            ended = self.status.wait_for(|status| !status.outcome.is_empty()) => return ended.ok().map(|_| ()),
            () = self.messages.closed() => return None,
        }
        tokio::select! {
            changed = self.status.changed() => changed.ok(),
            changed = self.live.changed() => changed.ok(),
            () = tokio::time::sleep(HTTP_IDLE / 3) => Some(()),
            () = self.messages.closed() => None,
        }
    }

    /// What it has missed, and whether that is the end. The driver waits for nothing but a copy.
    fn next(&mut self) -> (Event, bool) {
        let status = Summary::of(&self.status.borrow_and_update());
        let (missed, place) = {
            let live = self.live.borrow_and_update();
            (live.missed(self.told), live.place())
        };
        self.told = Some(place);
        (event(&status, &missed, place), status.ended)
    }
}

/// One message.
fn event(status: &Summary, missed: &Missed, place: Place) -> Event {
    let (name, data) = match missed {
        Missed::Picture(picture) => ("picture", whole(status, picture)),
        Missed::News(news) => ("news", fresh(status, news)),
    };
    Event::default().event(name).id(place.to_string()).retry(COMES_BACK).data(data)
}

/// Numbers, lists and strings always serialise.
fn whole(status: &Summary, picture: &Picture) -> String {
    let whole = Whole {
        status,
        plan: &picture.plan,
        labels: &picture.labels,
        training: (&picture.training).into(),
        validation: (&picture.validation).into(),
        evaluations: picture.evaluations.iter().collect(),
        moments: picture.moments.iter().collect(),
        forgotten: picture.forgotten,
    };
    serde_json::to_string(&whole).unwrap_or_default()
}

fn fresh(status: &Summary, news: &[News]) -> String {
    let (mut updates, mut evaluations, mut moments) = (Vec::new(), Vec::new(), Vec::new());
    for news in news {
        match news {
            News::Update(update, values) => {
                // A number that is none is null.
                let values = values.iter().map(|value| json!(value));
                updates.push([json!(update)].into_iter().chain(values).collect::<Value>());
            }
            News::Evaluation(evaluation) => evaluations.push(evaluation),
            News::Moment(moment) => moments.push(moment),
        }
    }
    let fresh = json!({"status": status, "updates": updates, "evaluations": evaluations, "moments": moments});
    fresh.to_string()
}

#[cfg(test)]
#[path = "events_test.rs"]
mod tests;
