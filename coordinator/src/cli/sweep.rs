//! `medley sweep`: which settings to try, and how often.

use std::path::PathBuf;

/// What `medley sweep` was asked.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[command(rename_all = "snake_case", after_help = EXAMPLES)]
pub struct Sweep {
    /// A flag of train and what to try: learning_rate=1e-5,3e-5; a range: 0.1..0.5; by powers: log:1e-5..1e-4
    #[arg(long, value_name = "NAME=VALUES")]
    pub over: Vec<String>,
    /// Seeds that each setting is run with
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "42")]
    pub seeds: Vec<u64>,
    /// Draw so many settings, instead of trying all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: Option<u32>,
    /// What the draw depends on
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub draw_seed: u64,
    /// Successive halving: the best 1 of N go on, each time with N times the updates
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100))]
    pub halving: Option<u32>,
    /// What decides: accuracy, loss, macro_f1, ... of the validation file
    #[arg(long, value_name = "NAME", default_value = "accuracy")]
    pub metric: String,
    /// Folder for the runs and the table of their results
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// The flags of train that all runs share, after --
    #[arg(last = true, value_name = "FLAGS", required = true)]
    pub flags: Vec<String>,
}

const EXAMPLES: &str = "\
The same command goes on with a sweep that was stopped. Example:
  medley sweep --over learning_rate=1e-5,3e-5,5e-5 --seeds 1,2,3 --output_dir sweep -- \\
      --model_name_or_path michiyasunaga/BioLinkBERT-base --do_train --train_file train.jsonl \\
      --do_eval --validation_file dev.jsonl --num_train_epochs 3";
