//! Injects the faults of `--chaos`: signals to local workers and to this process, in time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use medley_common::identity::Update;
use medley_common::message::Event;
use rustix::process::{Signal, getpid, kill_process};

use crate::launch::LocalWorkers;
use crate::spec::{Blow, Chaos, Fault, FaultOccasion, Victim};

/// A slow worker is stopped once in this time: often in an update that is worth a word, and far below any time-out. Where
/// it ran for longer than it should, as this process was kept waiting, it is stopped for longer by as many times.
const TURN: Duration = Duration::from_millis(20);
/// The longest time that it is stopped for.
const PAUSE: Duration = Duration::from_millis(250);

/// Faults to come, and those that last.
#[derive(Debug)]
pub struct Injector {
    chaos: Chaos,
    /// When the next random fault strikes.
    strike: Option<Instant>,
    /// The slow workers, by their places.
    slow: BTreeMap<usize, Slow>,
    /// The last update that is in the ledger.
    recorded: Update,
    /// Saves and evaluations that the coordinator may be struck in, once the ledger has what they are of.
    amidst: Vec<(FaultOccasion, Update)>,
    /// What is due to this process, once that has been said.
    own: Option<Signal>,
}

/// A worker that is stopped and let go on in turn.
#[derive(Debug, Clone, Copy)]
struct Slow {
    /// How many times as long as it runs a turn is.
    factor: f64,
    is_stopped: bool,
    /// Since when.
    since: Instant,
    /// When that changes.
    due: Instant,
}

impl Slow {
    /// Stops it, or lets it go on.
    fn turn(self, now: Instant) -> Self {
        let ran = now.saturating_duration_since(self.since);
        let lasts = if self.is_stopped { TURN.div_f64(self.factor) } else { ran.mul_f64(self.factor - 1.0).min(PAUSE) };
        Self { is_stopped: !self.is_stopped, since: now, due: now + lasts, ..self }
    }
}

impl Injector {
    /// An injector of these faults, the random ones from `now` on.
    #[must_use]
    pub fn new(mut chaos: Chaos, now: Instant) -> Self {
        let strike = chaos.pause().map(|pause| now + pause);
        Self { chaos, strike, slow: BTreeMap::new(), recorded: Update(0), amidst: Vec::new(), own: None }
    }

    /// When [`Self::elapsed`] is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.slow.values().map(|slow| slow.due).chain(self.strike).min()
    }

    /// Does what is due by now; returns what a person should know of it.
    pub fn elapsed(&mut self, now: Instant, workers: &LocalWorkers) -> Vec<String> {
        for (place, slow) in self.slow.iter_mut().filter(|(_, slow)| slow.due <= now) {
            *slow = slow.turn(now);
            send(workers, *place, if slow.is_stopped { Signal::STOP } else { Signal::CONT });
        }
        if self.strike.is_none_or(|strike| strike > now) {
            return Vec::new();
        }
        let fault = self.chaos.strike(&workers.running());
        self.strike = self.chaos.pause().map(|pause| now + pause);
        self.inject_all(fault, now, workers)
    }

    /// Does to workers what is due now that `update` is applied; returns what a person should know of it.
    pub fn applied(&mut self, update: Update, now: Instant, workers: &LocalWorkers) -> Vec<String> {
        let due = self.chaos.due(FaultOccasion::Update, update, Victim::is_worker);
        self.inject_all(due, now, workers)
    }

    /// Does what is due in the midst of what a worker speaks of: a save, or an evaluation after update `done`.
    pub fn heard(&mut self, event: &Event, done: Update, workers: &LocalWorkers) -> Vec<String> {
        let (occasion, update) = match event {
            Event::Saved { save, .. } => (FaultOccasion::Save, save.update),
            Event::Predicted { .. } => (FaultOccasion::Evaluation, done),
            _ => return Vec::new(),
        };
        let mut due = self.chaos.due(occasion, update, Victim::is_worker);
        if update <= self.recorded {
            due.extend(self.chaos.due(occasion, update, Victim::is_coordinator));
        } else if !self.amidst.contains(&(occasion, update)) {
            self.amidst.push((occasion, update));
        }
        self.inject_all(due, Instant::now(), workers)
    }

    /// Does to the coordinator what is due now that `update` is in the ledger, which one that comes back finds there.
    pub fn recorded(&mut self, update: Update, now: Instant, workers: &LocalWorkers) -> Vec<String> {
        self.recorded = update;
        let mut due = self.chaos.due(FaultOccasion::Update, update, Victim::is_coordinator);
        for (occasion, of) in self.amidst.extract_if(.., |(_, of)| *of <= update) {
            due.extend(self.chaos.due(occasion, of, Victim::is_coordinator));
        }
        self.inject_all(due, now, workers)
    }

    /// Does to this process what was said to be done to it.
    pub fn strike_itself(&mut self) {
        // A signal to itself that cannot be sent changes nothing.
        self.own.take().and_then(|signal| kill_process(getpid(), signal).ok());
    }

    /// What was planned and has not come, for a person.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        self.chaos.left().into_iter().map(|fault| format!("chaos: {fault} never came")).collect()
    }

    /// Lets all go on that are stopped in turn.
    pub fn release(&mut self, workers: &LocalWorkers) {
        while let Some((place, _)) = self.slow.pop_first() {
            send(workers, place, Signal::CONT);
        }
    }

    fn inject_all(
        &mut self,
        faults: impl IntoIterator<Item = Fault>,
        now: Instant,
        workers: &LocalWorkers,
    ) -> Vec<String> {
        faults.into_iter().flat_map(|fault| self.inject(fault, now, workers)).collect()
    }

    /// Does harm, as it was asked to.
    fn inject(&mut self, fault: Fault, now: Instant, workers: &LocalWorkers) -> Vec<String> {
        let mut lines = vec![format!("chaos: {fault}")];
        let signal = match (fault.blow, fault.victim) {
            (Blow::Slow(factor), Victim::Worker(place)) => {
                let due = now + TURN.div_f64(factor);
                self.slow.insert(place, Slow { factor, is_stopped: false, since: now, due });
                return lines;
            }
            (Blow::Recover, _) => Signal::CONT,
            (Blow::Kill, _) => Signal::KILL,
            (Blow::Stop, _) => Signal::STOP,
            // A plan has no slow coordinator.
            (Blow::Terminate | Blow::Slow(_), _) => Signal::TERM,
        };
        match fault.victim {
            Victim::Worker(place) => {
                if matches!(fault.blow, Blow::Stop | Blow::Recover) {
                    // Else its turns would wake it up.
                    self.slow.remove(&place);
                }
                if !send(workers, place, signal) {
                    lines.push(format!("chaos: no worker runs in place {place}"));
                }
            }
            Victim::Coordinator => self.own = Some(signal),
        }
        lines
    }
}

/// Whether a worker runs in this place, to which the signal was sent.
fn send(workers: &LocalWorkers, place: usize, signal: Signal) -> bool {
    let pid = workers.pid(place);
    pid.into_iter().for_each(|pid| workers.signal(pid, signal));
    pid.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_worker_runs_its_share_of_every_turn() {
        let mut now = Instant::now();
        let chaos = Chaos::parse("slow:worker=1@update=3,factor=4,until=9").unwrap();
        let (mut injector, workers) = (Injector::new(chaos, now), LocalWorkers::default());
        assert_eq!(injector.next(), None);
        assert_eq!(injector.applied(Update(3), now, &workers), ["chaos: a 4th of the time to the worker in place 1"]);
        let mut pauses = Vec::new();
        for late in [0, 0, 5, 0, 0].map(Duration::from_millis) {
            let next = injector.next().unwrap();
            pauses.push((next - now).as_millis());
            now = next + late;
            assert_eq!(injector.elapsed(now, &workers), [""; 0]);
        }
        assert_eq!(pauses, [5, 15, 5, 30, 5], "running, then stopped");
        assert_eq!(injector.left(), ["chaos: all the time to the worker in place 1 at update 9 never came"]);
        injector.applied(Update(9), now, &workers);
        assert_eq!(injector.next(), None);
    }
}
