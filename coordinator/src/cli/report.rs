//! `medley report`: which run to draw, and where.

use std::path::PathBuf;

use crate::archive::REPORT_FILE;

/// What `medley report` was asked, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct ReportFlags {
    /// Output folder of the run
    // Several are taken in for a better answer than that there is one too many.
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    runs: Vec<PathBuf>,
    /// Where to write the page [default: RUN/report.html]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A run to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its output folder.
    pub run: PathBuf,
    /// Where the page is written to.
    pub output: PathBuf,
}

impl ReportFlags {
    /// The only run; `None` where there are several.
    pub(super) fn checked(self) -> Option<Report> {
        let [run] = <[PathBuf; 1]>::try_from(self.runs).ok()?;
        Some(Report { output: self.output.unwrap_or_else(|| run.join(REPORT_FILE)), run })
    }
}
