//! `medley sweep`: a run for each setting and seed, one after the other, and a table of what they came to.
//!
//! Each is a run like any other, in a folder of its own, so a sweep that was stopped is gone on with by its own command: runs
//! that are complete are only read, and one that is not goes on where it was.

mod axis;
mod board;
mod folder;
mod plan;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::archive::{ArchiveError, Certificate, FileRecord, write_whole};
use crate::cli::{self, Cli, CliError, Sweep};
use crate::metrics;
use crate::spec::{LabelChoice, RunLength, RunSpec, is_cost};

pub use folder::{IsSweep, refuse_sweep};

use axis::{Axis, AxisError};
use board::{Board, Place, words};
use plan::Plan;

/// What was asked for, beside the runs' folders.
const SWEEP_FILE: &str = "sweep.json";
/// The results, beside them.
const RESULTS_FILE: &str = "sweep_results.json";
/// The results of one run's evaluation.
const EVALUATION_FILE: &str = "eval_results.json";

/// Why a sweep cannot begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A text that is no axis.
    #[error(transparent)]
    Axis(#[from] AxisError),
    /// A range without a number of draws.
    #[error("--over {axis} has no end of values; say with --trials how many settings to draw")]
    Endless {
        /// The axis.
        axis: String,
    },
    /// Too many combinations.
    #[error("there are more than {most} settings; draw some of them with --trials")]
    TooMany {
        /// The limit.
        most: usize,
    },
    /// Something that cannot be swept.
    #[error("{flag}: {problem}")]
    Flag {
        /// What was given.
        flag: String,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// A run's own flags are wrong.
    #[error("{words}: {error}")]
    Run {
        /// The setting.
        words: String,
        /// What is wrong.
        error: CliError,
    },
    /// The folder holds another sweep.
    #[error("{} holds another sweep, with other {other}; name another --output_dir", folder.display())]
    Another {
        /// The folder.
        folder: PathBuf,
        /// In what it differs.
        other: String,
    },
    /// The folder holds something else.
    #[error("{} is not empty, and holds no sweep; name another --output_dir", folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no such metric.
    #[error("--metric is {metric}; expected {known}")]
    Metric {
        /// What was asked for.
        metric: String,
        /// What there is.
        known: String,
    },
    /// The folder cannot be written to, or a file in it not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A run has no such result.
    #[error("{}: there is no {key}; its numbers are {known}", path.display())]
    NoMetric {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        key: String,
        /// What there is.
        known: String,
    },
}

impl SweepError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Axis(_) | Self::Endless { .. } | Self::TooMany { .. } | Self::Flag { .. } | Self::Run { .. } => 64,
            Self::Another { .. } | Self::Occupied { .. } | Self::Archive(_) => 78,
            Self::NoMetric { .. } | Self::Metric { .. } => 64,
        }
    }
}

/// A sweep, as far as it has come.
#[derive(Debug)]
pub struct Sweeping {
    asked: Sweep,
    length: RunLength,
    plan: Plan,
    board: Board,
}

/// The next run of a sweep.
#[derive(Debug)]
pub struct Trial {
    /// What it does.
    pub spec: RunSpec,
    /// The command that it stands for.
    pub command: Vec<String>,
    /// What to say before it starts.
    pub title: String,
    place: Place,
}

impl Sweeping {
    /// Checks all that was asked, and writes it into the folder. Blocks.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn begin(asked: Sweep) -> Result<Self, SweepError> {
        let axes: Vec<Axis> = asked.over.iter().map(|text| Axis::parse(text)).collect::<Result<_, _>>()?;
        refuse_own_flags(&axes, &asked.flags, asked.halving.is_some())?;
        let mut seeds = asked.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        let plan = Plan::new(&axes, seeds, (asked.trials, asked.draw_seed), asked.halving)?;
        let metric = asked.metric.strip_prefix("eval_").unwrap_or(&asked.metric).to_owned();
        let greater_is_better = !is_cost(&metric);
        let board = Board::new(plan.clone(), metric, greater_is_better);
        let mut sweep = Self { asked, length: RunLength::Epochs(1.0), plan, board };
        for setting in 0..sweep.plan.settings.len() {
            let place = Place { rung: sweep.plan.rungs.len() - 1, setting, seed: sweep.plan.seeds[0] };
            let (spec, _) = sweep.run(place)?;
            if spec.sources().train_file.is_none() || spec.sources().validation_file.is_none() {
                let problem = "a sweep compares trained models by their evaluation: give --do_train and --do_eval with \
                               their files";
                return Err(SweepError::Flag { flag: "the flags after --".into(), problem });
            }
            spec.sources().check_files().map_err(|error| SweepError::Run {
                words: words(&sweep.plan.settings[setting]),
                error: error.into(),
            })?;
            sweep.check_metric(&spec)?;
            sweep.length = spec.recipe().length;
        }
        sweep.claim()?;
        Ok(sweep)
    }

    /// Refuses a metric that no run will have, where its labels are known.
    fn check_metric(&self, spec: &RunSpec) -> Result<(), SweepError> {
        let LabelChoice::Named(labels) = &spec.sources().labels else { return Ok(()) };
        let known = metrics::names(labels);
        let metric = self.key().trim_start_matches("eval_").to_owned();
        match known.contains(&metric) {
            true => Ok(()),
            false => Err(SweepError::Metric { metric, known: known.join(", ") }),
        }
    }

    /// Writes what was asked into the folder, or finds that it is there.
    fn claim(&self) -> Result<(), SweepError> {
        let folder = &self.asked.output_dir;
        std::fs::create_dir_all(folder).map_err(ArchiveError::io("create", folder))?;
        let path = folder.join(SWEEP_FILE);
        let halves = self.plan.rungs.len() > 1;
        let asked = json!({
            "flags": of_result(&self.asked.flags), "settings": self.plan.settings, "seeds": self.plan.seeds,
            "metric": self.key(), "rounds": self.plan.rungs,
        });
        // Runs are the same whatever ranks them and whichever seeds others have, unless the best of them go on.
        let decides = |part: &&str| halves || !["seeds", "metric"].contains(part);
        match read(&path)? {
            Some(there) => {
                let parts = ["flags", "settings", "seeds", "metric", "rounds"];
                let other = parts.into_iter().filter(decides).filter(|part| there.get(*part) != asked.get(*part));
                let other: Vec<&str> = other.collect();
                if !other.is_empty() {
                    return Err(SweepError::Another { folder: folder.clone(), other: other.join(", ") });
                }
            }
            None => {
                let mut entries = std::fs::read_dir(folder).map_err(ArchiveError::io("read", folder))?;
                if entries.next().is_some() {
                    return Err(SweepError::Occupied { folder: folder.clone() });
                }
            }
        }
        Ok(write_whole(&path, format!("{asked:#}\n").into_bytes())?)
    }

    /// The next run; `None` where all are made.
    ///
    /// # Errors
    /// Its flags make no sense together.
    pub fn next_trial(&mut self) -> Result<Option<Trial>, SweepError> {
        while let Some((place, value)) = self.board.next().and_then(|place| Some((place, self.found(place)?))) {
            self.board.note(place, Some(value));
        }
        let Some(place) = self.board.next() else { return Ok(None) };
        let (spec, command) = self.run(place)?;
        let (number, runs) = (self.board.done() + 1, self.plan.runs());
        let setting = words(&self.plan.settings[place.setting]);
        let title = format!("run {number} of {runs}: {setting}, seed {}", place.seed);
        Ok(Some(Trial { spec, command, title, place }))
    }

    /// Reads what a run came to, and writes the results so far; answers them in words. Blocks.
    ///
    /// # Errors
    /// There is no such metric, or the folder cannot be written to.
    pub fn note(&mut self, trial: &Trial, diverged: bool) -> Result<String, SweepError> {
        let path = trial.spec.output().dir.join(EVALUATION_FILE);
        let key = self.key();
        let value = match diverged {
            true => None,
            false => Some(metric(&path, &key)?),
        };
        self.board.note(trial.place, value);
        let results = format!("{:#}\n", self.board.to_json());
        write_whole(&self.asked.output_dir.join(RESULTS_FILE), results.into_bytes())?;
        Ok(value.map_or_else(|| format!("{key}: it diverged"), |value| format!("{key} {value:.4}")))
    }

    /// The table, and what to take from it.
    #[must_use]
    pub fn conclusion(&self) -> String {
        let results = self.asked.output_dir.join(RESULTS_FILE);
        let best = match self.board.best() {
            Some((setting, place)) => {
                let flags: Vec<String> = setting.iter().map(|(name, value)| format!("--{name} {value}")).collect();
                let folder = self.folder(place);
                let flags = if flags.is_empty() { "as given".to_owned() } else { flags.join(" ") };
                let tie = match self.board.ties() {
                    0 => String::new(),
                    others => format!(" ({others} more came to the same)"),
                };
                format!("the best: {flags}{tie}; its best model is in {}", folder.display())
            }
            None => "no run came to a result".to_owned(),
        };
        format!("{}\n{best}\nthe results are in {}", self.board, results.display())
    }

    /// What a run that is complete came to, as its certificate has it.
    fn found(&self, place: Place) -> Option<f64> {
        let folder = self.folder(place);
        let path = folder.join(EVALUATION_FILE);
        let certificate = Certificate::read_alone(&folder).ok()??;
        let is_whole =
            FileRecord::of_file(&path).is_ok_and(|file| certificate.results.get(EVALUATION_FILE) == Some(&file));
        is_whole.then(|| metric(&path, &self.key()).ok()).flatten()
    }

    fn key(&self) -> String {
        format!("eval_{}", self.asked.metric.trim_start_matches("eval_"))
    }

    fn run(&self, place: Place) -> Result<(RunSpec, Vec<String>), SweepError> {
        let setting = &self.plan.settings[place.setting];
        let mut command: Vec<String> = ["medley", "train"].map(str::to_owned).into();
        command.extend(self.asked.flags.iter().cloned());
        // Of a flag that is given twice, the last counts.
        command.extend(setting.iter().map(|(name, value)| format!("--{name}={value}")));
        command.push(format!("--seed={}", place.seed));
        let share = self.plan.rungs[place.rung].share;
        if share < 1.0 {
            command.push(match self.length {
                RunLength::Updates(updates) => format!("--max_steps={}", (updates as f64 * share).ceil()),
                RunLength::Epochs(epochs) => format!("--num_train_epochs={:?}", epochs * share),
            });
        }
        command.push(format!("--output_dir={}", self.folder(place).display()));
        let failed = |error| SweepError::Run { words: words(setting), error };
        match cli::parse(&command).map_err(failed)? {
            Cli::Train(spec) => Ok((*spec, command)),
            // The words are those of train.
            _ => Err(SweepError::Flag { flag: "--".into(), problem: "expected flags of medley train" }),
        }
    }

    fn folder(&self, place: Place) -> PathBuf {
        let digits = self.plan.settings.len().to_string().len();
        let mut folder = self.asked.output_dir.clone();
        if self.plan.rungs.len() > 1 {
            folder.push(format!("round-{}", place.rung + 1));
        }
        folder.join(format!("trial-{:0digits$}", place.setting + 1)).join(format!("seed-{}", place.seed))
    }
}

/// What a sweep sets itself.
fn refuse_own_flags(axes: &[Axis], flags: &[String], halves: bool) -> Result<(), SweepError> {
    const SEEDS: &str = "give the seeds with --seeds";
    const FOLDERS: &str = "each run has a folder of its own in the sweep's --output_dir, which stands before --";
    const LENGTH: &str = "halving sets how long a run is; drop --halving, or take another flag";
    let own = [("seed", SEEDS), ("output_dir", FOLDERS), ("overwrite_output_dir", FOLDERS), ("config", FOLDERS)];
    let refused = |flag: &str, problem| Err(SweepError::Flag { flag: flag.to_owned(), problem });
    for (index, axis) in axes.iter().enumerate() {
        if let Some((_, problem)) = own.iter().find(|(name, _)| *name == axis.name) {
            return refused(&format!("--over {axis}"), problem);
        }
        if axes[..index].iter().any(|other| other.name == axis.name) {
            return refused(&format!("--over {axis}"), "this flag is swept over already");
        }
    }
    for flag in flags {
        let name = flag.trim_start_matches("--").split('=').next().unwrap_or_default().replace('-', "_");
        let is_own = |(own, _): &&(&str, &'static str)| flag.starts_with("--") && *own == name && name != "config";
        if let Some((_, problem)) = own.iter().find(is_own) {
            return refused(flag, problem);
        }
    }
    let sets_length = |axis: &&Axis| ["num_train_epochs", "max_steps"].contains(&axis.name.as_str());
    match axes.iter().find(sets_length) {
        Some(axis) if halves => refused(&format!("--over {axis}"), LENGTH),
        _ => Ok(()),
    }
}

/// The flags that have a part in a run's result, and not in who computes it or what is said of it.
fn of_result(flags: &[String]) -> Vec<&String> {
    const OTHERS: [&str; 15] = [
        "workers",
        "threads",
        "device",
        "listen",
        "http_listen",
        "credentials",
        "insecure",
        "heartbeat_timeout",
        "join_timeout",
        "min_workers",
        "max_restarts",
        "log_level",
        "log_format",
        "quiet",
        "disable_tqdm",
    ];
    let mut kept = Vec::new();
    let mut rest = flags.iter().peekable();
    while let Some(flag) = rest.next() {
        let name = flag.trim_start_matches("--").split('=').next().unwrap_or_default().replace('-', "_");
        if !flag.starts_with("--") || !OTHERS.contains(&name.as_str()) {
            kept.push(flag);
        } else if !flag.contains('=') {
            // Its value.
            rest.next_if(|next| !next.starts_with("--"));
        }
    }
    kept
}

/// A number of a run's evaluation.
fn metric(path: &Path, key: &str) -> Result<f64, SweepError> {
    let results = read(path)?.unwrap_or(Value::Null);
    // JSON has no NaN: where it stands, there is none.
    let value = results.get(key).map(|value| value.as_f64().unwrap_or(f64::NAN));
    value.ok_or_else(|| {
        let numbers = results.as_object().into_iter().flatten().filter(|(_, value)| value.is_number());
        let known: Vec<&str> = numbers.map(|(key, _)| key.as_str()).collect();
        SweepError::NoMetric { path: path.to_owned(), key: key.to_owned(), known: known.join(", ") }
    })
}

/// A JSON file; `None` where there is none, and `null` where it is no JSON.
fn read(path: &Path) -> Result<Option<Value>, ArchiveError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or(Value::Null))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::io("read", path)(error)),
    }
}
