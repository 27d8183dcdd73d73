//! `medley convert`: which weights to convert, and where to.

use std::path::PathBuf;

/// What `medley convert` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Convert {
    /// Folder of a model with pytorch_model.bin, or such a file
    #[arg(value_name = "IN")]
    pub from: PathBuf,
    /// Folder for model.safetensors, config and tokenizer; or a file, NAME.safetensors, for the weights alone
    #[arg(value_name = "OUT")]
    pub to: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}
