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
    /// Show N sure but wrong predictions of the test file with their text [default: none; alone: 20]
    #[arg(long = "report_examples", value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    report_examples: Option<u32>,
}

/// A run to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its output folder.
    pub run: PathBuf,
    /// Where the page is written to.
    pub output: PathBuf,
    /// How many wrong predictions it shows, with their text; `None` for none.
    pub examples: Option<u32>,
}

impl ReportFlags {
    /// The only run; `None` where there are several.
    pub(super) fn checked(self) -> Option<Report> {
        let [run] = <[PathBuf; 1]>::try_from(self.runs).ok()?;
        let examples = self.report_examples;
        Some(Report { examples, output: self.output.unwrap_or_else(|| run.join(REPORT_FILE)), run })
    }
}
