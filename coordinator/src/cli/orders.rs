//! `medley stop`, `medley checkpoint`, `medley drain` and `medley checkpoints`: which run, and what of it.

use super::Reach;

/// What `medley stop` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Stop {
    /// Which run.
    #[command(flatten)]
    pub reach: Reach,
    /// End it at once, and lose what is not saved
    #[arg(long = "at_once")]
    pub at_once: bool,
}

/// What `medley checkpoint` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Checkpoint {
    /// Which run.
    #[command(flatten)]
    pub reach: Reach,
}

/// What `medley drain` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Drain {
    /// The worker's number, as `medley status` shows it
    #[arg(value_name = "WORKER")]
    pub worker: u64,
    /// Which run.
    #[command(flatten)]
    pub reach: Reach,
}

/// What `medley checkpoints` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Checkpoints {
    /// Which run.
    #[command(flatten)]
    pub reach: Reach,
    /// Show JSON, one object a line
    #[arg(long)]
    pub json: bool,
}
