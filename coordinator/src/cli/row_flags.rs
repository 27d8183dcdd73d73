//! The flags of a run that say what a row is in the files it reads.

use clap::{Args, ValueEnum};

use super::truth::Truth;

/// What a row is.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Rows")]
pub(crate) struct RowFlags {
    /// Columns of the texts: two for pairs, or one
    #[arg(long, value_name = "NAMES", default_value = "sentence1,sentence2")]
    pub(crate) text_column_names: String,
    /// Column of a row's label
    #[arg(long, value_name = "NAME", default_value = "gold_label")]
    pub(crate) label_column_name: String,
    /// Quotes around fields of .csv and .tsv; none: they are text
    #[arg(long, value_name = "minimal|none", value_enum, default_value_t = QuotingFlag::Minimal)]
    pub(crate) quoting: QuotingFlag,
    /// Read the first of the two texts alone, as a baseline
    #[arg(long)]
    pub(crate) premise_only: Truth,
    /// Read the second of the two texts alone, as a baseline
    #[arg(long)]
    pub(crate) hypothesis_only: Truth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum QuotingFlag {
    Minimal,
    None,
}
