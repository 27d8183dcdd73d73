//! `medley compare`: runs side by side, in a table, as JSON, and in a page for a browser.

mod facts;
mod notes;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::archive::{ArchiveError, LEDGER_FILE, may_save_report};
use crate::peak_memory::megabytes;
use crate::report_page::{Sitter, differing, draw_all, shown_setting};
use crate::status_view::duration;
use crate::text_table::{Column, table};
use facts::Facts;

/// Settings that have a column each; more than that tell nobody anything.
const MOST_SETTINGS: usize = 8;
/// Digits of a digest that tell one from another.
const SHORT_DIGEST: usize = 12;

/// Numbers in the order of the table: key of the results, and in words.
const METRICS: [(&str, &str); 6] = [
    ("predict_accuracy", "test accuracy"),
    ("predict_macro_f1", "test macro F1"),
    ("eval_accuracy", "validation accuracy"),
    ("eval_macro_f1", "validation macro F1"),
    ("eval_loss", "validation loss"),
    ("train_loss", "training loss"),
];

/// Why runs cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// One is there twice.
    #[error("{} and {} are the same folder: each run counts once", .0.display(), .1.display())]
    Twice(PathBuf, PathBuf),
    /// Nothing is there.
    #[error("{}: there is no such folder", .0.display())]
    NoFolder(PathBuf),
    /// Something else is there.
    #[error(
        "{} is not the folder of a run, which has a {LEDGER_FILE}; give what medley train had as --output_dir",
        .0.display()
    )]
    NoRun(PathBuf),
    /// It cannot be read, or the page cannot be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl CompareError {
    /// The exit code: 64 where other words are needed, else 65.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Twice(..) => 64,
            Self::NoFolder(_) | Self::NoRun(_) | Self::Archive(_) => 65,
        }
    }
}

/// Runs side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Where the page is.
    page: PathBuf,
    /// The settings in which they differ, by name.
    differing_settings: Vec<String>,
    /// The runs, as they were named.
    runs: Vec<Facts>,
    /// What to know before anything is concluded from them.
    notes: Vec<String>,
}

/// Compares the runs in `folders`, verified, and writes their page to `path`. Blocks: it reads every file of the runs.
///
/// # Errors
/// A folder is no run's, is there twice or cannot be read, or the page cannot be written.
pub fn compare(folders: &[PathBuf], path: &Path) -> Result<Comparison, CompareError> {
    distinct(folders)?;
    may_save_report(path)?;
    let mut sitters = Vec::new();
    for folder in folders {
        let mut sitter = Sitter::verified(folder)?;
        // Folders of several runs may all be called "out".
        sitter.portrait.name = folder.display().to_string();
        sitters.push(sitter);
    }
    draw_all(&sitters, path)?;
    let runs: Vec<Facts> = sitters.iter().map(Facts::of).collect();
    let settings: Vec<_> = runs.iter().map(|run| run.settings.clone()).collect();
    let differing_settings = differing(&settings).into_iter().collect();
    Ok(Comparison { page: path.to_owned(), differing_settings, notes: notes::notes(&runs), runs })
}

/// Makes sure that each is the folder of a run, and there once.
fn distinct(folders: &[PathBuf]) -> Result<(), CompareError> {
    let mut seen: Vec<(PathBuf, &PathBuf)> = Vec::new();
    for folder in folders {
        let absolute = folder.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => CompareError::NoFolder(folder.clone()),
            _ => CompareError::Archive(ArchiveError::io("find", folder)(error)),
        })?;
        if !absolute.join(LEDGER_FILE).is_file() {
            return Err(CompareError::NoRun(folder.clone()));
        }
        if let Some((_, other)) = seen.iter().find(|(other, _)| *other == absolute) {
            return Err(CompareError::Twice((*other).clone(), folder.clone()));
        }
        seen.push((absolute, folder));
    }
    Ok(())
}

impl Comparison {
    /// Whether all runs are as their ledgers say.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.runs.iter().all(|run| run.problems.is_empty())
    }

    /// For a person: a row a run, and what to know. No wider than `width`, as far as that can be.
    #[must_use]
    pub fn text(&self, width: Option<usize>) -> String {
        let cells = |cell: &dyn Fn(&Facts) -> String| self.runs.iter().map(cell).collect::<Vec<_>>();
        let first = Column::words("run", cells(&|run| plain(&run.run)));
        // Digests tell that something differs, not what: there are notes for these.
        let mut told: Vec<&String> = self.differing_settings.iter().filter(|name| !name.contains("sha256")).collect();
        // What somebody has typed is what is compared; the rest follows from it, or was never touched.
        told.sort_by_key(|name| !self.runs.iter().any(|run| run.typed.contains(*name)));
        let setting =
            |name: &&String| Column::words(name, cells(&|run| plain(&shown_setting(run.settings.get(*name)))));
        let mut columns: Vec<Column> = told.iter().copied().take(MOST_SETTINGS).map(|name| setting(&name)).collect();
        for (key, name) in METRICS.iter().filter(|(key, _)| self.runs.iter().any(|run| run.number(key).is_some())) {
            columns.push(Column::words(name, cells(&|run| run.metric(key))));
        }
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let digest = |run: &Facts| run.weights_sha256.as_ref().map(|digest| digest[..SHORT_DIGEST].to_owned());
        columns.extend([
            Column::words("updates", cells(&|run| format!("{} of {}", run.update, run.total_updates))),
            Column::numbers("model of", cells(&|run| or_none(run.model_update.map(|update| update.to_string())))),
            Column::numbers("time", cells(&|run| or_none(run.train_seconds.map(duration)))),
            Column::numbers("rows/s", cells(&|run| or_none(run.rows_per_second.map(|rate| format!("{rate:.0}"))))),
            Column::numbers("memory", cells(&|run| or_none(run.peak_worker_bytes.map(megabytes)))),
            Column::numbers("workers", cells(&Facts::workers_in_words)),
            Column::words("weights", cells(&|run| or_none(digest(run)))),
        ]);
        let mut text = table(&first, &columns, width);
        let more: Vec<String> = told.iter().skip(MOST_SETTINGS).map(|name| plain(name)).collect();
        let more = (!more.is_empty()).then(|| format!("more settings differ, which the page has: {}", more.join(", ")));
        let notes: Vec<String> =
            more.iter().chain(&self.notes).map(|note| format!("\nnote: {}", plain(note))).collect();
        if !notes.is_empty() {
            text.push('\n');
            text.extend(notes);
        }
        text
    }
}

/// Names of folders and labels are somebody else's words: none of them writes to the terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
#[path = "compare_test.rs"]
mod tests;
