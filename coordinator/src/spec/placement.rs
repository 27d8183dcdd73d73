//! Who computes a run, and where.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use medley_proto::address::PORT;

use super::number::Number;
use crate::cli::run_flags::{RunFlags, WorkersFlag};
use crate::spec::{Chaos, Note, SpecError};

/// What this process does for its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `medley train`: coordinates, and starts its workers itself.
    Train,
    /// `medley serve`: coordinates, and waits for workers.
    Serve,
}

/// How many workers a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One on the CPU, with all its cores; one for each GPU.
    Auto,
    /// This many, at least 1.
    Exactly(u32),
}

/// Which device was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where one can be used, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// GPUs.
    Cuda,
}

/// What workers compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The cores of the machine.
    Cpu,
    /// One GPU for each worker.
    Cuda,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// What a machine offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: u32,
    /// GPUs that a worker started here can use.
    pub cuda_devices: u32,
}

impl Machine {
    /// This machine, with the GPUs that its worker's binary has found.
    #[must_use]
    pub fn here(cuda_devices: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Self { cores, cuda_devices }
    }
}

/// Who computes a run, as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// What this process does.
    pub role: Role,
    /// How many workers the run starts with.
    pub workers: Workers,
    /// What they compute on.
    pub device: DeviceChoice,
    /// Threads of each local worker; `None` shares the cores among them.
    pub threads: Option<u32>,
    /// Where the coordinator listens; loopback, unless `--credentials` or `--insecure` was given.
    pub listen: SocketAddr,
    /// Folder with the coordinator's certificate and the tokens it knows; `None` where connections are in the clear.
    pub credentials: Option<PathBuf>,
    /// Where probes and metrics are answered; nowhere unless it was given.
    pub http_listen: Option<SocketAddr>,
    /// Silence after which a worker counts as lost.
    pub heartbeat_timeout: Duration,
    /// How long to wait for the workers to join.
    pub join_timeout: Duration,
    /// Workers that are enough to go on with when others are lost.
    pub min_workers: u32,
    /// How often a local worker is started again, in all.
    pub max_restarts: u32,
    /// Whether lanes move away from slow workers.
    pub rebalance: bool,
    /// Whether each worker keeps a shard of the optimizer's state.
    pub shard_optimizer_state: bool,
    /// Faults to inject.
    pub chaos: Chaos,
}

/// Who computes a run, on a machine that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Team {
    /// Workers, at least 1 and at most one for each lane.
    pub workers: u32,
    /// What they compute on.
    pub device: Device,
    /// Threads of each local worker, at least 1.
    pub threads: u32,
}

impl Placement {
    /// Decides what was left open, from what the machine offers.
    ///
    /// # Errors
    /// [`SpecError::NoCuda`], and [`SpecError::TooFewLanes`] where there are more GPUs than lanes.
    pub(super) fn on(&self, machine: &Machine, lanes: u32) -> Result<Team, SpecError> {
        let device = match (self.device, machine.cuda_devices) {
            // Elsewhere.
            (DeviceChoice::Cuda, _) if self.role == Role::Serve => Device::Cuda,
            (DeviceChoice::Cuda, 0) => return Err(SpecError::NoCuda),
            (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, 0) => Device::Cpu,
            (DeviceChoice::Cuda | DeviceChoice::Auto, _) => Device::Cuda,
        };
        let workers = match (self.workers, device) {
            (Workers::Exactly(workers), Device::Cuda) if self.role == Role::Train && workers > machine.cuda_devices => {
                return Err(SpecError::TooFewGpus { workers, gpus: machine.cuda_devices });
            }
            (Workers::Exactly(workers), _) => workers,
            (Workers::Auto, Device::Cpu) => 1,
            (Workers::Auto, Device::Cuda) => machine.cuda_devices,
        };
        enough_lanes(workers, lanes)?;
        let local = match self.role {
            Role::Train => workers,
            Role::Serve => 1,
        };
        Ok(Team { workers, device, threads: self.threads.unwrap_or(machine.cores / local).max(1) })
    }

    pub(super) fn parse(role: Role, flags: &RunFlags, notes: &mut Vec<Note>) -> Result<Self, SpecError> {
        let given = &flags.placement;
        let workers = match (given.workers, role) {
            (WorkersFlag::Exactly(count), _) => Workers::Exactly(Number::new("--workers", count).within(1, 1024)?),
            (WorkersFlag::Auto, Role::Train) => Workers::Auto,
            (WorkersFlag::Auto, Role::Serve) => {
                return Err(SpecError::Missing {
                    flag: "--workers",
                    way_out: "say how many workers to wait for, e.g. medley serve --workers 2",
                });
            }
        };
        if let Workers::Exactly(workers) = workers {
            enough_lanes(workers, Number::new("--lanes", flags.batch.lanes).within(1, 1024)?)?;
        }
        let port = match role {
            Role::Train => 0,
            Role::Serve => PORT,
        };
        let listen = given.listen.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), |listen| listen.0);
        if !listen.ip().is_loopback() && given.credentials.is_none() {
            if !given.insecure.0 {
                return Err(SpecError::Exposed { listen });
            }
            notes.push(Note::warning(format!(
                "--insecure: whoever reaches {listen} can read the model and the data, and take part in the run"
            )));
        }
        if role == Role::Serve && given.threads.is_some() {
            notes.push(Note::warning("--threads has no effect with serve; give it to each worker instead"));
        }
        Ok(Self {
            role,
            workers,
            device: given.device.into(),
            threads: given.threads.map(|threads| Number::new("--threads", threads).within(1, 1024)).transpose()?,
            listen,
            credentials: given.credentials.clone(),
            http_listen: given.http_listen.as_ref().map(|listen| listen.0),
            heartbeat_timeout: seconds("--heartbeat_timeout", given.heartbeat_timeout)?,
            join_timeout: seconds("--join_timeout", given.join_timeout)?,
            min_workers: Number::new("--min_workers", given.min_workers).within(1, 1024)?,
            max_restarts: Number::new("--max_restarts", given.max_restarts).within(0, 1_000_000)?,
            rebalance: given.rebalance.0,
            shard_optimizer_state: given.shard_optimizer_state.0,
            chaos: given.chaos.as_deref().map(Chaos::parse).transpose()?.unwrap_or_default(),
        })
    }
}

fn enough_lanes(workers: u32, lanes: u32) -> Result<(), SpecError> {
    if workers > lanes {
        return Err(SpecError::TooFewLanes { workers, lanes, enough: workers.next_power_of_two() });
    }
    Ok(())
}

fn seconds(flag: &'static str, value: f64) -> Result<Duration, SpecError> {
    let within = |value: f64| (0.1..=86_400.0).contains(&value);
    Number::new(flag, value).that(within, "0.1 to 86400 seconds").map(Duration::from_secs_f64)
}
