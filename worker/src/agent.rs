//! The worker's life: join, fetch, and pass orders down to the engine and its reports up, until told to stop.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use medley_common::identity::WorkerId;
use medley_common::message::{Command, Event, Failure, FailureKind, Hello, PROTOCOL, Verdict, Welcome};
use medley_proto::access::Access;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::device::Place;
use crate::engine::{self, EngineHandle, Output, Preparation, Saved};
use crate::session::{Coordinator, EventSender, Session, SessionError, Upload};

/// Engine outputs that may wait for the network.
const QUEUED_OUTPUTS: usize = 256;

/// How a worker finds its coordinator and what it computes with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of the coordinator.
    pub coordinator: String,
    /// What it asks its workers for.
    pub access: Access,
    /// How long to try to reach it.
    pub patience: Duration,
    /// The address that peers reach this worker at; found by the route to the coordinator where `None`.
    pub collective_host: Option<IpAddr>,
    /// Threads to compute with.
    pub threads: u32,
    /// What to compute on.
    pub place: Place,
    /// Whether other workers may use this one's GPU as well.
    pub shares_gpu: bool,
    /// Whether a launcher on this machine speaks for this worker.
    pub is_local: bool,
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator could not be reached or was lost.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Somebody accepts connections but says nothing.
    #[error("{address} accepts connections but does not answer as a coordinator; is the address right?")]
    Silent {
        /// The address.
        address: String,
    },
    /// The coordinator closed the session without a word.
    #[error("coordinator at {address} ended the session; has it stopped?")]
    Abandoned {
        /// The coordinator's address.
        address: String,
    },
    /// The coordinator spoke out of turn.
    #[error("coordinator at {address} sent {found}; expected {expected}")]
    OutOfTurn {
        /// The coordinator's address.
        address: String,
        /// What came.
        found: String,
        /// What should have come.
        expected: &'static str,
    },
    /// No address could be found that peers can reach.
    #[error("no local address leads to {address}: {source}; name one with --collective_host")]
    NoRoute {
        /// The coordinator's address.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The engine failed; the coordinator has been told.
    #[error("{0}")]
    Engine(Failure),
}

/// Takes part in a run until the coordinator orders to stop; returns what that means, and its reason.
///
/// `leave` is told when this worker is to go: it works on until the coordinator lets it.
///
/// # Errors
/// See [`AgentError`].
pub async fn run(settings: Settings, mut leave: mpsc::Receiver<()>) -> Result<(Verdict, String), AgentError> {
    let joining = async {
        let coordinator =
            Coordinator::connect(&settings.coordinator, settings.access.clone(), settings.patience).await?;
        let (session, first) = greet(&settings, &coordinator).await?;
        Ok::<_, AgentError>((coordinator, session, first))
    };
    let (coordinator, mut session, first) = tokio::select! {
        joined = joining => joined?,
        Some(()) = leave.recv() => return Ok((Verdict::Over, "asked to end before it took part".to_owned())),
    };
    let welcome = match first {
        Some(Command::Welcome(welcome)) => *welcome,
        Some(Command::Stop { reason, verdict }) => return Ok((verdict, reason)),
        Some(other) => return Err(out_of_turn(&settings, &other)),
        None => return Err(AgentError::Abandoned { address: settings.coordinator }),
    };
    let beat = tokio::spawn(heartbeat(session.sender(), Duration::from_millis(welcome.heartbeat_ms.max(10))));
    let end = take_part(&settings, &coordinator, &mut session, (welcome, leave)).await;
    beat.abort();
    end
}

/// Opens the session and waits for the first command: whoever listens there may be no coordinator at all.
async fn greet(settings: &Settings, coordinator: &Coordinator) -> Result<(Session, Option<Command>), AgentError> {
    let greeting = async {
        let mut session = coordinator.open(Event::Hello(hello(settings))).await?;
        let first = session.command().await?;
        Ok((session, first))
    };
    match tokio::time::timeout(settings.patience, greeting).await {
        Ok(greeted) => greeted,
        Err(_) => Err(AgentError::Silent { address: settings.coordinator.clone() }),
    }
}

async fn take_part(
    settings: &Settings,
    coordinator: &Coordinator,
    session: &mut Session,
    (welcome, mut leave): (Welcome, mpsc::Receiver<()>),
) -> Result<(Verdict, String), AgentError> {
    let worker = welcome.worker;
    if !settings.is_local {
        say(&format!("joined {} as worker {worker}, with {} threads", settings.coordinator, settings.threads));
    }
    let host = match settings.collective_host {
        Some(host) => host,
        None => route_to(&settings.coordinator)
            .map_err(|source| AgentError::NoRoute { address: settings.coordinator.clone(), source })?,
    };
    let meeting = (SocketAddr::new(host, 0), settings.place.clone());
    let preparation = tokio::select! {
        fetched = fetch(coordinator, welcome, meeting) => fetched?,
        Some(()) = leave.recv() => return Ok((Verdict::Over, "asked to end before it took part".to_owned())),
    };
    let (outputs, mut reports) = mpsc::channel(QUEUED_OUTPUTS);
    let mut engine = engine::spawn(preparation, outputs);
    let events = session.sender();
    let mut upload = Uploading::default();
    loop {
        tokio::select! {
            command = session.command() => match command? {
                Some(Command::Stop { reason, verdict }) => return Ok((verdict, reason)),
                Some(command) => {
                    if matches!(command, Command::Disband { .. }) {
                        upload.cancel();
                    }
                    pass_down(settings, &mut engine, command)?;
                }
                None => return Err(AgentError::Abandoned { address: settings.coordinator.clone() }),
            },
            output = reports.recv() => match output.unwrap_or_else(|| Output::Failed(crashed())) {
                // A session that is over is noticed by the command side, which knows why.
                Output::Report(event) => { events.send(event).await; }
                Output::Note(note) => say(&note),
                Output::Saved(saved) => upload.start(coordinator, worker, saved),
                Output::Failed(failure) => return Err(report_failure(session, &events, failure).await),
            },
            uploaded = upload.done() => match uploaded {
                Ok(event) => { events.send(event).await; }
                Err(failure) => return Err(report_failure(session, &events, failure).await),
            },
            Some(()) = leave.recv() => {
                say("asked to end: this worker leaves when the run can go on without it");
                events.send(Event::Leaving).await;
            }
        }
    }
}

/// Everything the engine needs comes through the coordinator: no data set, no tokenizer, no shared disk.
async fn fetch(
    coordinator: &Coordinator,
    welcome: Welcome,
    (collective, place): (SocketAddr, Place),
) -> Result<Preparation, SessionError> {
    let mut examples = BTreeMap::new();
    for info in &welcome.splits {
        examples.insert(info.split, coordinator.examples(welcome.worker, info.split, info.rows).await?);
    }
    let mut artifacts = BTreeMap::new();
    for artifact in &welcome.artifacts {
        let bytes = coordinator.artifact((welcome.worker, welcome.start), artifact).await?;
        artifacts.insert(artifact.kind, (artifact.file_name.clone(), bytes));
    }
    Ok(Preparation { welcome, examples, artifacts, collective, place })
}

fn pass_down(settings: &Settings, engine: &mut EngineHandle, command: Command) -> Result<(), AgentError> {
    if matches!(command, Command::Welcome(_)) {
        return Err(out_of_turn(settings, &command));
    }
    // An engine that is gone has reported why; the loop reads that next.
    engine.order(command).map_err(|error| {
        let message = format!("form a group: {error}; see ulimit -n");
        AgentError::Engine(Failure { kind: FailureKind::Internal, message })
    })
}

/// The files of a saved state on their way to the coordinator, beside all else that a worker does.
#[derive(Debug, Default)]
struct Uploading {
    task: Option<JoinHandle<Result<Event, Failure>>>,
}

impl Uploading {
    fn start(&mut self, coordinator: &Coordinator, worker: WorkerId, saved: Saved) {
        let coordinator = coordinator.clone();
        self.cancel();
        self.task = Some(tokio::spawn(async move {
            let Saved { generation, update, parameters, files } = saved;
            for (kind, bytes) in files {
                let upload = Upload { worker, generation, update, kind, bytes };
                let sent = coordinator.upload(upload).await;
                sent.map_err(|error| Failure { kind: FailureKind::Internal, message: error.to_string() })?;
            }
            Ok(Event::Saved { generation, update, parameters })
        }));
    }

    fn cancel(&mut self) {
        self.task.take().into_iter().for_each(|task| task.abort());
    }

    /// What is to be said once all files have arrived; never returns while there are none. Safe to cancel.
    async fn done(&mut self) -> Result<Event, Failure> {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let done = task.await;
        self.task = None;
        done.unwrap_or_else(|error| Err(Failure { kind: FailureKind::Internal, message: error.to_string() }))
    }
}

/// Tells the coordinator, and stays until it has heard: it closes the session or orders to stop.
async fn report_failure(session: &mut Session, events: &EventSender, failure: Failure) -> AgentError {
    if events.send(Event::Failed(failure.clone())).await {
        let heard = async {
            while let Ok(Some(command)) = session.command().await
                && !matches!(command, Command::Stop { .. })
            {}
        };
        // The failure itself is what matters: a coordinator that never answers must not keep a failed worker alive.
        tokio::time::timeout(Duration::from_secs(5), heard).await.ok();
    }
    AgentError::Engine(failure)
}

/// Writes a line to standard error, if anybody still reads it.
pub fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "medley-worker: {line}").ok();
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

fn hello(settings: &Settings) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        device: settings.place.to_string(),
        gpu: settings.place.gpu(settings.shares_gpu),
        processor: crate::ops::cpu::processor(),
        threads: settings.threads,
    }
}

fn out_of_turn(settings: &Settings, command: &Command) -> AgentError {
    let found = match command {
        Command::Welcome(_) => "a welcome",
        Command::Form(_) => "an order to form",
        Command::Train { .. } => "an order to train",
        Command::Save { .. } => "an order to save",
        Command::Evaluate { .. } => "an order to evaluate",
        Command::Disband { .. } => "an order to disband",
        Command::Stop { .. } => "an order to stop",
    };
    let (address, found) = (settings.coordinator.clone(), found.to_owned());
    AgentError::OutOfTurn { address, found, expected: "a welcome, once, at first" }
}

fn crashed() -> Failure {
    let message = "the engine thread panicked; its message stands in this worker's standard error".to_owned();
    Failure { kind: FailureKind::Internal, message }
}

/// The local address that packets to `coordinator` leave from: connecting a datagram socket sends nothing.
fn route_to(coordinator: &str) -> std::io::Result<IpAddr> {
    use std::net::ToSocketAddrs;
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in coordinator.to_socket_addrs()? {
        let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        match UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        }) {
            Ok(local) => return Ok(local.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_coordinators_are_reached_from_loopback() {
        assert_eq!(route_to("127.0.0.1:29400").unwrap(), IpAddr::from([127, 0, 0, 1]));
        assert!(route_to("nobody.invalid:1").is_err());
    }
}
