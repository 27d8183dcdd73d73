//! What is around a worker: what its launcher tells it by flags, and by the variables that torchrun, Kubeflow, Slurm and
//! Kubernetes set.
//!
//! Each value has sources in an order, those of [`Surroundings::resolve`]; the first that is set decides, and those
//! after it are not read. An empty variable is not set.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use medley_proto::access::{FOLDER_VARIABLE, TOKEN_VARIABLE};
use medley_proto::address::{CoordinatorAddress, PORT};

use crate::node_list::first_node;

/// The environment variable that names the coordinator, `host:port`; comes before what any scheduler says.
pub const COORDINATOR_VARIABLE: &str = "MEDLEY_COORDINATOR";

/// What says which host the coordinator is on: the last two are lists of Slurm's, the older name last.
const HOSTS: [&str; 4] = ["MASTER_ADDR", "PET_MASTER_ADDR", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];
/// How torchrun counts the processes of a node by itself.
const COUNTED: [&str; 4] = ["auto", "cpu", "gpu", "xpu"];

/// The variables of a process.
pub type Variables = BTreeMap<String, String>;

/// What was given by flags, and what the machine has.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `--coordinator`.
    pub coordinator: Option<CoordinatorAddress>,
    /// `--local_rank`.
    pub local_rank: Option<u32>,
    /// `--threads`.
    pub threads: Option<u32>,
    /// `--credentials`.
    pub credentials: Option<PathBuf>,
    /// Cores that this process may use.
    pub cores: u32,
}

/// A value, and who has told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told<T> {
    /// The value.
    pub value: T,
    /// The flag or the variables that it comes from, in words.
    pub by: String,
}

/// What a worker knows of the job that it is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Where its coordinator is.
    pub coordinator: Option<Told<CoordinatorAddress>>,
    /// Its number among the workers of the job, from 0. The coordinator gives out ranks of its own.
    pub rank: Option<Told<u32>>,
    /// The workers that the job was started with.
    pub world: Option<Told<u32>>,
    /// Its number among the workers of its machine, from 0: which GPU it takes.
    pub local_rank: Option<Told<u32>>,
    /// Threads to compute with on the CPU, at least 1.
    pub threads: Told<u32>,
    /// The folder with its credentials.
    pub credentials: Option<Told<PathBuf>>,
    /// The token that comes before the folder's.
    pub token: Option<Token>,
}

/// A secret from the environment; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a worker does not understand what it was told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SurroundingsError {
    /// A flag or a variable whose value makes no sense.
    #[error("{name} is \"{value}\"; expected {expected}")]
    Value {
        /// The flag or the variable.
        name: String,
        /// Its value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// A number that is not below the count of them.
    #[error("the rank is {rank} ({rank_by}), and there are {world} workers ({world_by}); ranks count from 0")]
    Rank {
        /// The rank.
        rank: u32,
        /// Where it comes from.
        rank_by: String,
        /// The number of workers.
        world: u32,
        /// Where that comes from.
        world_by: String,
    },
    /// Nothing says where the coordinator is.
    #[error(
        "nothing says where the coordinator is; give --coordinator HOST:PORT, or set {COORDINATOR_VARIABLE} (or \
         MASTER_ADDR, as torchrun does)"
    )]
    NoCoordinator,
}

impl Surroundings {
    /// Understands what was told. For each value, the first source that is set:
    ///
    /// | value | sources |
    /// |---|---|
    /// | coordinator's host | `--coordinator`, `MEDLEY_COORDINATOR`, `MASTER_ADDR`, `PET_MASTER_ADDR`, the first node of `SLURM_JOB_NODELIST` |
    /// | its port | with the two first; `MASTER_PORT`, `PET_MASTER_PORT` (not under torchrun, whose own they are); 29400 |
    /// | rank | `RANK`, `PET_NODE_RANK` (times `PET_NPROC_PER_NODE`, and the local rank), `SLURM_PROCID`, `JOB_COMPLETION_INDEX` |
    /// | workers | `WORLD_SIZE`, `PET_NNODES` (times `PET_NPROC_PER_NODE`), `SLURM_NTASKS` |
    /// | local rank | `--local_rank`, `LOCAL_RANK`, `SLURM_LOCALID` |
    /// | threads | `--threads`, the cores divided by `LOCAL_WORLD_SIZE`, `SLURM_CPUS_PER_TASK`, all cores |
    /// | credentials | `--credentials`, `MEDLEY_CREDENTIALS` |
    ///
    /// # Errors
    /// The source that decides has a value that makes no sense; its name and value are in the error.
    pub fn resolve(given: &Given, variables: &Variables) -> Result<Self, SurroundingsError> {
        let read = Reader { variables };
        let local_rank = read.local_rank(given)?;
        let (rank, world) = (read.rank(local_rank.as_ref())?, read.world()?);
        if let (Some(rank), Some(world)) = (&rank, &world)
            && rank.value >= world.value
        {
            let (rank_by, world_by) = (rank.by.clone(), world.by.clone());
            return Err(SurroundingsError::Rank { rank: rank.value, rank_by, world: world.value, world_by });
        }
        let folder = given.credentials.clone().map(|folder| told(folder, "--credentials"));
        let named = || read.text(FOLDER_VARIABLE).map(|folder| told(PathBuf::from(folder), FOLDER_VARIABLE));
        Ok(Self {
            coordinator: read.coordinator(given)?,
            rank,
            world,
            local_rank,
            threads: read.threads(given)?,
            credentials: folder.or_else(named),
            token: read.text(TOKEN_VARIABLE).map(|token| Token(token.to_owned())),
        })
    }

    /// Where the coordinator is.
    ///
    /// # Errors
    /// Nothing says it.
    pub fn coordinator(&self) -> Result<&CoordinatorAddress, SurroundingsError> {
        self.coordinator.as_ref().map(|told| &told.value).ok_or(SurroundingsError::NoCoordinator)
    }
}

/// Assignments that a shell reads, with where each comes from; the token is not shown.
impl fmt::Display for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { coordinator, rank, world, local_rank, threads, credentials, token } = self;
        let coordinator = coordinator.as_ref().map(|told| (told.value.to_string(), told.by.as_str()));
        line(f, COORDINATOR_VARIABLE, coordinator, "give --coordinator HOST:PORT")?;
        line(f, "RANK", number(rank.as_ref()), "the coordinator gives out ranks")?;
        line(f, "WORLD_SIZE", number(world.as_ref()), "the coordinator knows")?;
        line(f, "LOCAL_RANK", number(local_rank.as_ref()), "the first GPU, where there are any")?;
        let folder = credentials.as_ref().map(|told| (quoted(&told.value.to_string_lossy()), told.by.as_str()));
        line(f, FOLDER_VARIABLE, folder, "connections are in the clear")?;
        writeln!(f, "# {TOKEN_VARIABLE} is {}", if token.is_some() { "set (never shown)" } else { "not set" })?;
        write!(f, "# threads: {} ({})", threads.value, threads.by)
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, told: Option<(String, &str)>, else_: &str) -> fmt::Result {
    match told {
        Some((value, by)) => {
            let assignment = format!("{name}={value}");
            writeln!(f, "{assignment:<40}# {by}")
        }
        None => writeln!(f, "# {name} is not known: {else_}"),
    }
}

fn number(told: Option<&Told<u32>>) -> Option<(String, &str)> {
    told.map(|told| (told.value.to_string(), told.by.as_str()))
}

/// A word that a shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn told<T>(value: T, by: impl Into<String>) -> Told<T> {
    Told { value, by: by.into() }
}

/// Processes of each node.
enum Processes {
    /// Nobody says.
    Unsaid,
    /// torchrun counts them; nobody else knows.
    Counted,
    /// As many.
    Told(u32),
}

/// The variables, and how each kind of value is read from them.
struct Reader<'a> {
    variables: &'a Variables,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The variable's value, read by `parse`.
    fn read<T>(
        &self,
        name: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Told<T>>, SurroundingsError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || SurroundingsError::Value { name: name.to_owned(), value: text.to_owned(), expected };
        parse(text).map(|value| Some(told(value, name))).ok_or_else(wrong)
    }

    /// The first of `names` that is set.
    fn set<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().copied().find(|name| self.text(name).is_some())
    }

    fn index(&self, names: &[&str]) -> Result<Option<Told<u32>>, SurroundingsError> {
        let Some(name) = self.set(names) else { return Ok(None) };
        self.read(name, "a number from 0", |text| text.parse().ok())
    }

    fn count(&self, name: &str) -> Result<Option<Told<u32>>, SurroundingsError> {
        self.read(name, "a number from 1", |text| text.parse().ok().filter(|count| *count > 0))
    }

    fn coordinator(&self, given: &Given) -> Result<Option<Told<CoordinatorAddress>>, SurroundingsError> {
        if let Some(address) = &given.coordinator {
            return Ok(Some(told(address.clone(), "--coordinator")));
        }
        let whole = |text: &str| text.parse().ok();
        if let Some(address) = self.read(COORDINATOR_VARIABLE, "a host and a port, e.g. node1:29400", whole)? {
            return Ok(Some(address));
        }
        let Some(name) = self.set(&HOSTS) else { return Ok(None) };
        let port = self.port()?;
        let on = |host: &str| CoordinatorAddress::on(&first_node(host), port.value);
        let address = self.read(name, "the coordinator's host, by name or address", on)?;
        Ok(address.map(|address| told(address.value, format!("{name}, {}", port.by))))
    }

    /// torchrun listens at `MASTER_PORT` itself, so there a coordinator is looked for at Medley's own port; at the next
    /// one where torchrun has taken that.
    fn port(&self) -> Result<Told<u16>, SurroundingsError> {
        let Some(name) = self.set(&["MASTER_PORT", "PET_MASTER_PORT"]) else {
            return Ok(told(PORT, "Medley's port"));
        };
        let number = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let port = self.read(name, "a port, 1 to 65535", number)?.map_or(PORT, |port| port.value);
        Ok(match (self.text("TORCHELASTIC_RUN_ID"), port) {
            (None, port) => told(port, name),
            (Some(_), PORT) => told(PORT + 1, format!("the port after Medley's ({name} is torchrun's own)")),
            (Some(_), _) => told(PORT, format!("Medley's port ({name} is torchrun's own)")),
        })
    }

    fn local_rank(&self, given: &Given) -> Result<Option<Told<u32>>, SurroundingsError> {
        match given.local_rank {
            Some(rank) => Ok(Some(told(rank, "--local_rank"))),
            None => self.index(&["LOCAL_RANK", "SLURM_LOCALID"]),
        }
    }

    fn rank(&self, local_rank: Option<&Told<u32>>) -> Result<Option<Told<u32>>, SurroundingsError> {
        let rank = self.index(&["RANK", "PET_NODE_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX"])?;
        let Some(Told { value: node, .. }) = rank.as_ref().filter(|rank| rank.by == "PET_NODE_RANK") else {
            return Ok(rank);
        };
        let local = local_rank.map_or(0, |rank| rank.value);
        let among = match self.processes()? {
            Processes::Unsaid => return Ok(rank),
            Processes::Counted => None,
            Processes::Told(each) => node.checked_mul(each).and_then(|before| before.checked_add(local)),
        };
        Ok(among.map(|among| told(among, "PET_NODE_RANK, PET_NPROC_PER_NODE")))
    }

    fn world(&self) -> Result<Option<Told<u32>>, SurroundingsError> {
        if let Some(world) = self.count("WORLD_SIZE")? {
            return Ok(Some(world));
        }
        let nodes = self.read("PET_NNODES", "a number of nodes, or a range such as 1:4", nodes)?;
        match nodes {
            Some(Told { value: Some(nodes), .. }) => {
                let world = match self.processes()? {
                    Processes::Unsaid => Some(nodes),
                    Processes::Counted => None,
                    Processes::Told(each) => each.checked_mul(nodes),
                };
                Ok(world.map(|world| told(world, "PET_NNODES, PET_NPROC_PER_NODE")))
            }
            // As many as come.
            Some(_) => Ok(None),
            None => self.count("SLURM_NTASKS"),
        }
    }

    /// Processes a node as Kubeflow says it.
    fn processes(&self) -> Result<Processes, SurroundingsError> {
        let parse = |text: &str| match text.parse() {
            Ok(0) => None,
            Ok(count) => Some(Processes::Told(count)),
            Err(_) => COUNTED.contains(&text).then_some(Processes::Counted),
        };
        let told = self.read("PET_NPROC_PER_NODE", "a number from 1, or auto, cpu, gpu or xpu", parse)?;
        Ok(told.map_or(Processes::Unsaid, |told| told.value))
    }

    fn threads(&self, given: &Given) -> Result<Told<u32>, SurroundingsError> {
        if let Some(threads) = given.threads {
            return match threads {
                0 => Err(SurroundingsError::Value {
                    name: "--threads".to_owned(),
                    value: threads.to_string(),
                    expected: "at least 1",
                }),
                threads => Ok(told(threads, "--threads")),
            };
        }
        let cores = given.cores.max(1);
        if let Some(local) = self.count("LOCAL_WORLD_SIZE")? {
            let by = format!("{cores} cores, shared as LOCAL_WORLD_SIZE={} says", local.value);
            return Ok(told((cores / local.value).max(1), by));
        }
        Ok(self.count("SLURM_CPUS_PER_TASK")?.unwrap_or_else(|| told(cores, "all cores")))
    }
}

/// A number of nodes; `None` inside for a range.
fn nodes(text: &str) -> Option<Option<u32>> {
    let count = |text: &str| text.parse::<u32>().ok().filter(|count| *count > 0);
    match text.split_once(':') {
        None => count(text).map(Some),
        Some((low, high)) => (count(low)? <= count(high)?).then_some(None),
    }
}

#[cfg(test)]
#[path = "surroundings_test.rs"]
mod tests;
