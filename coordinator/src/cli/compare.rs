//! `medley compare`: which runs to lay side by side, and how.

use std::path::PathBuf;

/// What `medley compare` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Compare {
    /// Output folders of the runs, two or more
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Where to write the page
    #[arg(long, value_name = "FILE", default_value = "comparison.html")]
    pub output: PathBuf,
    /// Show JSON
    #[arg(long)]
    pub json: bool,
}
