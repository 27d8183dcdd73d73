//! The flags of which parameters are trained, and how fast: names, defaults and help.

use clap::Args;

use super::truth::Truth;

/// Which parameters are trained, and how fast.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "What is trained")]
pub(crate) struct TuningFlags {
    /// Rate of layer i of n is x SHARE^(n-i), embeddings x SHARE^(n+1), head x 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub(crate) layer_lr_decay: f64,
    /// Leave all embeddings as they are
    #[arg(long)]
    pub(crate) freeze_embeddings: Truth,
    /// Leave the embeddings and the lowest N encoder layers as they are
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) freeze_layers: i64,
}
