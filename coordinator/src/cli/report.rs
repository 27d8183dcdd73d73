//! `medley report`: which runs to draw, and where.

use std::path::PathBuf;

/// What `medley report` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Report {
    /// Output folders of the runs; several are laid side by side
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Where to write the page [default: RUN/report.html; of several: comparison.html]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl Report {
    /// Where the page is written to.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match (&self.output, &self.runs[..]) {
            (Some(path), _) => path.clone(),
            (None, [run]) => run.join(crate::archive::REPORT_FILE),
            (None, _) => PathBuf::from("comparison.html"),
        }
    }
}
