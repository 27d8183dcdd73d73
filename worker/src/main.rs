//! `medley-worker`: one worker process.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use medley_common::message::{Failure, FailureKind, Verdict};
use medley_proto::access::{Access, AccessError, TOKEN_VARIABLE};
use medley_proto::address::CoordinatorAddress;
use medley_worker::agent::{self, AgentError, Settings};
use medley_worker::crew::{self, Size};
use medley_worker::device::{self, Device};
use medley_worker::display::say;
use medley_worker::program;
use medley_worker::session::SessionError;
use medley_worker::surroundings::{Given, Surroundings, SurroundingsError};
use medley_worker::weights::{self, WeightsError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// One worker of a Medley run: computes forward and backward passes on its device and sums gradients with its peers.
///
/// It needs nothing but the coordinator's address: data, weights and recipe come from there. What flags leave open is
/// looked for in the environment, as torchrun (RANK, LOCAL_RANK, MASTER_ADDR, ...), Kubeflow (PET_*), Slurm (SLURM_*) and
/// Kubernetes (JOB_COMPLETION_INDEX) leave it, in this order; --print-env shows what was found.
#[derive(Debug, Parser)]
#[command(name = "medley-worker", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    errand: Option<Errand>,
    /// Address of the coordinator, host:port [default: $MEDLEY_COORDINATOR, else what torchrun, Kubeflow or Slurm say]
    #[arg(long, value_name = "ADDR")]
    coordinator: Option<CoordinatorAddress>,
    /// Show what is understood of flags and environment, as a shell reads it, with where it comes from, and end
    #[arg(long = "print-env", alias = "print_env")]
    print_env: bool,
    /// List the GPUs that this build can use, one a line, and end
    #[arg(long = "list-devices", alias = "list_devices")]
    list_devices: bool,
    /// Write what a shell (bash, zsh, fish, elvish, powershell) needs to complete these flags, and end
    #[arg(long, value_name = "SHELL", value_enum, hide_possible_values = true)]
    completions: Option<Shell>,
    /// Write the manual page, and end
    #[arg(long)]
    man: bool,
    /// Start so many workers on this machine, each with a GPU or a share of the cores of its own, and those that are lost
    /// again; auto: one for each GPU [default: this process is one worker]
    #[arg(long, value_name = "N|auto", conflicts_with = "local_rank")]
    workers: Option<Size>,
    /// How often --workers starts lost workers again, in all
    #[arg(long = "max_restarts", alias = "max-restarts", value_name = "N", default_value_t = 10)]
    max_restarts: u32,
    /// Device to compute on: auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Number of this worker on its machine, from 0: which GPU it takes [default: $LOCAL_RANK, else $SLURM_LOCALID]
    #[arg(long = "local_rank", alias = "local-rank", value_name = "N")]
    local_rank: Option<u32>,
    /// Threads to compute with on the CPU [default: all cores, or this worker's share as torchrun or Slurm say]
    #[arg(long)]
    threads: Option<u32>,
    /// Address that other workers reach this one at [default: the one that leads to the coordinator]
    #[arg(long = "collective_host", alias = "collective-host", value_name = "IP")]
    collective_host: Option<IpAddr>,
    /// Folder with ca.crt and token, of a coordinator that other machines reach [default: $MEDLEY_CREDENTIALS]
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Seconds to go on trying to reach the coordinator
    #[arg(long = "connect_timeout", alias = "connect-timeout", default_value_t = 60, value_name = "SECONDS")]
    connect_timeout: u64,
    /// Seconds to go on trying to reach a coordinator that is lost, and to keep the state for it; 0 ends with it
    #[arg(long = "reconnect_timeout", alias = "reconnect-timeout", default_value_t = 300, value_name = "SECONDS")]
    reconnect_timeout: u64,
    /// Whether to sum with workers on this machine, on the CPU, through memory that both share: on, or off for TCP
    #[arg(long = "shared_memory", alias = "shared-memory", value_name = "on|off", env = "MEDLEY_SHARED_MEMORY")]
    #[arg(value_parser = switch, default_value = "on")]
    shared_memory: Switch,
    /// Let other workers with this flag use the same GPU: for checks alone, and NCCL must be told as well, by NCCL_HOSTID
    /// or NCCL_MULTI_RANK_GPU_ENABLE
    #[arg(long = "share_gpu", alias = "share-gpu")]
    share_gpu: bool,
    /// End when the process with this id, the one that started this worker, ends
    #[arg(long, hide = true)]
    parent: Option<u32>,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

/// What a word says; an empty variable is one that is not set.
fn switch(word: &str) -> Result<Switch, String> {
    match word {
        "on" | "" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        _ => Err("expected on or off".to_owned()),
    }
}

/// What `medley` has a worker do that is no training.
#[derive(Debug, clap::Subcommand)]
enum Errand {
    /// Write the tensors of a pickle to a safetensors file, for medley convert
    #[command(hide = true)]
    Convert {
        /// The pickle
        from: PathBuf,
        /// The safetensors file, which is replaced
        to: PathBuf,
    },
}

impl Errand {
    /// Does it, and says on standard output what came of it. Blocks.
    fn run(&self) -> anyhow::Result<()> {
        let Self::Convert { from, to } = self;
        let bytes = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        let conversion = weights::convert(&from.display().to_string(), &bytes, to)?;
        let mut out = std::io::stdout().lock();
        for names in &conversion.shared {
            let names = names.join(", ");
            writeln!(out, "note: {names} lay in the same memory; each is written in full")?;
        }
        writeln!(out, "{} tensors, each with its own name, type and bytes", conversion.tensors)?;
        Ok(())
    }
}

impl Arguments {
    /// Whether `medley train` has started this worker, and speaks for it.
    fn is_of_run(&self) -> bool {
        self.parent.is_some() && self.workers.is_none()
    }
}

/// The variables by which `medley train` tells its workers what is theirs.
const LAUNCHED: [&str; 2] = ["LOCAL_RANK", TOKEN_VARIABLE];

/// Signals this close to each other ask for the same.
const ONE_REQUEST: Duration = Duration::from_secs(2);

/// Exit codes: 0 done, 64 usage, 65 data, 70 internal or lost, 75 may be started again, 78 settings.
fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            // Nothing is left to do where even standard error is closed.
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(parent) = arguments.parent {
        die_with(parent).context("bind this worker's life to its launcher's")?;
    }
    if let Some(errand) = &arguments.errand {
        errand.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.list_devices {
        let mut out = std::io::stdout().lock();
        device::list()?.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(text) = about_itself(&arguments)? {
        std::io::stdout().lock().write_all(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let around = surroundings(&arguments)?;
    if arguments.print_env {
        writeln!(std::io::stdout().lock(), "{around}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let coordinator = around.coordinator()?.to_string();
    if let Some(size) = arguments.workers.filter(|_| arguments.parent.is_none()) {
        // On this thread alone: the kernel ends a worker with the thread that has started it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let together = async {
            let count = crew::count(size, arguments.device != Device::Cpu).await?;
            crew::run(count, arguments.max_restarts).await
        };
        return Ok(ExitCode::from(runtime.block_on(together).context("start the workers of this machine")?));
    }
    let folder = around.credentials.map(|folder| folder.value);
    let access = Access::load(folder.as_deref(), around.token.map(|token| token.0).as_deref())?;
    let access = if arguments.is_of_run() { access.on_this_machine() } else { access };
    // What cannot be used is known before anything starts, and not tried again.
    access.endpoint(&coordinator)?;
    let place = arguments.device.place(around.local_rank.map(|rank| rank.value))?;
    let threads = around.threads.value;
    rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build_global().context("start the threads")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let is_local = arguments.is_of_run();
    let settings = Settings {
        coordinator,
        access,
        patience: Duration::from_secs(arguments.connect_timeout),
        reconnect: Duration::from_secs(arguments.reconnect_timeout),
        collective_host: arguments.collective_host,
        threads,
        program: program::digest().context("read this program, whose digest the run records")?,
        place,
        shared_memory: arguments.shared_memory == Switch::On,
        shares_gpu: arguments.share_gpu,
        is_local,
    };
    let end = runtime.block_on(async { anyhow::Ok(agent::run(settings, leave_requests(is_local)?).await) })?;
    // The engine may sit in a collective that nobody will finish: leave it behind.
    runtime.shutdown_background();
    conclude(end, is_local)
}

/// What was asked of the program itself: a shell's completions, the manual page.
fn about_itself(arguments: &Arguments) -> std::io::Result<Option<Vec<u8>>> {
    let (mut command, mut text) = (Arguments::command(), Vec::new());
    if let Some(shell) = arguments.completions {
        clap_complete::generate(shell, &mut command, "medley-worker", &mut text);
    } else if arguments.man {
        clap_mangen::Man::new(command).render(&mut text)?;
    }
    Ok((!text.is_empty()).then_some(text))
}

/// What is around this worker. One that `medley train` has started is told all by it: what is around `medley train`,
/// e.g. the rank of a job's task, is not about its workers.
fn surroundings(arguments: &Arguments) -> anyhow::Result<Surroundings> {
    let is_local = arguments.is_of_run();
    let given = Given {
        coordinator: arguments.coordinator.clone(),
        local_rank: arguments.local_rank,
        threads: arguments.threads,
        credentials: arguments.credentials.clone(),
        cores: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from))?,
    };
    let variables = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| !is_local || LAUNCHED.contains(&name.as_str()));
    Ok(Surroundings::resolve(&given, &variables.collect())?)
}

/// SIGTERM as a request to leave, and Ctrl-C where no launcher answers it; asked again, the worker ends at once. What
/// comes within [`ONE_REQUEST`] is one request: Slurm may signal all processes of a task, those whose parent passes
/// signals on as well.
fn leave_requests(is_local: bool) -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    let kinds = [(SignalKind::terminate(), true), (SignalKind::interrupt(), !is_local)];
    for (kind, _) in kinds.into_iter().filter(|(_, leaves)| *leaves) {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            if signals.recv().await.is_some() && sender.send(()).await.is_ok() {
                let until = tokio::time::Instant::now() + ONE_REQUEST;
                while tokio::time::timeout_at(until, signals.recv()).await.is_ok() {}
                signals.recv().await;
                std::process::exit(70);
            }
        });
    }
    if is_local {
        // A signal to the whole group of processes is the launcher's to answer: it saves, then stops its workers.
        for kind in [SignalKind::interrupt(), SignalKind::hangup()] {
            let mut ignored = signal(kind)?;
            tokio::spawn(async move { while ignored.recv().await.is_some() {} });
        }
    }
    Ok(receiver)
}

/// Says how it ended, where nobody else does: a launcher says what its workers have reported.
fn conclude(end: Result<(Verdict, String), AgentError>, is_local: bool) -> anyhow::Result<ExitCode> {
    match end {
        Ok((verdict, reason)) => {
            if !is_local {
                say(&reason);
            }
            Ok(ExitCode::from(match verdict {
                Verdict::Over => 0,
                // Its launcher starts nobody in the place of one that leaves in order.
                Verdict::Released if is_local => 0,
                Verdict::Released | Verdict::Replaced => 75,
                Verdict::Refused => 78,
                Verdict::Failed => 70,
            }))
        }
        Err(AgentError::Engine(failure)) if is_local => Ok(ExitCode::from(code_of(Some(failure.kind)))),
        Err(error) => Err(error.into()),
    }
}

/// Asks the kernel to end this process with its parent, and makes sure that the parent has not ended before.
fn die_with(parent: u32) -> anyhow::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(now == i32::try_from(parent).ok(), "process {parent} is gone");
    Ok(())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(SurroundingsError::NoCoordinator) = error.downcast_ref() {
        return 64;
    }
    match error.downcast_ref::<WeightsError>() {
        Some(WeightsError::Unwritable { .. }) => return code_of(Some(FailureKind::Config)),
        Some(_) => return code_of(Some(FailureKind::Data)),
        None => {}
    }
    if error.is::<AccessError>() || error.is::<SurroundingsError>() {
        return code_of(Some(FailureKind::Config));
    }
    let failure = match error.downcast_ref::<AgentError>() {
        Some(AgentError::Engine(failure)) => Some(failure),
        Some(AgentError::Session(SessionError::Denied { .. })) => return code_of(Some(FailureKind::Config)),
        _ => error.downcast_ref::<Failure>(),
    };
    code_of(failure.map(|failure| failure.kind))
}

fn code_of(kind: Option<FailureKind>) -> u8 {
    match kind {
        Some(FailureKind::Data) => 65,
        Some(FailureKind::Config) => 78,
        Some(FailureKind::Lost | FailureKind::Internal | FailureKind::Diverged) | None => 70,
    }
}
