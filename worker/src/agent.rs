//! The worker's life: join, fetch, and pass orders down to the engine and its reports up, until told to stop.
//!
//! A coordinator that is lost is looked for, with all that the worker holds: it may have died and come back, or the
//! network was away.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use medley_common::identity::{Digest, Known, ProcessMark, WorkerId};
use medley_common::message::{Command, Event, Failure, FailureKind, Verdict, Welcome};
use medley_proto::access::Access;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

pub use crate::agent_error::AgentError;
use crate::device::Place;
use crate::display::say;
use crate::engine::Output;
use crate::holding::Holding;
use crate::joining::{fetch, greet, hello, route_to};
use crate::session::{Coordinator, EventSender, Session, SessionError};
use crate::uploads::{PieceOrder, Uploading};

/// Between two attempts to open a session with who accepts connections.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a worker that is to end looks for a lost coordinator: nobody else may hold its state. Within what schedulers
/// grant between SIGTERM and SIGKILL.
const PARTING: Duration = Duration::from_secs(10);
/// How long an engine may take to let go of its GPU before the process ends without it.
const LETTING_GO: Duration = Duration::from_secs(5);

/// How a worker finds its coordinator and what it computes with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of the coordinator.
    pub coordinator: String,
    /// What it asks its workers for.
    pub access: Access,
    /// How long to try to reach it at first.
    pub patience: Duration,
    /// How long to try to reach it again when it is lost; zero ends with it.
    pub reconnect: Duration,
    /// The address that peers reach this worker at; found by the route to the coordinator where `None`.
    pub collective_host: Option<IpAddr>,
    /// Threads to compute with.
    pub threads: u32,
    /// SHA-256 of the program of this process.
    pub program: Digest,
    /// What to compute on.
    pub place: Place,
    /// Whether to share memory with peers on this machine.
    pub shared_memory: bool,
    /// Whether other workers may use this one's GPU as well.
    pub shares_gpu: bool,
    /// Whether a launcher on this machine speaks for this worker.
    pub is_local: bool,
}

/// Takes part in a run until the coordinator orders to stop; returns what that means, and its reason.
///
/// `leave` is told when this worker is to go: it works on until the coordinator lets it.
///
/// # Errors
/// See [`AgentError`].
pub async fn run(settings: Settings, mut leave: mpsc::Receiver<()>) -> Result<(Verdict, String), AgentError> {
    let process = ProcessMark::draw();
    let mut life =
        Life { settings, process, sessions: 0, holding: None, known: None, met: false, lost: None, leaving: false };
    let end = life.live(&mut leave).await;
    life.let_go().await;
    end
}

/// A worker, through all of its sessions.
#[derive(Debug)]
struct Life {
    settings: Settings,
    process: ProcessMark,
    /// Sessions opened so far.
    sessions: u64,
    holding: Option<Holding>,
    /// As what it is known, once a coordinator has let it in.
    known: Option<Known>,
    /// Whether a coordinator has ever taken it on, be it to wait for a place.
    met: bool,
    /// When the coordinator was lost; `None` while there is a session, and before the first one.
    lost: Option<Instant>,
    leaving: bool,
}

/// How a session ended, if not by the coordinator's loss.
enum End {
    /// The coordinator has no more work.
    Stopped(Verdict, String),
    /// The worker is to begin anew.
    Anew(Box<Welcome>),
}

impl Life {
    /// Session after session, to the last one's end.
    async fn live(&mut self, leave: &mut mpsc::Receiver<()>) -> Result<(Verdict, String), AgentError> {
        loop {
            let error = match self.attend(leave).await {
                Ok(end) => return Ok(end),
                Err(error) => error,
            };
            let comes_back = self.may_come_back(&error);
            if comes_back {
                self.part(&error).await?;
                self.leaving |= leave.try_recv().is_ok();
            }
            match (self.leaving && error.is_loss(), comes_back && self.holds_state()) {
                (true, false) => {
                    return Ok((Verdict::Released, "asked to end while its coordinator was away".to_owned()));
                }
                (false, _) if !comes_back => return Err(error),
                _ => {}
            }
        }
    }

    /// Ends an engine that has a GPU: NVIDIA's libraries are taken apart as the process ends, and a thread that calls them
    /// meanwhile may bring it down.
    async fn let_go(&mut self) {
        let on_gpu = matches!(self.settings.place, Place::Cuda { .. });
        if let Some(holding) = self.holding.take().filter(|_| on_gpu) {
            tokio::time::timeout(LETTING_GO, holding.end()).await.ok();
        }
    }

    /// One session, from its first word to its last.
    async fn attend(&mut self, leave: &mut mpsc::Receiver<()>) -> Result<(Verdict, String), AgentError> {
        let patience = match self.lost {
            Some(since) => self.limit().saturating_sub(since.elapsed()),
            None => self.settings.patience,
        };
        self.sessions += 1;
        let (settings, met) = (&self.settings, &mut self.met);
        let hello = hello(settings, (self.process, self.sessions), self.known.as_ref(), self.holding.as_ref());
        let joining = async {
            let access = settings.access.clone();
            let coordinator = Coordinator::connect(&settings.coordinator, access, patience).await?;
            let (session, first) = greet(&coordinator, hello, (&settings.coordinator, patience), met).await?;
            Ok::<_, AgentError>((coordinator, session, first))
        };
        let (coordinator, mut session, first) = tokio::select! {
            joined = joining => joined?,
            Some(()) = leave.recv() => {
                if !self.holds_state() {
                    return Ok((Verdict::Released, "asked to end before it took part".to_owned()));
                }
                // It looks on, for less time.
                self.leaving = true;
                return Err(self.abandoned());
            }
        };
        let heartbeat_ms = match &first {
            Some(Command::Welcome(welcome)) => welcome.heartbeat_ms,
            Some(Command::Reattach { heartbeat_ms, .. }) => *heartbeat_ms,
            Some(Command::Stop { .. }) => 0,
            Some(other) => return Err(out_of_turn(&self.settings, other)),
            None => return Err(self.abandoned()),
        };
        let beat = tokio::spawn(heartbeat(session.sender(), Duration::from_millis(heartbeat_ms.max(10))));
        let end = self.follow(&coordinator, &mut session, (first, leave)).await;
        beat.abort();
        end
    }

    /// Does what the coordinator says, from its answer to the hello on.
    async fn follow(
        &mut self,
        coordinator: &Coordinator,
        session: &mut Session,
        (mut first, leave): (Option<Command>, &mut mpsc::Receiver<()>),
    ) -> Result<(Verdict, String), AgentError> {
        loop {
            match first {
                Some(Command::Stop { reason, verdict }) => return Ok((verdict, reason)),
                // What it held is of no use, and it has no time to begin anew.
                Some(Command::Welcome(_)) if self.leaving => {
                    return Ok((Verdict::Released, "asked to end, and the run has no use for what it held".to_owned()));
                }
                Some(Command::Welcome(welcome)) => {
                    let beginning = self.begin(coordinator, *welcome);
                    tokio::select! {
                        begun = beginning => begun?,
                        Some(()) = leave.recv() => {
                            return Ok((Verdict::Released, "asked to end before it took part".to_owned()));
                        }
                    }
                }
                Some(Command::Reattach { worker, .. }) => self.reattach(worker),
                _ => return Err(self.abandoned()),
            }
            self.lost = None;
            match self.take_part(coordinator, session, leave).await? {
                End::Stopped(verdict, reason) => return Ok((verdict, reason)),
                End::Anew(welcome) => first = Some(Command::Welcome(welcome)),
            }
        }
    }

    /// Fetches all that an engine needs and starts it; one that there is ends first.
    async fn begin(&mut self, coordinator: &Coordinator, welcome: Welcome) -> Result<(), AgentError> {
        self.name(welcome.run, welcome.worker);
        if let Some(holding) = self.holding.take() {
            holding.end().await;
        }
        let (settings, worker) = (&self.settings, welcome.worker);
        if !settings.is_local {
            say(&format!("joined {} as worker {worker}, with {} threads", settings.coordinator, settings.threads));
        }
        let host = match settings.collective_host {
            Some(host) => host,
            None => route_to(&settings.coordinator)
                .map_err(|source| AgentError::NoRoute { address: settings.coordinator.clone(), source })?,
        };
        let meeting = (SocketAddr::new(host, 0), settings);
        self.holding = Some(Holding::start(fetch(coordinator, welcome, meeting).await?));
        Ok(())
    }

    fn name(&mut self, run: Digest, worker: WorkerId) {
        self.known = Some(Known::named(self.known.take(), run, worker));
    }

    fn reattach(&mut self, worker: WorkerId) {
        self.known.as_ref().map(|known| known.run).into_iter().for_each(|run| self.name(run, worker));
        self.holding.iter_mut().for_each(Holding::reattach);
        if !self.settings.is_local {
            say(&format!("back with {} as worker {worker}", self.settings.coordinator));
        }
    }

    async fn take_part(
        &mut self,
        coordinator: &Coordinator,
        session: &mut Session,
        leave: &mut mpsc::Receiver<()>,
    ) -> Result<End, AgentError> {
        let Some((holding, known)) = self.holding.as_mut().zip(self.known.as_mut()) else {
            return Err(self.abandoned());
        };
        let (events, worker) = (session.sender(), known.worker().unwrap_or_default());
        if self.leaving {
            // What the session before was told, this one has not heard.
            events.send(Event::Leaving).await;
        }
        let mut upload = Uploading::default();
        loop {
            tokio::select! {
                command = session.command() => match command? {
                    Some(Command::Stop { reason, verdict }) => return Ok(End::Stopped(verdict, reason)),
                    Some(Command::Welcome(welcome)) => return Ok(End::Anew(welcome)),
                    Some(command @ Command::Reattach { .. }) => return Err(out_of_turn(&self.settings, &command)),
                    Some(Command::Forget { update }) => {
                        upload.forget(update);
                        holding.forget(update);
                    }
                    Some(command) => {
                        if let Command::Save { save, parts, piece } = &command {
                            upload.order(PieceOrder { save: *save, parts: parts.clone(), piece: *piece });
                        }
                        if command.work_of().is_some() {
                            known.employed();
                        }
                        holding.order(command).map_err(|error| no_group(&error))?;
                        upload.go_on(coordinator, worker, holding.copy());
                    }
                    None => return Err(AgentError::Abandoned { address: self.settings.coordinator.clone() }),
                },
                output = holding.output() => match output {
                    // A session that is over is noticed by the command side, which knows why.
                    Output::Report(event) => { events.send(event).await; }
                    Output::Note(note) => say(&note),
                    Output::Copied(_) => upload.go_on(coordinator, worker, holding.copy()),
                    Output::Failed(failure) => {
                        report_failure(session, &events, &failure).await.ok();
                        return Err(AgentError::Engine(failure));
                    }
                    // The answer to what the session before has asked.
                    Output::Detached { .. } => {}
                },
                uploaded = upload.done() => match uploaded {
                    Ok(event) => {
                        events.send(event).await;
                        upload.go_on(coordinator, worker, holding.copy());
                    }
                    Err(failure) => {
                        // Where the session breaks as well, it was not the file's fault.
                        report_failure(session, &events, &failure).await?;
                        return Err(AgentError::Engine(failure));
                    }
                },
                Some(()) = leave.recv() => {
                    say("asked to end: this worker leaves when the run can go on without it");
                    self.leaving = true;
                    events.send(Event::Leaving).await;
                }
            }
        }
    }

    /// Whether the worker looks for its coordinator after `error`, or ends.
    fn may_come_back(&self, error: &AgentError) -> bool {
        let in_time = self.lost.map_or(Duration::ZERO, |since| since.elapsed()) < self.limit();
        self.met && in_time && error.is_loss()
    }

    /// How long a lost coordinator is looked for.
    fn limit(&self) -> Duration {
        if self.leaving { self.settings.reconnect.min(PARTING) } else { self.settings.reconnect }
    }

    /// Whether it holds something that a coordinator that comes back may want.
    fn holds_state(&self) -> bool {
        self.holding.as_ref().and_then(Holding::held).is_some()
    }

    fn abandoned(&self) -> AgentError {
        AgentError::Abandoned { address: self.settings.coordinator.clone() }
    }

    /// The coordinator is lost: leaves the group, and keeps what it holds.
    async fn part(&mut self, error: &AgentError) -> Result<(), AgentError> {
        if self.lost.is_some() {
            tokio::time::sleep(RETRY_PAUSE).await;
            return Ok(());
        }
        self.lost = Some(Instant::now());
        let mut keeps = String::new();
        if let Some(holding) = &mut self.holding {
            holding.detach().await.map_err(AgentError::Engine)?;
            if let Some(held) = holding.held() {
                keeps = format!("keeps its state of update {} and ", held.update);
            }
        }
        let seconds = self.limit().as_secs();
        say(&format!("{error}; this worker {keeps}looks for the coordinator for {seconds} s"));
        Ok(())
    }
}

fn no_group(error: &std::io::Error) -> AgentError {
    let message = format!("form a group: {error}; see ulimit -n");
    AgentError::Engine(Failure { kind: FailureKind::Internal, message })
}

/// Tells the coordinator, and stays until it has heard: it closes the session or orders to stop.
///
/// # Errors
/// The session broke before.
async fn report_failure(session: &mut Session, events: &EventSender, failure: &Failure) -> Result<(), SessionError> {
    events.send(Event::Failed(failure.clone())).await;
    let heard = async {
        loop {
            match session.command().await? {
                Some(Command::Stop { .. }) | None => return Ok(()),
                Some(_) => {}
            }
        }
    };
    // The failure itself is what matters: a coordinator that never answers must not keep a failed worker alive.
    tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap_or(Ok(()))
}

async fn heartbeat(events: EventSender, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if !events.send(Event::Heartbeat).await {
            return;
        }
    }
}

fn out_of_turn(settings: &Settings, command: &Command) -> AgentError {
    let found = match command {
        Command::Welcome(_) => "a welcome",
        Command::Reattach { .. } => "an answer to who comes back",
        Command::Form(_) => "an order to form",
        Command::Token { .. } => "a token",
        Command::Train { .. } => "an order to train",
        Command::Save { .. } => "an order to save",
        Command::Forget { .. } => "an order to forget",
        Command::Evaluate { .. } => "an order to evaluate",
        Command::Disband { .. } => "an order to disband",
        Command::Stop { .. } => "an order to stop",
    };
    let (address, found) = (settings.coordinator.clone(), found.to_owned());
    AgentError::OutOfTurn { address, found, expected: "a welcome, once, at first" }
}
