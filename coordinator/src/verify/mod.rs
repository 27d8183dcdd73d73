//! `medley verify`: proves from the ledger what a run did, and holds every file of its folder against it.
//!
//! Each check gives a row of the table; what is wrong is named with its file, and its line in the ledger. Nothing is
//! changed. A changed byte of the ledger, a checkpoint, an output or the certificate is always found: the ledger's
//! lines are sealed and chained, the manifests and the certificate are sealed, and they have the digests of the rest.

mod files;
mod updates;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::archive::{
    ArchiveError, CERTIFICATE_FILE, History, LEDGER_FILE, Lines, MANIFEST_FILE, Next, Record, checkpoints_of,
};

use updates::Updates;

/// What was checked, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What was checked, in the order of the table.
    pub checks: Vec<Check>,
    /// What is wrong, in the order found; nothing where the run is as its ledger says.
    pub problems: Vec<Problem>,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What was found.
    pub found: String,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, relative to the run's folder.
    pub file: String,
    /// The line, from 1, where the file has lines.
    pub line: Option<u64>,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        for check in &self.checks {
            writeln!(f, "{:width$}  {}", check.name, check.found)?;
        }
        for problem in &self.problems {
            writeln!(f, "WRONG  {problem}")?;
        }
        match self.problems.len() {
            0 => write!(f, "all is as the ledger says"),
            1 => write!(f, "1 thing is wrong"),
            several => write!(f, "{several} things are wrong"),
        }
    }
}

impl Verdict {
    /// Whether all is as the ledger says.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }

    fn check(&mut self, name: &'static str, found: String) {
        self.checks.push(Check { name, found });
    }

    fn wrong(&mut self, file: impl Into<String>, line: Option<u64>, what: impl Into<String>) {
        self.problems.push(Problem { file: file.into(), line, what: what.into() });
    }
}

/// Verifies the run in `folder`. Blocks: it reads every file of the run.
///
/// # Errors
/// The folder holds no run, or a file of it cannot be read at all.
pub fn verify(folder: &Path) -> Result<Verdict, ArchiveError> {
    let mut verdict = Verdict { checks: Vec::new(), problems: Vec::new() };
    let history = read_ledger(folder, &mut verdict)?;
    files::checkpoints(folder, history.as_ref(), &mut verdict)?;
    files::outputs(folder, history.as_ref(), &mut verdict);
    files::certificate(folder, history.as_ref(), &mut verdict);
    Ok(verdict)
}

/// Reads the ledger and checks its updates; `None` where it is damaged or gone, and nothing more can be taken from it.
fn read_ledger(folder: &Path, verdict: &mut Verdict) -> Result<Option<Proved>, ArchiveError> {
    let mut lines = match Lines::open(&folder.join(LEDGER_FILE)) {
        Err(ArchiveError::NoLedger { .. }) if is_run(folder)? => {
            verdict.check("ledger", "none".to_owned());
            verdict.wrong(LEDGER_FILE, None, "does not exist: what the run did cannot be proved; put back a copy");
            return Ok(None);
        }
        lines => lines?,
    };
    let mut proved: Option<(History, Updates)> = None;
    let mut heads = Vec::new();
    let damage = loop {
        let line = lines.line();
        match lines.next_line()? {
            Next::End => break None,
            Next::Torn(torn) => {
                break Some((line, format!("is cut or changed; its {} bytes are no record", torn.bytes)));
            }
            Next::Damaged(reason) => break Some((line, format!("{reason}; what follows cannot be trusted"))),
            Next::Record(Record::Run(identity)) if proved.is_none() => {
                proved = Some((History::new((*identity).clone()), Updates::new(*identity)));
            }
            Next::Record(record) => {
                let Some((history, updates)) = &mut proved else { break Some((line, "is not of a run".to_owned())) };
                updates.take(line, &record, verdict);
                if let Err(reason) = history.take(record) {
                    break Some((line, reason));
                }
            }
        }
        heads.push(lines.head());
    };
    match (damage, proved) {
        (None, Some((history, updates))) => {
            let head = lines.head();
            verdict.check("ledger", format!("{} records, chained to {}", head.records, head.digest));
            updates.conclude(&history, verdict);
            Ok(Some(Proved { history, heads }))
        }
        (damage, _) => {
            let (line, what) = damage.unwrap_or((1, "there is no record of a run".to_owned()));
            verdict.check("ledger", format!("damaged at line {line}"));
            verdict.wrong(LEDGER_FILE, Some(line), what);
            Ok(None)
        }
    }
}

/// Whether a run has left anything here beside its ledger.
fn is_run(folder: &Path) -> Result<bool, ArchiveError> {
    let mut checkpoints = checkpoints_of(folder)?.into_iter();
    Ok(folder.join(CERTIFICATE_FILE).exists() || checkpoints.any(|path| path.join(MANIFEST_FILE).exists()))
}

/// A ledger that is whole.
struct Proved {
    history: History,
    /// The head after each line.
    heads: Vec<crate::archive::Head>,
}

#[cfg(test)]
#[path = "verify_test.rs"]
pub(crate) mod tests;
