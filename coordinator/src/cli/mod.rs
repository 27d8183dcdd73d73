//! The command line: what a person types, turned into values that cannot be wrong.
//!
//! [`parse`] is the edge. It reads no file but that of `--config`, and starts nothing.

use std::any::TypeId;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::spec::{Role, RunSpec, SpecError};

mod compare;
mod completions;
mod config_file;
pub(crate) mod console_flags;
mod convert;
mod huggingface;
mod init_certs;
pub(crate) mod listen_flag;
mod man;
mod orders;
mod plan;
mod predict;
mod quickstart;
mod replay;
mod report;
pub(crate) mod row_flags;
pub(crate) mod run_flags;
pub(crate) mod selection_flags;
mod spelling;
mod status;
mod sweep;
pub(crate) mod truth;
pub(crate) mod tuning_flags;
mod verify;

pub use compare::Compare;
pub use completions::Completions;
pub use config_file::ConfigProblem;
pub use convert::Convert;
pub use init_certs::InitCerts;
pub use man::Man;
pub use orders::{Checkpoint, Checkpoints, Drain, Stop};
pub use plan::Plan;
pub use predict::{ColumnChoice, Evaluate, Predict, Source, TrainedModel};
pub use quickstart::Quickstart;
pub use replay::Replay;
pub use report::Report;
pub use status::{Reach, Status};
pub use sweep::Sweep;
pub use verify::Verify;

use plan::PlanFlags;
use predict::{EvaluateFlags, PredictFlags};
use report::ReportFlags;
use run_flags::RunFlags;
use spelling::Spelling;
use truth::Truth;

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Cli {
    /// `medley train`: coordinate a run, with workers on this machine.
    Train(Box<RunSpec>),
    /// `medley serve`: coordinate a run, and wait for workers.
    Serve(Box<RunSpec>),
    /// `medley plan`: tell what a run comes to, and start nothing.
    Plan(Box<Plan>),
    /// `medley predict`: what a trained model says of rows.
    Predict(Box<Predict>),
    /// `medley evaluate`: how well a trained model does on rows.
    Evaluate(Box<Evaluate>),
    /// `medley status`: show how a run is doing.
    Status(Status),
    /// `medley stop`: have a run end.
    Stop(Stop),
    /// `medley checkpoint`: have a run save its state.
    Checkpoint(Checkpoint),
    /// `medley drain`: have a worker leave.
    Drain(Drain),
    /// `medley checkpoints`: list a run's checkpoints.
    Checkpoints(Checkpoints),
    /// `medley verify`: prove from its ledger what a run did.
    Verify(Verify),
    /// `medley report`: draw a run.
    Report(Report),
    /// `medley compare`: lay runs side by side.
    Compare(Compare),
    /// `medley replay`: make updates of a run again and compare.
    Replay(Replay),
    /// `medley sweep`: a run for each of many settings.
    Sweep(Sweep),
    /// `medley init-certs`: certificates and tokens for a cluster.
    InitCerts(InitCerts),
    /// `medley quickstart`: a small run on data that come with the program.
    Quickstart(Quickstart),
    /// `medley convert`: pickled weights as safetensors.
    Convert(Convert),
    /// `medley completions`: what a shell needs to complete commands and flags.
    Completions(Completions),
    /// `medley man`: the manual pages.
    Man(Man),
}

/// Why there is nothing to start: help was asked for, or the words make no sense.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Help or the version, or words that clap refuses.
    #[error("{}", brief(.0))]
    Clap(#[from] clap::Error),
    /// A flag of Hugging Face that is not supported.
    #[error("{flag} is not supported: {instead}")]
    Unsupported {
        /// The flag.
        flag: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A flag that is cut short, or has another name.
    #[error("{flag} is not a flag; write {full}")]
    Abbreviated {
        /// What was given.
        flag: String,
        /// What may be meant.
        full: String,
    },
    /// `--no_flag=value`.
    #[error("{flag} takes no value; use {switch} True or {switch} False")]
    ValueOfNo {
        /// What was given.
        flag: String,
        /// The flag without `no_`.
        switch: String,
    },
    /// A file that is not a set of flags.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ConfigProblem,
    },
    /// Several runs to draw.
    #[error("medley report draws one run; medley compare RUN RUN ... lays several side by side")]
    SeveralRuns,
    /// A single run to compare.
    #[error("medley compare takes two or more runs; medley report RUN draws one")]
    OneRun,
    /// Flags that do not make a run.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl CliError {
    /// The exit code of the process: 0 for help and the version, else 64 (`EX_USAGE`).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Clap(error) if !error.use_stderr() => 0,
            _ => 64,
        }
    }

    /// Prints help and the version to standard output, anything else to standard error. Blocks.
    ///
    /// # Errors
    /// Where the stream cannot be written to.
    pub fn print(&self) -> io::Result<()> {
        match self {
            // What Rust says of a number is no help.
            Self::Clap(error) if error.kind() == ErrorKind::ValueValidation => {
                write!(io::stderr(), "{}", in_words(&error.render().to_string()))
            }
            Self::Clap(error) => error.print(),
            _ => writeln!(io::stderr(), "error: {self}\n\nFor more information, try '--help'."),
        }
    }
}

/// Reads the words of a command line, the program's name first.
///
/// # Errors
/// Help, or the first thing that is wrong; see [`CliError::exit_code`].
pub fn parse<I, T>(words: I) -> Result<Cli, CliError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let command = command();
    let Some(known) = words.get(1).and_then(|verb| command.find_subcommand(verb)) else {
        command.try_get_matches_from(words)?;
        return Err(Line::command().error(ErrorKind::MissingSubcommand, "no command is given").into());
    };
    let spelling = Spelling::of(known, is_switch);
    let (head, tail) = words.split_at(2);
    let tail = spelling.respell(tail)?;
    let matches = |tail: &[OsString]| command.clone().try_get_matches_from([head, tail].concat());
    let mut given = matches(&tail)?;
    let mut line = Line::from_arg_matches(&given)?;
    if let Some(path) = line.verb.run_flags().and_then(|flags| flags.config.as_ref()) {
        let suggest = |key: &str| suggestion(&matches(&[format!("--{key}").into()]).err()?);
        let from_file = config_file::words(path, &spelling, suggest)?;
        matches(&from_file)
            .map_err(|error| CliError::Config { path: path.clone(), problem: ConfigProblem::Value(brief(&error)) })?;
        given = matches(&[from_file, tail].concat())?;
        line = Line::from_arg_matches(&given)?;
    }
    line.verb.checked(&given)
}

/// `medley`.
#[derive(Debug, Parser)]
#[command(name = "medley", version, about = "Fine-tunes BERT classifiers on any number of worker processes")]
#[command(after_help = EXAMPLES, term_width = 0)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Coordinate a run, and start its workers on this machine
    #[command(args_override_self = true)]
    Train(RunFlags),
    /// Coordinate a run, and wait for workers to join
    #[command(args_override_self = true)]
    Serve(RunFlags),
    /// Tell what a run comes to, by the flags of train, and start nothing
    #[command(args_override_self = true)]
    Plan(PlanFlags),
    /// Have a trained model predict rows, or one pair
    Predict(PredictFlags),
    /// Measure a trained model on labelled rows
    Evaluate(EvaluateFlags),
    /// Show how a run is doing
    Status(Status),
    /// Have a run finish what is under way, save it and end
    Stop(Stop),
    /// Have a run save its state, and wait until it is saved
    Checkpoint(Checkpoint),
    /// Have a worker leave; the others go on without it
    Drain(Drain),
    /// List a run's checkpoints
    Checkpoints(Checkpoints),
    /// Prove from its ledger what a run did, and check its files
    Verify(Verify),
    /// Draw a run in a page for a browser
    Report(ReportFlags),
    /// Lay runs side by side, in a table and in a page for a browser
    Compare(Compare),
    /// Make updates of a run again, and compare them with its ledger
    Replay(Replay),
    /// Train with each of many settings and seeds, and compare what they come to
    Sweep(Sweep),
    /// Make certificates and tokens for a coordinator that other machines reach
    #[command(name = "init-certs")]
    InitCerts(InitCerts),
    /// Train a small model on data that come with the program
    Quickstart(Quickstart),
    /// Write a model's pickled weights, pytorch_model.bin, as model.safetensors
    Convert(Convert),
    /// Write what a shell needs to complete commands and flags
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
}

const EXAMPLES: &str = "\
Examples:
  medley quickstart
  medley train --model_name_or_path michiyasunaga/BioLinkBERT-base --do_train --train_file train.jsonl \\
      --do_eval --validation_file dev.jsonl --output_dir out --workers 2
  medley predict --model out test.jsonl";

impl Verb {
    /// The flags of a run, where the command has them.
    fn run_flags(&self) -> Option<&RunFlags> {
        match self {
            Self::Train(flags) | Self::Serve(flags) | Self::Plan(PlanFlags { run: flags, .. }) => Some(flags),
            _ => None,
        }
    }

    fn checked(self, given: &ArgMatches) -> Result<Cli, CliError> {
        let run = |role, flags: &RunFlags| {
            let given = given.subcommand().map(|(_, given)| given);
            let is_given = |name: &str| given.is_some_and(|it| it.value_source(name) == Some(ValueSource::CommandLine));
            RunSpec::parse(role, flags, huggingface::accepted_notes(is_given))
        };
        Ok(match self {
            Self::Train(flags) => Cli::Train(Box::new(run(Role::Train, &flags)?)),
            Self::Serve(flags) => Cli::Serve(Box::new(run(Role::Serve, &flags)?)),
            Self::Plan(flags) => {
                let spec = run(Role::Train, &flags.run)?;
                Cli::Plan(Box::new(flags.checked(spec)?))
            }
            Self::Predict(flags) => Cli::Predict(Box::new(flags.checked()?)),
            Self::Evaluate(flags) => Cli::Evaluate(Box::new(flags.checked()?)),
            Self::Status(status) => Cli::Status(status),
            Self::Stop(stop) => Cli::Stop(stop),
            Self::Checkpoint(checkpoint) => Cli::Checkpoint(checkpoint),
            Self::Drain(drain) => Cli::Drain(drain),
            Self::Checkpoints(checkpoints) => Cli::Checkpoints(checkpoints),
            Self::Verify(verify) => Cli::Verify(verify),
            Self::Report(flags) => Cli::Report(flags.checked().ok_or(CliError::SeveralRuns)?),
            Self::Compare(asked) if asked.runs.len() < 2 => return Err(CliError::OneRun),
            Self::Compare(asked) => Cli::Compare(asked),
            Self::Replay(replay) => Cli::Replay(replay),
            Self::Sweep(asked) => Cli::Sweep(asked),
            Self::InitCerts(asked) => Cli::InitCerts(asked),
            Self::Quickstart(quickstart) => Cli::Quickstart(quickstart),
            Self::Convert(asked) => Cli::Convert(asked),
            Self::Completions(asked) => Cli::Completions(asked),
            Self::Man(asked) => Cli::Man(asked),
        })
    }
}

/// The derived command, with what is the same for many flags.
fn command() -> clap::Command {
    let run =
        |verb: clap::Command| verb.args(huggingface::accepted_args()).mut_args(refined).after_help(huggingface::help());
    ["train", "serve", "plan"].into_iter().fold(Line::command(), |line, verb| line.mut_subcommand(verb, run))
}

fn refined(arg: clap::Arg) -> clap::Arg {
    if is_switch(&arg) {
        // One that need not be there is neither on nor off where it is not.
        let is_off = arg.is_required_set();
        let arg = arg.required(false).num_args(0..=1).value_name("BOOL").default_missing_value("True");
        return if is_off { arg.default_value("False").hide_default_value(true) } else { arg };
    }
    // The flag's own help names them, in fewer words.
    let takes_value = arg.get_action().takes_values();
    arg.hide_possible_values(takes_value)
}

fn is_switch(arg: &clap::Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<Truth>()
}

/// What clap has to say, without the usage and the hints.
fn brief(error: &clap::Error) -> String {
    let text = in_words(&error.render().to_string());
    let first = text.split("\n\n").next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

/// What Rust says of a text that is no number, as a person would.
fn in_words(text: &str) -> String {
    [
        ("invalid digit found in string", "expected a whole number"),
        ("cannot parse integer from empty string", "expected a whole number"),
        ("number too large to fit in target type", "too large"),
        ("number too small to fit in target type", "too small"),
        ("invalid float literal", "expected a number"),
        ("cannot parse float from empty string", "expected a number"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (rust, words)| text.replace(rust, words))
}

/// The name of the flag that clap takes an unknown one for.
fn suggestion(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(flag) => flag.strip_prefix("--").map(ToOwned::to_owned),
        ContextValue::Strings(flags) => flags.first()?.strip_prefix("--").map(ToOwned::to_owned),
        _ => None,
    }
}

#[cfg(test)]
#[path = "cli_test.rs"]
pub(crate) mod tests;
