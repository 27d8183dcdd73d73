//! `medley replay`: which updates of which run to make again.

use std::path::PathBuf;

/// What `medley replay` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(rename_all = "snake_case")]
pub struct Replay {
    /// Output folder of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Update of the checkpoint to start from; 0 for the initial weights
    #[arg(long, value_name = "UPDATE")]
    pub from_checkpoint: u64,
    /// Updates to make again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub updates: u64,
    /// Worker processes on this machine; any number makes the same updates
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// More flags of medley train, e.g. where the files are now
    #[arg(last = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}
