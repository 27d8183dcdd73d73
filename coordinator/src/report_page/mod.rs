//! `report.html`: pictures of a run, or of several side by side, in one file that loads nothing and runs nothing.
//!
//! Everything comes from what the runs have written: the ledger, the results, the labels of the model. No sentence of the
//! data is in it.

pub(crate) mod chart;
pub(crate) mod html;
mod matrix;
mod page;
mod portrait;
mod settings;
mod timeline;

use std::path::{Path, PathBuf};

use crate::archive::{ArchiveError, REPORT_FILE, may_save_report, save_report};
use crate::verify::{Verdict, verify};
use portrait::Portrait;

/// A run, and what was found when it was held against its ledger, where that was asked for.
#[derive(Debug)]
pub(crate) struct Sitter {
    pub(crate) portrait: Portrait,
    pub(crate) verdict: Option<Verdict>,
}

/// Draws the run in `folder`, as it ends, without checking its files. Blocks.
///
/// # Errors
/// There is no ledger, or something cannot be read or written.
pub fn conclude(folder: &Path) -> Result<PathBuf, ArchiveError> {
    let sitter = Sitter { portrait: Portrait::read(folder)?, verdict: None };
    let path = folder.join(REPORT_FILE);
    save_report(&path, &page::page(&[sitter]))?;
    Ok(path)
}

/// Draws the runs in `folders`, verified, and writes the page to `path`; answers whether all are as their ledgers say.
/// Blocks: it reads every file of the runs.
///
/// # Errors
/// A folder has no ledger, or something cannot be read or written.
pub fn draw(folders: &[PathBuf], path: &Path) -> Result<bool, ArchiveError> {
    may_save_report(path)?;
    let mut sitters = Vec::new();
    for folder in folders {
        let mut portrait = Portrait::read(folder)?;
        if folders.len() > 1 {
            // Folders of several runs may all be called "out".
            portrait.name = folder.display().to_string();
        }
        sitters.push(Sitter { portrait, verdict: Some(verify(folder)?) });
    }
    save_report(path, &page::page(&sitters))?;
    Ok(sitters.iter().all(|sitter| sitter.verdict.as_ref().is_none_or(Verdict::holds)))
}

#[cfg(test)]
#[path = "report_page_test.rs"]
mod tests;
