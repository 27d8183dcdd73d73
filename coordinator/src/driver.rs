//! Drives one run: turns arrivals, answers, exits, signals and the clock into inputs, and performs its actions.
//!
//! The only place where the run meets the world; it decides nothing itself.

mod exits;
mod hearing;
mod orders;
mod phases;
mod publishing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use medley_common::identity::{Update, WorkerId};
use medley_common::message::{Command, Event, Failure, FailureKind, Verdict};
use medley_proto::v1;
use rustix::process::Signal;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::archive::StoredArtifact;
use crate::chronicle::Chronicle;
use crate::counts::Counts;
use crate::display::{Display, Event as Told};
use crate::injector::Injector;
use crate::launch::LocalWorkers;
use crate::live::Live;
use crate::meter::Meter;
use crate::peak_memory::PeakMemory;
use crate::profile::Profile;
use crate::recorder::{Answer, Entry};
use crate::run::report::Outcome;
use crate::run::{Action, Base, Input, PhaseName, Run};
use crate::service::{Arrival, Files};

use hearing::Happening;
use publishing::Publication;

/// How long a lost connection to a local worker waits for its process to end, which tells more.
const EXIT_GRACE: Duration = Duration::from_millis(500);
/// Notes of workers that are told: all of one run's say the same.
const MOST_TOLD: usize = 64;
/// A wait that took this long means that the process was suspended.
const SUSPENDED: Duration = Duration::from_secs(1);

/// Everything that a driver is tied to.
#[derive(Debug)]
pub struct Driver {
    /// The run.
    pub run: Run,
    /// What the service tells.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// What the recorder is told.
    pub recorder: mpsc::Sender<Entry>,
    /// What the recorder answers.
    pub answers: mpsc::UnboundedReceiver<Answer>,
    /// Requests to stop.
    pub stops: mpsc::Receiver<()>,
    /// Workers that this process has started.
    pub local: LocalWorkers,
    /// What a person sees.
    pub display: Display,
    /// What whoever asks is told.
    pub status: watch::Sender<v1::Status>,
    /// What whoever asks for the report is told.
    pub chronicle: watch::Sender<Chronicle>,
    /// What who watches in a browser is shown.
    pub live: watch::Sender<Live>,
    /// Where the states lie that workers start from.
    pub files: watch::Sender<Files>,
    /// Faults to inject.
    pub injector: Injector,
    /// Where the time goes, where that is asked for.
    pub profile: Option<Profile>,
    /// When the coordinator started.
    pub started: Instant,
}

/// What a driver keeps while it drives.
#[derive(Debug, Default)]
struct Ties {
    /// Where each worker's commands go; dropping one ends its session.
    commands: BTreeMap<WorkerId, mpsc::Sender<Command>>,
    /// The process of each worker that this process has started, and which of its sessions that is, as it has said.
    pids: BTreeMap<WorkerId, (u32, u64)>,
    /// Workers that were let in.
    welcomed: BTreeSet<WorkerId>,
    /// Workers that have done some of the work.
    useful: BTreeSet<WorkerId>,
    /// Workers whose connection broke, and until when their process may say why.
    leaving: BTreeMap<WorkerId, (Instant, String)>,
    stopping: bool,
    /// Whether a signal has asked for the stop.
    signalled: bool,
    /// Why nothing can be written at present.
    paused: Option<String>,
    meter: Meter,
    counts: Counts,
    memory: PeakMemory,
    phase: Option<PhaseName>,
    was_training: bool,
    /// What was said of the weights.
    told: BTreeSet<String>,
    /// Things that have happened.
    turn: u64,
    publication: Publication,
    outcome: Option<Outcome>,
}

fn internal(message: String) -> Input {
    Input::Broken(Failure { kind: FailureKind::Internal, message })
}

/// The recorder's thread has ended before the run: it panicked.
fn recorder_gone() -> Input {
    internal("the thread that writes the results panicked; its message stands above".to_owned())
}

impl Driver {
    /// Drives the run to its end; returns how it ended, and the workers that are still to be waited for.
    ///
    /// All that the run has produced is written when this returns.
    pub async fn drive(mut self) -> (Outcome, LocalWorkers) {
        let mut ties = Ties::default();
        let mut awake = Instant::now();
        let outcome = loop {
            if ties.outcome.is_some() || ties.publication.is_due(Instant::now()) {
                self.publish(&mut ties);
            }
            if let Some(outcome) = ties.outcome.take() {
                break outcome;
            }
            let happening = self.next(&mut ties).await;
            ties.publication.stale = true;
            let asleep = std::mem::replace(&mut awake, Instant::now()).elapsed() > SUSPENDED;
            let overslept = asleep.then_some(Input::Overslept);
            for input in overslept.into_iter().chain(self.inputs(happening, &mut ties)) {
                ties.publication.stale = true;
                self.count(&input, &mut ties);
                let actions = self.run.handle(Instant::now(), input);
                self.tell_ahead(&actions, &mut ties);
                for action in actions {
                    self.perform(action, &mut ties);
                }
            }
            self.watch_phase(&mut ties);
        };
        self.tell(&self.injector.left());
        self.injector.release(&self.local);
        // While the folder is still this process's own.
        let profile = match self.profile.take() {
            Some(profile) => profile.end().await,
            None => Vec::new(),
        };
        let outcome = self.settle(outcome).await;
        self.display.finish();
        profile.iter().for_each(|line| self.display.line(line));
        (outcome, self.local)
    }

    /// Notes what an event says of its worker's process.
    fn heard(&self, worker: WorkerId, event: &Event, ties: &mut Ties) {
        match event {
            Event::Hello(hello) => {
                // A process that comes back has another name than before; one of another host may have the same number.
                let host = rustix::system::uname();
                let is_late = ties.pids.values().any(|(pid, session)| *pid == hello.pid && *session > hello.session);
                if self.local.has(hello.pid) && hello.host == host.nodename().to_string_lossy() && !is_late {
                    ties.pids.retain(|_, (pid, _)| *pid != hello.pid);
                    ties.pids.insert(worker, (hello.pid, hello.session));
                }
            }
            Event::Updated { .. } | Event::Evaluated { .. } => drop(ties.useful.insert(worker)),
            // Others may say anything, and one that was sent away still did on its way out.
            Event::Prepared { notes, .. } if ties.is_member(worker) => {
                // All workers read the same weights: what the first one says of them is said once.
                let is_new = |note: &&String| ties.told.len() < MOST_TOLD && ties.told.insert((*note).clone());
                let new = notes.iter().filter(is_new);
                new.for_each(|note| self.display.line(note));
            }
            _ => {}
        }
    }

    /// What the run is told of a happening.
    fn inputs(&mut self, happening: Happening, ties: &mut Ties) -> Vec<Input> {
        match happening {
            Happening::Arrival(Arrival::Joined(worker, commands)) => {
                ties.commands.insert(worker, commands);
                vec![Input::Joined(worker)]
            }
            Happening::Arrival(Arrival::From(worker, event)) => {
                self.heard(worker, &event, ties);
                let lines = self.injector.heard(&event, self.run.update(), &self.local);
                self.tell(&lines);
                vec![Input::From(worker, event)]
            }
            Happening::Arrival(Arrival::Memory(worker, peak)) => {
                ties.took(worker, peak);
                Vec::new()
            }
            Happening::Arrival(Arrival::Broken(failure)) => vec![Input::Broken(failure)],
            Happening::Arrival(Arrival::Left(worker, why)) if self.local.is_empty() => {
                ties.commands.remove(&worker);
                vec![Input::Left(worker, why)]
            }
            Happening::Arrival(Arrival::Left(worker, why)) => {
                ties.leaving.insert(worker, (Instant::now() + EXIT_GRACE, why));
                Vec::new()
            }
            Happening::Arrival(Arrival::Ordered(order, who)) => self.ordered(order, &who, ties),
            Happening::Answer(Answer::Input(input)) => vec![input],
            Happening::Answer(Answer::Ended) => vec![recorder_gone()],
            Happening::Answer(Answer::Based(update, stored)) => vec![self.based(update, stored)],
            Happening::Answer(Answer::Line(line)) => {
                self.display.line(&line);
                Vec::new()
            }
            Happening::Answer(Answer::Recorded(update)) => {
                // The ledger has it, so the same plan does not strike again when the coordinator comes back.
                let lines = self.injector.recorded(update, Instant::now(), &self.local);
                self.tell(&lines);
                vec![Input::Recorded(update)]
            }
            Happening::Answer(Answer::Paused(reason)) => {
                if reason.is_some() {
                    ties.counts.fault(v1::Fault::Disk);
                }
                ties.paused = reason;
                Vec::new()
            }
            Happening::Exit(exit) => self.exited(&exit, ties),
            Happening::Restart => {
                let restarted = self.local.restart(Instant::now());
                restarted.err().map(|error| internal(error.to_string())).into_iter().collect()
            }
            Happening::Strike => {
                let lines = self.injector.elapsed(Instant::now(), &self.local);
                self.tell(&lines);
                Vec::new()
            }
            Happening::Stop => {
                ties.stopping = true;
                // An operator's order, or the last worker that left, is not the first of two signals.
                if std::mem::replace(&mut ties.signalled, true) {
                    return vec![Input::StopAtOnce];
                }
                self.display.line("stopping: what is under way is finished and saved; once more to stop at once");
                vec![Input::StopRequested]
            }
            Happening::Elapsed => ties.elapsed(Instant::now()),
        }
    }

    /// A newer state lies on the disk: newcomers fetch that one.
    fn based(&self, update: Update, stored: Vec<StoredArtifact>) -> Input {
        let artifacts = stored.iter().map(|stored| stored.artifact.clone()).collect();
        self.files.send_modify(|files| {
            files.extend(stored.into_iter().map(|stored| ((update, stored.artifact.kind), stored.path)));
        });
        Input::Based(Base { update, artifacts })
    }

    fn perform(&mut self, action: Action, ties: &mut Ties) {
        let now = Instant::now();
        self.profile(|profile, now| profile.did(now, &action));
        match action {
            Action::Order(worker, command) => {
                if let Command::Welcome(_) | Command::Reattach { .. } = command {
                    ties.welcomed.insert(worker);
                }
                if let Command::Welcome(_) = command {
                    self.welcome(worker);
                }
                ties.order(worker, command);
            }
            Action::Refuse(worker, reason) => {
                self.display.show(&Told::Refused(worker, &reason));
                ties.order(worker, Command::Stop { reason, verdict: Verdict::Refused });
                ties.commands.remove(&worker);
            }
            Action::Replace(worker, reason) => {
                ties.order(worker, Command::Stop { reason, verdict: Verdict::Replaced });
                ties.commands.remove(&worker);
                // It may be suspended, and would hold its place for ever.
                let pid = ties.pids.get(&worker).map(|(pid, _)| *pid).filter(|pid| self.local.has(*pid));
                pid.into_iter().for_each(|pid| self.local.signal(pid, Signal::KILL));
            }
            Action::Dismiss(worker, reason) => {
                ties.order(worker, Command::Stop { reason, verdict: Verdict::Released });
                ties.commands.remove(&worker);
            }
            Action::Close(worker) | Action::Part(worker) => drop(ties.commands.remove(&worker)),
            Action::Notice(line) => self.display.line(&line),
            Action::Warning(line) => self.display.show(&Told::Warning(&line)),
            Action::Rewind(update, reason) => self.record(Entry::Rewind(update, reason), ties),
            Action::Receive(save, pieces) => self.record(Entry::Receive(save, pieces), ties),
            Action::Discard(save) => self.record(Entry::Discard(save), ties),
            Action::Group(group) => self.record(Entry::Group(group), ties),
            Action::Record(record) => {
                self.display.update(&record, (self.run.total(), ties.meter.rates()), now);
                let update = record.update;
                self.record(Entry::Update(record), ties);
                let lines = self.injector.applied(update, now, &self.local);
                self.tell(&lines);
            }
            Action::Log(log) => {
                self.display.show(&Told::Logged(&log));
                self.record(Entry::Log(log), ties);
            }
            Action::Commit(state) => self.record(Entry::Commit(state), ties),
            Action::Summarise(summary, best) => self.record(Entry::Summary(summary, best), ties),
            Action::Publish(report, occasion) => {
                self.display.show(&Told::Evaluated(&report, occasion));
                self.record(Entry::Evaluation(report, occasion), ties);
            }
            Action::Finish(outcome) => ties.outcome = Some(outcome),
        }
    }

    /// Says what faults are injected, and then does to this process what is.
    fn tell(&mut self, lines: &[String]) {
        lines.iter().for_each(|line| self.display.line(line));
        self.injector.strike_itself();
    }

    fn welcome(&self, worker: WorkerId) {
        if let Some(view) = self.run.view().workers.iter().find(|view| view.worker == worker) {
            let (host, pid, device) = (view.host, view.pid, view.device);
            self.display.show(&Told::Joined { worker, host, pid, device });
        }
    }

    /// Queues what is to be written. The recorder ends only with this sender; were it to panic, its answers would end
    /// and the run be told.
    fn record(&self, entry: Entry, ties: &mut Ties) {
        if let Err(TrySendError::Full(_)) = self.recorder.try_send(entry) {
            let waiting = self.recorder.max_capacity();
            let message = format!("{waiting} records wait for the disk: the run is too far ahead of it");
            ties.outcome = Some(Outcome::Failed(Failure { kind: FailureKind::Internal, message }));
        }
    }

    /// Counts what happens; only a worker that has said who it is can be lost.
    fn count(&mut self, input: &Input, ties: &mut Ties) {
        let took_part = |worker| self.run.view().workers.iter().any(|it| it.worker == worker && it.pid > 0);
        let lost = matches!(input, Input::Left(worker, _) if took_part(*worker));
        ties.counts.heard(input, lost);
        self.live.send_if_modified(|live| live.heard(input));
        self.profile(|profile, now| profile.heard(now, input));
    }

    /// Has the profile take note, where there is one, and tells what it has to say.
    fn profile(&mut self, note: impl FnOnce(&mut Profile, Instant)) {
        if let Some(profile) = &mut self.profile {
            note(profile, Instant::now());
            profile.take_complaint().into_iter().for_each(|line| self.display.line(&line));
        }
    }

    /// Waits until all is written; a disk that refused in the end turns the outcome.
    async fn settle(&mut self, outcome: Outcome) -> Outcome {
        // Where it finds no room, so much waits for the disk that the run has failed of it.
        self.recorder.try_send(Entry::Over((&outcome).into())).ok();
        let (closed, _) = mpsc::channel(1);
        self.recorder = closed;
        let mut outcome = outcome;
        while let Some(answer) = self.answers.recv().await {
            match answer {
                Answer::Ended => break,
                Answer::Line(line) => self.display.line(&line),
                Answer::Based(..) => {}
                Answer::Input(Input::Broken(failure)) if !matches!(outcome, Outcome::Failed(_)) => {
                    outcome = Outcome::Failed(failure);
                }
                Answer::Input(_) | Answer::Recorded(_) | Answer::Paused(_) => {}
            }
        }
        outcome
    }
}

impl Ties {
    /// Whether it was let in, and not sent away since.
    fn is_member(&self, worker: WorkerId) -> bool {
        self.welcomed.contains(&worker) && self.commands.contains_key(&worker)
    }

    /// Queues a command. A worker whose queue is full or closed is lost, and its connection will say so.
    fn order(&mut self, worker: WorkerId, command: Command) {
        let lost = self.commands.get(&worker).is_some_and(|commands| commands.try_send(command).is_err());
        if lost {
            self.commands.remove(&worker);
        }
    }
}
