//! `medley status`: which run to ask, and how to show it.

use std::path::PathBuf;

use medley_proto::address::CoordinatorAddress;

/// How to reach a run's coordinator.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Reach {
    /// Where the run's coordinator listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29400")]
    pub coordinator: CoordinatorAddress,
    /// Folder with ca.crt and token, of a coordinator that other machines reach [default: $MEDLEY_CREDENTIALS]
    #[arg(long, value_name = "DIR")]
    pub credentials: Option<PathBuf>,
}

/// What `medley status` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Status {
    /// Which run.
    #[command(flatten)]
    pub reach: Reach,
    /// Go on showing until the run ends; on a terminal, on a full screen, which q leaves
    #[arg(long)]
    pub watch: bool,
    /// Show JSON, one object a line
    #[arg(long)]
    pub json: bool,
}
