//! Where a run writes, and what it does about what is there already.

use std::path::PathBuf;

use super::number::Number;
use crate::cli::run_flags::RunFlags;
use crate::spec::{Console, SpecError};

/// What to do with an output folder that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Go on from its last checkpoint; refuse it if it holds other things.
    Keep,
    /// Write over it.
    Overwrite,
}

/// Which checkpoint to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The last one in the output folder, if there is one.
    IfPresent,
    /// The last one in the output folder; there must be one.
    Latest,
    /// This one.
    From(PathBuf),
    /// None: the first update is number 1.
    Never,
}

/// Whether a terminal shows how far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A bar, where there is a terminal.
    Shown,
    /// No bar.
    Hidden,
}

/// Where a run writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The folder of the final model, the results and the checkpoints.
    pub dir: PathBuf,
    /// What to do with what it holds.
    pub existing: Existing,
    /// Which checkpoint to go on from.
    pub resume: Resume,
    /// How many checkpoints to keep, at least 1; `None` keeps all.
    pub save_total_limit: Option<u32>,
    /// Whether to show a progress bar.
    pub progress: Progress,
    /// What to tell while it goes on.
    pub console: Console,
    /// Whether to write where the time goes.
    pub profile: bool,
    /// How many wrong predictions the page of the run shows, with what they say; `None` for none, and no text of the data.
    pub report_examples: Option<u32>,
}

impl Output {
    pub(super) fn parse(flags: &RunFlags) -> Result<Self, SpecError> {
        let given = &flags.output;
        let dir = given.output_dir.clone().filter(|dir| !dir.as_os_str().is_empty()).ok_or(SpecError::Missing {
            flag: "--output_dir",
            way_out: "name the folder for the model and the results, e.g. --output_dir out",
        })?;
        let save_total_limit = given
            .save_total_limit
            .map(|limit| Number::new("--save_total_limit", limit))
            .map(|limit| {
                limit.at_least(1).map_err(|_| limit.refused("at least 1; use --save_strategy no to keep none"))
            })
            .transpose()?;
        let existing = if given.overwrite_output_dir.0 { Existing::Overwrite } else { Existing::Keep };
        let resume = resume(given.resume_from_checkpoint.as_deref());
        let resumes_here = match &resume {
            Resume::Latest => true,
            Resume::From(checkpoint) => checkpoint.starts_with(&dir),
            Resume::IfPresent | Resume::Never => false,
        };
        if existing == Existing::Overwrite && resumes_here {
            return Err(SpecError::Exclusive {
                first: "--overwrite_output_dir",
                second: format!("--resume_from_checkpoint {}", given.resume_from_checkpoint.as_deref().unwrap_or("")),
                way_out: "drop --overwrite_output_dir, as a resumed run adds to its folder anyway",
            });
        }
        let progress = if given.disable_tqdm.0 { Progress::Hidden } else { Progress::Shown };
        let console = Console::parse(&flags.console)?;
        let report_examples = given.report_examples.map(|most| Number::new("--report_examples", most).at_least(1));
        let report_examples = report_examples.transpose()?;
        if report_examples.is_some() && !flags.tasks.do_predict.0 {
            return Err(SpecError::Needs {
                flag: "--report_examples".to_owned(),
                needs: "--do_predict",
                way_out: "it shows what of --test_file was predicted wrongly",
            });
        }
        let profile = given.profile.0;
        Ok(Self { dir, existing, resume, save_total_limit, progress, console, profile, report_examples })
    }
}

fn resume(given: Option<&str>) -> Resume {
    match given {
        None | Some("") => Resume::IfPresent,
        Some(word) if word.eq_ignore_ascii_case("true") => Resume::Latest,
        Some(word) if word.eq_ignore_ascii_case("false") => Resume::Never,
        Some(dir) => Resume::From(PathBuf::from(dir)),
    }
}
