//! Which trackers a run reports to, and under what name.

use std::path::PathBuf;

use super::note::Note;
use crate::archive::{TRACKERS_FOLDER, is_in_the_way};
use crate::cli::run_flags::RunFlags;
use crate::spec::SpecError;
use crate::tracker;

/// The longest name of a run, in characters.
const LONGEST_NAME: usize = 200;

/// Which trackers a run reports to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Their names; none, where nothing is reported.
    pub trackers: Vec<&'static str>,
    /// The folder in which those that write files have one for each run.
    pub logging_dir: PathBuf,
    /// What the run is called.
    pub run_name: Option<String>,
}

impl Tracking {
    /// Checks the flags of a run that writes into `output_dir`.
    pub(super) fn parse(flags: &RunFlags, notes: &mut Vec<Note>) -> Result<Self, SpecError> {
        let given = &flags.output;
        let trackers = trackers(&given.report_to)?;
        let run_name = given.run_name.clone().filter(|name| !name.is_empty());
        if let Some(name) = run_name.as_ref().filter(|name| !is_name(name)) {
            return Err(SpecError::Value {
                flag: "--run_name",
                value: format!("{name:?}"),
                expected: format!("at most {LONGEST_NAME} characters on one line"),
            });
        }
        let logging_dir = given.logging_dir.clone().filter(|dir| !dir.as_os_str().is_empty());
        if trackers.is_empty() {
            let unused = [("--run_name", run_name.is_some()), ("--logging_dir", logging_dir.is_some())];
            let unused = unused.into_iter().filter(|(_, is_given)| *is_given);
            let note = |flag: &str| Note::plain(format!("{flag} has no effect, as --report_to names no tracker"));
            notes.extend(unused.map(|(flag, _)| note(flag)));
        }
        let output_dir = given.output_dir.clone().unwrap_or_default();
        let inside = logging_dir.as_ref().and_then(|dir| dir.strip_prefix(&output_dir).ok());
        let first = inside.map(|inside| inside.iter().next().unwrap_or_default().to_string_lossy().into_owned());
        if let (Some(dir), true) = (&logging_dir, first.is_some_and(|name| name.is_empty() || is_in_the_way(&name))) {
            return Err(SpecError::Value {
                flag: "--logging_dir",
                value: dir.display().to_string(),
                expected: "a folder outside --output_dir, or one in it under a name that the run does not write".into(),
            });
        }
        Ok(Self { trackers, logging_dir: logging_dir.unwrap_or_else(|| output_dir.join(TRACKERS_FOLDER)), run_name })
    }
}

/// The trackers of these names, each once.
fn trackers(given: &[String]) -> Result<Vec<&'static str>, SpecError> {
    let all: Vec<&str> = tracker::names().collect();
    let expected = format!("{} or none", all.join(", "));
    let refused =
        |value: &str, expected: String| SpecError::Value { flag: "--report_to", value: value.into(), expected };
    let mut trackers = Vec::new();
    for name in given.iter().filter(|name| *name != "none") {
        match tracker::names().find(|known| known == name) {
            Some(known) if trackers.contains(&known) => {}
            Some(known) => trackers.push(known),
            None if name == "all" => return Err(refused(name, format!("{expected}; name those that you want"))),
            None => {
                let way_out = "other trackers import TensorBoard's files (wandb sync, for one) or jsonl";
                return Err(refused(name, format!("{expected}; {way_out}")));
            }
        }
    }
    if !trackers.is_empty() && given.iter().any(|name| name == "none") {
        return Err(refused(&given.join(","), "none alone, or trackers without it".to_owned()));
    }
    Ok(trackers)
}

fn is_name(name: &str) -> bool {
    name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control)
}
