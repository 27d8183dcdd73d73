//! `medley quickstart`: a small run on data that come with the program.

use std::path::PathBuf;

/// What `medley quickstart` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(rename_all = "snake_case")]
pub struct Quickstart {
    /// Folder for the model, the data and the results
    #[arg(long, value_name = "DIR", default_value = "medley-quickstart")]
    pub output_dir: PathBuf,
    /// Worker processes, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub workers: u32,
    /// Write the data and the untrained model, say the command that trains it, and stop there
    #[arg(long)]
    pub prepare_only: bool,
}
