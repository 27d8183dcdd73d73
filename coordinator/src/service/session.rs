//! One worker's session: its events go to the driver, the driver's commands to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use medley_common::identity::WorkerId;
use medley_common::message::{Command, Event};
use medley_proto::details::refusal;
use medley_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming};

use super::Arrival;
use super::passes::{Issued, Passes};
use crate::access::limits::{EVENTS_PER_SECOND, GREETING, WAITING_EVENTS_PER_SECOND};
use crate::access::{Attending, Bucket};

/// Commands that may wait for a worker. A run orders few; a worker that reads none is as good as dead.
const QUEUED_COMMANDS: usize = 64;
/// How often it is looked whether a silent session has been dismissed.
const LOOK: Duration = Duration::from_millis(500);

/// Announces the worker and starts to forward its events, which takes its `place` and its pass for as long; the returned
/// stream carries its commands, and notes in `passes` what they order.
///
/// # Errors
/// The run is over.
pub async fn open(
    worker: WorkerId,
    events: Streaming<v1::SessionRequest>,
    arrivals: mpsc::Sender<Arrival>,
    (place, issued, passes): ((OwnedSemaphorePermit, Option<Attending>), Issued, Passes),
) -> Result<impl Stream<Item = Result<v1::SessionResponse, Status>>, Status> {
    let (commands, outbound) = mpsc::channel(QUEUED_COMMANDS);
    let standing = Standing { commands: commands.downgrade(), is_placed: Arc::default() };
    arrivals.send(Arrival::Joined(worker, commands)).await.map_err(|_| over())?;
    let is_placed = Arc::clone(&standing.is_placed);
    tokio::spawn(async move {
        forward(worker, events, arrivals, standing).await;
        drop((place, issued));
    });
    Ok(ReceiverStream::new(outbound).map(move |command| {
        // Before it is sent: what it orders may come at once.
        passes.note(worker, &command);
        if matches!(command, Command::Welcome(_) | Command::Reattach { .. }) {
            is_placed.store(true, Ordering::Relaxed);
        }
        Ok(v1::SessionResponse::from(command))
    }))
}

/// What the run thinks of a session.
struct Standing {
    /// Nobody holds the other end once the session is dismissed.
    commands: mpsc::WeakSender<Command>,
    /// Whether its worker has been let in; until then it has little to say.
    is_placed: Arc<AtomicBool>,
}

impl Standing {
    fn is_dismissed(&self) -> bool {
        self.commands.upgrade().is_none()
    }

    /// Whether that is for it to say at all: what is not of work, it may.
    fn may_say(&self, event: &Event) -> bool {
        match event {
            Event::Hello(_) | Event::Heartbeat | Event::Leaving | Event::Failed(_) => true,
            _ => self.is_placed.load(Ordering::Relaxed),
        }
    }

    /// How much it may say from now on.
    fn pace(&self) -> u32 {
        if self.is_placed.load(Ordering::Relaxed) { EVENTS_PER_SECOND } else { WAITING_EVENTS_PER_SECOND }
    }
}

pub(super) fn over() -> Status {
    refusal(Code::Unavailable, "the run is over".to_owned(), "RUN_OVER", ("service", "medley.v1.WorkerService"))
}

/// Forwards events until the stream ends or the session is dismissed; then says that the worker has left. Ends with the
/// run.
async fn forward(
    worker: WorkerId,
    mut events: Streaming<v1::SessionRequest>,
    arrivals: mpsc::Sender<Arrival>,
    standing: Standing,
) {
    let mut allowed = standing.pace();
    let mut pace = Bucket::new(allowed, allowed, Instant::now());
    let opened = Instant::now();
    let (mut has_greeted, mut is_warned) = (false, false);
    let why = loop {
        if allowed != standing.pace() {
            allowed = standing.pace();
            pace = Bucket::new(allowed, allowed, Instant::now());
        }
        // One that says too much waits; the others do not wait for it.
        if let Err(wait) = pace.take(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        let message = match tokio::time::timeout(LOOK, events.message()).await {
            // What it says meanwhile keeps it alive, but not for ever.
            _ if !has_greeted && opened.elapsed() > GREETING => break "it did not say who it is".to_owned(),
            _ if standing.is_dismissed() => break "the coordinator has ended its session".to_owned(),
            Ok(message) => message,
            Err(_) => continue,
        };
        match message {
            Ok(Some(mut message)) => match (message.memory.take(), Event::try_from(message)) {
                (memory, Ok(event)) => {
                    // The first such word is for the run, which refuses it by name; more are not worth its time.
                    let is_out_of_turn = !standing.may_say(&event);
                    if is_out_of_turn && std::mem::replace(&mut is_warned, true) {
                        break "it spoke of work before it had any".to_owned();
                    }
                    has_greeted |= matches!(event, Event::Hello(_));
                    let memory = memory.map(|peak| Arrival::Memory(worker, peak));
                    for arrival in memory.into_iter().chain([Arrival::From(worker, event)]) {
                        if arrivals.send(arrival).await.is_err() {
                            return;
                        }
                    }
                }
                (_, Err(error)) => break error.to_string(),
            },
            Ok(None) => break "it closed its session".to_owned(),
            Err(status) => break format!("its connection broke: {}", status.message()),
        }
    };
    // A closed channel means that the run is over: nobody is left to be told.
    arrivals.send(Arrival::Left(worker, why)).await.ok();
}
