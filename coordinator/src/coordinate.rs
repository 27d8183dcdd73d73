//! One run from its command to its exit code: assembles it, listens, starts local workers, drives it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use medley_common::identity::Update;
use medley_common::message::{Failure, FailureKind};
use medley_proto::v1;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::access::{Connections, Idle, Security, limits};
use crate::assembly::{Assembly, Request, assemble};
use crate::chronicle::Chronicle;
use crate::display::{Display, Event};
use crate::driver::Driver;
use crate::http::{self, Seen};
use crate::injector::Injector;
use crate::launch::{LocalWorkers, WorkerCommand, count_gpus, find_binary};
use crate::live::Live;
use crate::profile::Profile;
use crate::run::Run;
use crate::run::report::Outcome;
use crate::service::{Service, StatusFeed, Uploads};
use crate::spec::{Chaos, DeviceChoice, Machine, Placement, Role, RunSpec, Team};
use crate::stop_requests::{self, StopRequests};

/// What NVIDIA's driver makes where there is a GPU.
const NVIDIA: &str = "/dev/nvidiactl";
/// Where the coordinator listens.
pub(crate) const LISTEN_FLAG: &str = "--listen";
/// Where probes are answered.
pub(crate) const HTTP_FLAG: &str = "--http_listen";
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Events that may wait for the run.
const QUEUED_ARRIVALS: usize = 1024;
/// Lines of local workers that may wait to be told.
const QUEUED_LINES: usize = 256;
/// How long workers may take to end when the run has.
const WORKERS_GRACE: Duration = Duration::from_secs(5);
/// The same where a stream is over.
const STREAM_GRACE: Duration = Duration::from_millis(300);
/// How long sessions may take to end when the run has: a stream that somebody else holds open must not hold the end up.
const SESSIONS_GRACE: Duration = Duration::from_secs(2);

/// Makes the run that is asked for.
///
/// Must be awaited on the main thread, with which its local workers end. Whoever made `stops` before anything slow has a
/// signal that comes while the data are read stop the run as well.
pub async fn run(request: Request, stops: &mut StopRequests) -> Outcome {
    let (spec, display) = (request.spec.clone(), request.display.clone());
    run_assembled((&spec, &display), move |machine| assemble(&request, machine), stops).await
}

/// Makes the run that is put together by `assemble`, which may block, on the machines that `spec` asks for, and tells of it
/// on `display`.
///
/// Must be awaited on the main thread, as that of [`run`].
pub async fn run_assembled(
    (spec, display): (&RunSpec, &Display),
    assemble: impl FnOnce(&Machine) -> Result<Assembly, Failure> + Send + 'static,
    stops: &mut StopRequests,
) -> Outcome {
    let (sender, receiver) = stop_requests::channel();
    let outcome = tokio::select! {
        outcome = prepare_and_run((spec, display), assemble, receiver) => outcome,
        never = stops.pass_on(sender) => match never {},
    };
    outcome.unwrap_or_else(Outcome::Failed)
}

async fn prepare_and_run(
    (spec, display): (&RunSpec, &Display),
    assemble: impl FnOnce(&Machine) -> Result<Assembly, Failure> + Send + 'static,
    mut stops: mpsc::Receiver<()>,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let (placement, profile) = (spec.placement(), spec.output().profile);
    let mut security = match &placement.credentials {
        Some(folder) => Security::load(folder).map_err(|error| config(&error))?,
        None => Security::default(),
    };
    raise_open_files();
    let socket = bind(placement.listen, LISTEN_FLAG)?;
    let (public, seen) = Public::new();
    let answering = |address| answer_probes(address, seen.clone(), (started, display));
    let probes = placement.http_listen.map(answering).transpose()?;
    let binary = match placement.role {
        Role::Train => Some(find_binary().map_err(|error| config(&error))?),
        Role::Serve => None,
    };
    let gpus = usable_gpus(placement, binary.as_deref()).await?;
    idle_gpu(placement, gpus).into_iter().for_each(|line| display.line(line));
    let assembling = tokio::task::spawn_blocking(move || assemble(&Machine::here(gpus)));
    let assembly = tokio::select! {
        assembly = assembling => assembly.map_err(|error| internal(&error))??,
        _ = stops.recv() => return Ok(Outcome::Stopped { update: Update(0), saved: None }),
    };
    let listener = socket.listen(BACKLOG).map_err(|error| unavailable((placement.listen, LISTEN_FLAG), &error))?;
    let address = listener.local_addr().map_err(|error| internal(&error))?;
    assembly.summary.iter().for_each(|summary| display.show(&Event::Plan(summary)));
    assembly.notes.iter().for_each(|note| display.line(note));
    if assembly.job.splits().is_empty() && !assembly.job.is_stream {
        // All that was asked for is there.
        return Ok(Outcome::Completed);
    }
    let chaos = faults(placement, &assembly)?;
    display.begin(assembly.job.total());
    let called = called(address, placement.credentials.is_some());
    display.show(&Event::Listening(address, &called));
    let local = match binary {
        Some(binary) => local_workers(binary, &assembly.team, (address, placement, display), &mut security)?,
        None => {
            let workers = assembly.team.workers;
            display.show(&Event::Awaited(workers, &called));
            LocalWorkers::default()
        }
    };
    let (display, public) = (display.clone(), (public, seen));
    serve(assembly, listener, Ties { stops, local, display, started, chaos, security, profile, public, probes }).await
}

/// Starts this machine's own workers, with a token of their own.
fn local_workers(
    binary: PathBuf,
    team: &Team,
    (address, placement, display): (SocketAddr, &Placement, &Display),
    security: &mut Security,
) -> Result<LocalWorkers, Failure> {
    let (coordinator, device, threads) = (reachable(address), team.device.to_string(), team.threads);
    // Even on one machine: others may use it as well, and what is trained on may be confidential.
    let token = security.admit_local().map_err(|error| internal(&error))?;
    let credentials = placement.credentials.clone();
    let words = display.sifts().then(|| pass_on(display.clone()));
    let command = WorkerCommand { binary, coordinator, device, threads, credentials, token, words };
    LocalWorkers::start(command, team.workers, placement.max_restarts).map_err(|error| config(&error))
}

/// How many GPUs the workers of this machine can use, where they may.
pub(crate) async fn usable_gpus(placement: &Placement, binary: Option<&Path>) -> Result<u32, Failure> {
    match (binary, placement.device) {
        (Some(binary), DeviceChoice::Auto | DeviceChoice::Cuda) => {
            count_gpus(binary).await.map_err(|error| config(&error))
        }
        (None, _) | (_, DeviceChoice::Cpu) => Ok(0),
    }
}

/// Says that there is a GPU, and nobody who can use it.
pub(crate) fn idle_gpu(placement: &Placement, usable: u32) -> Option<&'static str> {
    let is_open = placement.role == Role::Train && placement.device == DeviceChoice::Auto;
    (is_open && usable == 0 && Path::new(NVIDIA).exists()).then_some(
        "warning: this machine has an NVIDIA GPU, but no worker here can use it, so the CPU computes; build one with \
         deploy/cuda/build, or say --device cpu",
    )
}

/// The faults that are still to be injected.
fn faults(placement: &Placement, assembly: &Assembly) -> Result<Chaos, Failure> {
    let places = if placement.role == Role::Train { assembly.team.workers } else { 0 };
    if assembly.is_complete {
        // All of the plan is past.
        return Ok(Chaos::default());
    }
    possible_faults(placement, places, assembly.job.total())?;
    Ok(placement.chaos.clone().after(assembly.job.past.update))
}

/// Refuses faults that can never come.
pub(crate) fn possible_faults(placement: &Placement, places: u32, total: Update) -> Result<(), Failure> {
    let never = placement.chaos.never(places, total);
    never.map_or(Ok(()), |message| Err(Failure { kind: FailureKind::Config, message }))
}

/// Tells what local workers write, each line by itself.
fn pass_on(display: Display) -> mpsc::Sender<(u32, String)> {
    let (sender, mut lines) = mpsc::channel::<(u32, String)>(QUEUED_LINES);
    tokio::spawn(async move {
        while let Some((pid, line)) = lines.recv().await {
            display.show(&Event::Worker(pid, &line));
        }
    });
    sender
}

/// Answers probes from now on, while the data are read.
fn answer_probes(
    address: SocketAddr,
    seen: Seen,
    (started, display): (Instant, &Display),
) -> Result<JoinHandle<()>, Failure> {
    let listener =
        bind(address, HTTP_FLAG)?.listen(BACKLOG).map_err(|error| unavailable((address, HTTP_FLAG), &error))?;
    let address = listener.local_addr().map_err(|error| internal(&error))?;
    display.show(&Event::Probes(address));
    Ok(tokio::spawn(http::serve(listener, seen, started)))
}

/// Takes the address early, so that one in use is known before the data are read; nobody is answered until the run can
/// start, so workers that come early are turned away and try again.
pub(crate) fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpSocket, Failure> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bind().map_err(|error| unavailable((address, flag), &error))
}

/// Where this machine's own workers find a coordinator that listens on all of its addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// What a person types behind `--coordinator`. One that listens on all addresses is called by its machine's name; which
/// names its certificate is for, who made it knows.
fn called(address: SocketAddr, is_secured: bool) -> String {
    let place = match address.ip().is_unspecified() {
        true => format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), address.port()),
        false => address.to_string(),
    };
    if is_secured { format!("{place} --credentials DIR") } else { place }
}

fn unavailable((address, flag): (SocketAddr, &str), error: &std::io::Error) -> Failure {
    let message = format!("listen on {address}: {error}; choose another address with {flag}");
    Failure { kind: FailureKind::Config, message }
}

struct Ties {
    stops: mpsc::Receiver<()>,
    local: LocalWorkers,
    display: Display,
    started: Instant,
    chaos: Chaos,
    security: Security,
    /// Whether to write where the time goes.
    profile: bool,
    public: (Public, Seen),
    /// Who answers probes and browsers, where that is asked for.
    probes: Option<JoinHandle<()>>,
}

/// Where the run tells everybody how it stands.
struct Public {
    status: watch::Sender<v1::Status>,
    live: watch::Sender<Live>,
    over: watch::Sender<bool>,
}

impl Public {
    /// With the other end of it.
    fn new() -> (Self, Seen) {
        let ((status, told), (live, shown)) = (watch::channel(v1::Status::default()), watch::channel(Live::default()));
        let (over, end) = watch::channel(false);
        (Self { status, live, over }, Seen { status: told, live: shown, over: end })
    }
}

/// Every connection is an open file; many systems allow few unless they are asked for more.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is refused, what is allowed must do.
    setrlimit(Resource::Nofile, limit).ok();
}

/// Serves the run until it ends.
async fn serve(assembly: Assembly, listener: TcpListener, ties: Ties) -> Result<Outcome, Failure> {
    let Ties { stops, local, display, started, chaos, security, profile, public: (public, seen), probes } = ties;
    public.live.send_replace(assembly.live);
    let (folder, is_stream) = (assembly.folder, assembly.job.is_stream);
    let profile = profile.then(|| Profile::new(folder.clone(), started));
    let (slot, uploads) = watch::channel(None);
    let (answer, answers) = mpsc::unbounded_channel();
    let recorder = assembly.keeper.start(slot, answer);
    let (arrive, arrivals) = mpsc::channel(QUEUED_ARRIVALS);
    let (chronicle, chronicled) = watch::channel(Chronicle::new(assembly.log));
    let workers = assembly.job.workers;
    let (service, files) = Service::new(arrive, assembly.store, Uploads::new(uploads), (workers, assembly.last_worker));
    let shutdown = seen.clone().end();
    let router = service.router(StatusFeed::new(seen.status, chronicled, seen.live, folder), security);
    let router = router.map_err(|error| config(error.as_ref()))?;
    let connections = Connections::new(limits::connections(workers), Idle::UntilProven(limits::PROOF), limits::CALLS);
    let server = router.serve_with_incoming_shutdown(connections.incoming(listener), shutdown);
    let server = tokio::spawn(server);
    // Waiting for workers begins now, however long the data took.
    let run = Run::new(Instant::now(), assembly.job);
    let injector = Injector::new(chaos, Instant::now());
    let driver = Driver {
        run,
        arrivals,
        recorder,
        answers,
        stops,
        local,
        display,
        status: public.status,
        chronicle,
        live: public.live,
        files,
        injector,
        profile,
        started,
    };
    let (outcome, local) = driver.drive().await;
    // Workers of a stream hold nothing that is to be saved, and whoever waits for its end waits for these.
    let (workers_grace, sessions_grace) =
        if is_stream { (STREAM_GRACE, Duration::ZERO) } else { (WORKERS_GRACE, SESSIONS_GRACE) };
    local.stop(workers_grace).await;
    public.over.send_replace(true);
    // A session that does not end is cut off with the process: all that matters is written.
    let ended = async {
        server.await.ok();
        if let Some(probes) = probes {
            probes.await.ok();
        }
    };
    tokio::time::timeout(sessions_grace, ended).await.ok();
    Ok(outcome)
}

fn internal(error: &dyn std::error::Error) -> Failure {
    Failure { kind: FailureKind::Internal, message: error.to_string() }
}

fn config(error: &dyn std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}
