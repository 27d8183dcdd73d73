//! `report.html`: pictures of a run, or of several side by side in `comparison.html`, in one file that loads nothing and runs nothing.
//!
//! Everything comes from what the runs have written: the ledger, the results, the labels of the model. No sentence of the
//! data is in it, unless examples are asked for.

pub(crate) mod chart;
mod examples;
pub(crate) mod html;
mod matrix;
mod page;
mod portrait;
mod settings;
mod timeline;

use std::path::{Path, PathBuf};

use crate::archive::{ArchiveError, REPORT_FILE, may_save_report, save_private_report, save_report};
use crate::verify::{Verdict, verify};
use examples::Examples;
pub use examples::ExamplesError;
pub(crate) use portrait::Portrait;
pub(crate) use settings::{differing, settings_of, shown as shown_setting};

/// A run, and what was found when it was held against its ledger, where that was asked for.
#[derive(Debug)]
pub(crate) struct Sitter {
    pub(crate) portrait: Portrait,
    pub(crate) verdict: Option<Verdict>,
}

impl Sitter {
    /// The run in `folder`, verified. Blocks: it reads every file of the run.
    ///
    /// # Errors
    /// The folder has no ledger, or something cannot be read.
    pub(crate) fn verified(folder: &Path) -> Result<Self, ArchiveError> {
        Ok(Self { portrait: Portrait::read(folder)?, verdict: Some(verify(folder)?) })
    }

    /// Whether all is as its ledger says, as far as that was asked for.
    pub(crate) fn holds(&self) -> bool {
        self.verdict.as_ref().is_none_or(Verdict::holds)
    }
}

/// Why a page is not drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The run cannot be read, or the page not written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There are no examples to show.
    #[error("--report_examples: {0}")]
    Examples(#[from] ExamplesError),
}

/// Draws the run in `folder`, as it ends, without checking its files, with so many `examples`. Blocks.
///
/// # Errors
/// There is no ledger, or something cannot be read or written. Where it is the examples, the page is there without them.
pub fn conclude(folder: &Path, examples: Option<u32>) -> Result<PathBuf, DrawError> {
    let sitter = Sitter { portrait: Portrait::read(folder)?, verdict: None };
    let path = folder.join(REPORT_FILE);
    let examples = examples.map(|most| Examples::read(folder, &sitter.portrait, most)).transpose();
    save(&path, &[sitter], examples.as_ref().ok().and_then(Option::as_ref))?;
    examples?;
    Ok(path)
}

/// Draws the run in `folder`, verified, with so many `examples`, and writes the page to `path`; answers whether all is as its
/// ledger says. Blocks: it reads every file of the run.
///
/// # Errors
/// The folder has no ledger, or something cannot be read or written.
pub fn draw(folder: &Path, path: &Path, examples: Option<u32>) -> Result<bool, DrawError> {
    may_save_report(path)?;
    let sitters = [Sitter::verified(folder)?];
    let examples = examples.map(|most| Examples::read(folder, &sitters[0].portrait, most)).transpose()?;
    save(path, &sitters, examples.as_ref())?;
    Ok(sitters.iter().all(Sitter::holds))
}

/// Writes a page; one with text of the data is for this user alone.
fn save(path: &Path, sitters: &[Sitter], examples: Option<&Examples>) -> Result<(), ArchiveError> {
    let page = page::page(sitters, examples);
    if examples.is_some() { save_private_report(path, &page) } else { save_report(path, &page) }
}

/// Writes the page of `sitters`, side by side, to `path`. Blocks.
///
/// # Errors
/// It cannot be written.
pub(crate) fn draw_all(sitters: &[Sitter], path: &Path) -> Result<(), ArchiveError> {
    save_report(path, &page::page(sitters, None))
}

#[cfg(test)]
#[path = "report_page_test.rs"]
mod tests;
