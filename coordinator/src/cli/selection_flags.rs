//! The flags that let evaluations decide: names, defaults and help.

use clap::Args;

use super::truth::Truth;

/// Which model the run ends with.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Best model and early stopping")]
pub(crate) struct SelectionFlags {
    /// End with the best checkpoint that was evaluated, instead of the last model
    #[arg(long)]
    pub(crate) load_best_model_at_end: Truth,
    /// Metric of the best and of reduce_lr_on_plateau: accuracy, ... [default: loss]
    #[arg(long, value_name = "NAME")]
    pub(crate) metric_for_best_model: Option<String>,
    /// Whether more of it is better [default: True, but for losses]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "True")]
    pub(crate) greater_is_better: Option<Truth>,
    /// End training after so many evaluations in a row without an improvement
    #[arg(long, value_name = "N")]
    pub(crate) early_stopping_patience: Option<i64>,
    /// What an improvement must be more than
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 0.0)]
    pub(crate) early_stopping_threshold: f64,
}
