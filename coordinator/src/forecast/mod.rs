//! `medley plan`: all that can be known of a run before anything starts. It refuses what the run would refuse, in the same
//! words, and changes nothing.

mod course;
mod memory;
mod scaling;
mod speed;
mod text;

use std::collections::BTreeMap;

use medley_common::example::Example;
use medley_common::identity::{Split, Update};
use medley_common::message::{Failure, FailureKind};
use medley_common::model::ModelConfig;
use serde::Serialize;

use crate::access::Security;
use crate::archive::{OutputDir, Space};
use crate::cli::Plan;
use crate::coordinate::{HTTP_FLAG, LISTEN_FLAG, bind, idle_gpu, possible_faults, usable_gpus};
use crate::launch::find_binary;
use crate::spec::{BatchMeaning, Bound, Device, Machine, Placement};
use crate::survey::Survey;

pub use course::{Course, LaneShare, RateAt, Times};
pub use memory::Memory;
pub use scaling::Scaling;
pub use speed::Speed;

use memory::{Load, Shape, predicted_tokens};
use scaling::{Batch, Work};

/// What a run comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// What is printed at the start of the run as well, by name.
    pub summary: Vec<(String, String)>,
    /// What to tell before it starts.
    pub notes: Vec<String>,
    /// The course of training; `None` where nothing is left to train.
    pub training: Option<Course>,
    /// Rows of every split.
    pub rows: BTreeMap<String, u64>,
    /// What each worker needs of memory, by rank: estimates.
    pub memory_estimates: Vec<Memory>,
    /// Where the workers are.
    pub machine: Around,
    /// The room on the disk; `None` where nothing is trained.
    pub disk: Option<Room>,
    /// How long training takes; `None` where that is not known.
    pub time: Option<Speed>,
    /// How long an update takes on so many GPUs, on paper, where that was asked.
    pub scaling: Vec<Scaling>,
}

/// What is around the run on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Around {
    /// The addresses that it will listen on, by flag. All are free.
    pub listens: BTreeMap<String, String>,
    /// The folder of certificates and tokens, which can be read; `None` where connections are in the clear.
    pub credentials: Option<String>,
    /// GPUs that a worker here can use; 0 where it was not to look for any.
    pub gpus: u32,
    /// Cores that this process may use.
    pub cores: u32,
    /// Memory that is available; `None` where the system does not tell.
    pub available_memory_bytes: Option<u64>,
}

/// The room on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Room {
    /// What the run needs at its peak.
    pub need_bytes: u64,
    /// What it can have.
    pub free_bytes: u64,
    /// What the need consists of.
    pub plan: String,
}

impl From<Space> for Room {
    fn from(Space { need_bytes, free_bytes, plan }: Space) -> Self {
        Self { need_bytes, free_bytes, plan }
    }
}

impl Forecast {
    /// Looks into the run that is asked for, as it would itself before it starts.
    ///
    /// # Errors
    /// Whatever the run would be refused for.
    pub async fn of(asked: Plan) -> Result<Self, Failure> {
        let placement = asked.spec.placement().clone();
        // In the order of the run, which says the first thing that is wrong.
        if let Some(folder) = &placement.credentials {
            Security::load(folder).map_err(|error| config(&error))?;
        }
        bind(placement.listen, LISTEN_FLAG)?;
        placement.http_listen.map(|address| bind(address, HTTP_FLAG)).transpose()?;
        let binary = find_binary().map_err(|error| config(&error))?;
        let gpus = usable_gpus(&placement, Some(&binary)).await?;
        let machine = Machine::here(gpus);
        let looking = tokio::task::spawn_blocking(move || Self::assembled(&asked, &machine));
        let mut forecast = looking.await.map_err(|error| internal(&error))??;
        forecast.notes.extend(idle_gpu(&placement, gpus).map(ToOwned::to_owned));
        Ok(forecast)
    }

    fn assembled(asked: &Plan, machine: &Machine) -> Result<Self, Failure> {
        let spec = &asked.spec;
        let survey = Survey::of(spec, machine, OutputDir::look)?;
        let Survey { inputs, bound, output, origin, trains, train_rows, need, .. } = &survey;
        let mut notes = survey.notes.clone();
        if *trains {
            possible_faults(spec.placement(), bound.team.workers, Update(bound.cadence.total_updates))?;
        }
        let training = inputs.splits.get(&Split::Train).filter(|_| *trains);
        let surveyed = training.map(|rows| course::survey(bound, rows, origin.past(spec.criterion()).update.0));
        if surveyed.as_ref().is_some_and(|surveyed| !surveyed.is_whole) {
            notes.push("note: the longest update was looked for among the first 50,000".to_owned());
        }
        let loads =
            surveyed.as_ref().map_or_else(|| vec![Load::default(); bound.team.workers as usize], |it| it.loads.clone());
        let shards = spec.placement().shard_optimizer_state;
        let shape = Shape {
            model: &inputs.model,
            bound,
            shards,
            held: held(&inputs.splits),
            predicted: predicted(&inputs.splits),
        };
        let memory_estimates: Vec<Memory> = (0..).zip(loads).map(|(rank, load)| shape.memory(rank, load)).collect();
        let around = Around::of(spec.placement(), machine);
        notes.extend(scarce(&memory_estimates, &around));
        let space = training
            .map(|_| output.space(need, origin.checkpoint()))
            .transpose()
            .map_err(|error| Failure { kind: error.kind(), message: error.to_string() })?;
        let training = surveyed.map(|surveyed| surveyed.course);
        let time = training.as_ref().and_then(|course| Speed::known(asked.rows_per_second, output, course));
        let scaling = match &training {
            Some(course) if !asked.gpus.is_empty() => scale(asked, &inputs.model, bound, course)?,
            _ => Vec::new(),
        };
        let summary = bound.summary(spec, *train_rows, &inputs.model);
        Ok(Self {
            summary: summary.lines().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
            notes,
            training,
            rows: inputs.splits.iter().map(|(split, rows)| (split.to_string(), rows.len() as u64)).collect(),
            memory_estimates,
            machine: around,
            disk: space.map(Room::from),
            time,
            scaling,
        })
    }
}

impl Around {
    fn of(placement: &Placement, machine: &Machine) -> Self {
        let listens = [(LISTEN_FLAG, Some(placement.listen)), (HTTP_FLAG, placement.http_listen)];
        let listens = listens.into_iter().filter_map(|(flag, at)| Some((flag.to_owned(), at?.to_string())));
        Self {
            listens: listens.collect(),
            credentials: placement.credentials.as_ref().map(|folder| folder.display().to_string()),
            gpus: machine.cuda_devices,
            cores: machine.cores,
            available_memory_bytes: available_memory(),
        }
    }
}

/// What updates come to on each number of GPUs that was asked for.
fn scale(asked: &Plan, model: &ModelConfig, bound: &Bound, course: &Course) -> Result<Vec<Scaling>, Failure> {
    let (compute, _) = asked.spec.compute().on(Device::Cuda).map_err(|error| config(&error))?;
    let rows = u64::from(bound.train.rows_per_update);
    let batch = match asked.spec.recipe().batch_meaning {
        BatchMeaning::Global => Batch::Shared(rows),
        BatchMeaning::PerWorker => Batch::Each(rows / u64::from(bound.team.workers.max(1))),
    };
    let row_tokens = course.tokens as f64 / course.rows.max(1) as f64;
    let work = Work { model, train: &bound.train, compute, row_tokens, batch };
    Ok(asked.gpus.iter().map(|gpus| work.on(*gpus)).collect())
}

/// Rows of all splits, which every worker holds, and their tokens.
fn held(splits: &BTreeMap<Split, Vec<Example>>) -> (u64, u64) {
    let rows = splits.values().flatten();
    rows.fold((0, 0), |(rows, tokens), row| (rows + 1, tokens + row.len() as u64))
}

/// The tokens of the heaviest pass that predicts.
fn predicted(splits: &BTreeMap<Split, Vec<Example>>) -> u64 {
    let splits = splits.iter().filter(|(split, _)| **split != Split::Train);
    let lengths = |rows: &Vec<Example>| rows.iter().map(|row| row.len() as u64).collect::<Vec<_>>();
    splits.map(|(_, rows)| predicted_tokens(&lengths(rows))).max().unwrap_or(0)
}

/// Says that the workers of this machine may be too many for it.
fn scarce(estimates: &[Memory], around: &Around) -> Option<String> {
    let asked: u64 = estimates.iter().map(|memory| memory.total_bytes).sum();
    let available = around.available_memory_bytes.filter(|available| around.gpus == 0 && asked > *available)?;
    Some(format!(
        "warning: the workers may need {} of memory, and {} are available here",
        text::megabytes(asked),
        text::megabytes(available)
    ))
}

/// What `/proc/meminfo` says can be had without swapping.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

fn internal(error: &dyn std::error::Error) -> Failure {
    Failure { kind: FailureKind::Internal, message: error.to_string() }
}

fn config(error: &dyn std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}

#[cfg(test)]
#[path = "forecast_test.rs"]
mod tests;
