//! `medley verify`: which run to prove, and how to say what was found.

use std::path::PathBuf;

/// What `medley verify` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Verify {
    /// Output folder of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Show JSON
    #[arg(long)]
    pub json: bool,
}
