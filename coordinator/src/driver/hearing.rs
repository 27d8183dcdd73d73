//! What a driver hears next, and whom first.
//!
//! What has arrived from workers is heard before the clock: a busy driver must not take a worker for silent. But now and then
//! the disk, signals and the ends of processes have their turn first, so that whoever says very much cannot keep them from
//! being heard.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Driver, Ties};
use crate::launch::{LocalWorkers, WorkerExit};
use crate::recorder::Answer;
use crate::service::Arrival;

/// The longest wait of a driver for anything.
const PULSE: Duration = Duration::from_millis(250);
/// How many things happen between two turns of those that are not workers.
const TURNS: u64 = 16;

/// One thing that happened.
pub(super) enum Happening {
    Arrival(Arrival),
    Answer(Answer),
    Exit(WorkerExit),
    Restart,
    Strike,
    Stop,
    Elapsed,
}

/// When the clock has something to say.
#[derive(Clone, Copy)]
struct Alarms {
    restart: Option<Instant>,
    strike: Option<Instant>,
    deadline: Option<Instant>,
}

impl Driver {
    /// Waits for what happens next.
    pub(super) async fn next(&mut self, ties: &mut Ties) -> Happening {
        ties.turn += 1;
        let is_turn = ties.turn.is_multiple_of(TURNS);
        // Of many workers much has arrived at once: when to wake is only asked where there is something to wait for. It
        // shares its thread with nobody, whom this could keep waiting.
        if !is_turn && let Ok(arrival) = self.arrivals.try_recv() {
            return Happening::Arrival(arrival);
        }
        let leaving = ties.leaving.values().map(|(until, _)| *until).min();
        let stale = ties.publication.due();
        let pulse = Instant::now() + PULSE;
        let deadline = self.run.deadline().into_iter().chain(leaving).chain(stale).chain([pulse]).min();
        let alarms = Alarms { restart: self.local.restart_at(), strike: self.injector.next(), deadline };
        if is_turn {
            // What is there already, but never the clock before what has arrived.
            let alarms = Alarms { deadline: None, ..alarms };
            tokio::select! {
                biased;
                other = others(&mut self.answers, &mut self.stops, &mut self.local, alarms) => return other,
                () = std::future::ready(()) => {}
            }
        }
        tokio::select! {
            biased;
            Some(arrival) = self.arrivals.recv() => Happening::Arrival(arrival),
            other = others(&mut self.answers, &mut self.stops, &mut self.local, alarms) => other,
        }
    }
}

/// What is not from a worker.
async fn others(
    answers: &mut mpsc::UnboundedReceiver<Answer>,
    stops: &mut mpsc::Receiver<()>,
    local: &mut LocalWorkers,
    alarms: Alarms,
) -> Happening {
    tokio::select! {
        biased;
        Some(()) = stops.recv() => Happening::Stop,
        answer = answers.recv() => Happening::Answer(answer.unwrap_or(Answer::Ended)),
        () = until(alarms.restart) => Happening::Restart,
        exit = local.next_exit() => Happening::Exit(exit),
        () = until(alarms.strike) => Happening::Strike,
        () = until(alarms.deadline) => Happening::Elapsed,
    }
}

/// Waits until `instant`; for ever where there is none.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
