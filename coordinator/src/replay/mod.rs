//! `medley replay`: makes updates of a run again, in a folder of its own, and compares them with its ledger to the bit.
//!
//! The run's own command is given again, as its ledger has it, to go on from the checkpoint; what decides the result
//! must be the same, or the checkpoint is refused as for any run. Nothing of the run's folder is changed.

mod comparison;

use std::fmt;
use std::path::{Path, PathBuf};

use medley_common::identity::Update;
use tempfile::TempDir;

use crate::archive::{ArchiveError, LEDGER_FILE, Ledger, RunIdentity};
use crate::cli::{self, Cli, CliError, Replay};
use crate::spec::RunSpec;

pub use comparison::Comparison;

/// Why updates cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The ledger has no such updates.
    #[error("the ledger has the updates after {start} through {last}; asked for those after {from} through {through}")]
    Updates {
        /// Where the ledger begins.
        start: Update,
        /// Its last update in effect.
        last: Update,
        /// The checkpoint asked for.
        from: Update,
        /// The last update asked for.
        through: Update,
    },
    /// There is no such checkpoint.
    #[error("{} is not there; the checkpoints that are: {present}", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// Those that are there.
        present: String,
    },
    /// A folder cannot be made or entered.
    #[error("{action} {}: {error}", path.display())]
    Folder {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The run's command, with the flags given, makes no sense.
    #[error("the run's command cannot be given again: {0}")]
    Command(#[from] CliError),
    /// The ledger's command does not train.
    #[error("the run's command does not train: {0}")]
    NoTraining(String),
}

/// Updates that can be made again.
#[derive(Debug)]
pub struct Rerun {
    /// What to run; it ends soon after `through`.
    pub spec: RunSpec,
    /// The words that it stands for.
    pub command: Vec<String>,
    /// The last update that is compared.
    pub through: Update,
    from: Update,
    run: PathBuf,
    folder: TempDir,
}

/// Reads the run's ledger and makes the command that makes its updates again; enters the folder that the command was
/// given in, where there is one, because its paths begin there. Blocks.
///
/// # Errors
/// There are no such updates, or the command cannot be given again.
pub fn prepare(asked: &Replay) -> Result<Rerun, ReplayError> {
    let run = asked.run.canonicalize().map_err(|error| folder("find", &asked.run)(error))?;
    let history = Ledger::recover(&run.join(LEDGER_FILE))?.history;
    let from = Update(asked.from_checkpoint);
    let through = Update(from.0.saturating_add(asked.updates));
    let (start, last) = (history.identity().start, history.last());
    if from < start || through > last {
        return Err(ReplayError::Updates { start, last, from, through });
    }
    let checkpoint = run.join(format!("checkpoint-{from}"));
    if from.0 > 0 && !checkpoint.is_dir() {
        let present = crate::archive::checkpoints_of(&run)?;
        let names: Vec<String> =
            present.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into())).collect();
        return Err(ReplayError::NoCheckpoint { path: checkpoint, present: names.join(", ") });
    }
    let identity = history.identity();
    if identity.folder.is_dir() {
        std::env::set_current_dir(&identity.folder).map_err(folder("enter", &identity.folder))?;
    }
    let scratch = tempfile::Builder::new().prefix("medley-replay-").tempdir();
    let scratch = scratch.map_err(folder("make a folder in", &std::env::temp_dir()))?;
    let resume = if from.0 > 0 { checkpoint.display().to_string() } else { "False".to_owned() };
    let command = words(identity, asked, &resume, scratch.path());
    let spec = match cli::parse(&command)? {
        Cli::Train(spec) => *spec,
        _ => return Err(ReplayError::NoTraining(identity.command.join(" "))),
    };
    Ok(Rerun { spec, command, through, from, run, folder: scratch })
}

/// The run's command, to train here and now: later flags win.
fn words(identity: &RunIdentity, asked: &Replay, resume: &str, output: &Path) -> Vec<String> {
    // Where evaluations decide something, they are part of the recipe.
    let unevaluated = [("--evaluation_strategy", "no".to_owned()), ("--do_eval", "False".to_owned())];
    let unevaluated = unevaluated.into_iter().filter(|_| identity.criterion.is_none());
    let own = [
        ("--output_dir", output.join("out").display().to_string()),
        ("--resume_from_checkpoint", resume.to_owned()),
        ("--overwrite_output_dir", "False".to_owned()),
        ("--save_total_limit", "1".to_owned()),
        ("--do_predict", "False".to_owned()),
        ("--workers", asked.workers.to_string()),
        ("--listen", "127.0.0.1:0".to_owned()),
        ("--profile", "False".to_owned()),
        ("--quiet", "False".to_owned()),
        ("--log_level", "info".to_owned()),
        ("--log_format", "text".to_owned()),
        ("--report_to", "none".to_owned()),
        // Not the faults of then.
        ("--chaos", String::new()),
    ];
    let head = ["medley".to_owned(), "train".to_owned()];
    let recorded = identity.command.iter().skip(2).cloned();
    let own = own.into_iter().chain(unevaluated).flat_map(|(flag, value)| [flag.to_owned(), value]);
    head.into_iter().chain(recorded).chain(asked.flags.iter().cloned()).chain(own).collect()
}

impl fmt::Display for Rerun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, folder) = (self.from.next(), self.folder.path().display());
        write!(f, "making updates {first} to {} again in {folder}, which goes when they are compared", self.through)
    }
}

impl Rerun {
    /// Compares what was made again with the run's ledger; removes what was made. Blocks.
    ///
    /// # Errors
    /// A ledger cannot be read.
    pub fn compare(self) -> Result<Comparison, ReplayError> {
        let again = self.folder.path().join("out").join(LEDGER_FILE);
        Ok(Comparison::of(&self.run.join(LEDGER_FILE), &again, self.from, self.through)?)
    }
}

fn folder(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ReplayError {
    let path = path.to_owned();
    move |error| ReplayError::Folder { action, path, error }
}
