//! `medley plan`: which run to look into, and how to show what it comes to.

use clap::Args;

use super::run_flags::RunFlags;
use crate::spec::{RunSpec, SpecError};

/// The most GPUs whose speed is told: no run has more workers.
const MOST_GPUS: u32 = 1024;

/// The flags of `train`, and those of the plan alone.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(super) struct PlanFlags {
    #[command(flatten)]
    pub(super) run: RunFlags,
    /// Show JSON
    #[arg(long, help_heading = "Plan")]
    json: bool,
    /// How fast all workers together train, to say how long it takes
    #[arg(long, value_name = "RATE", help_heading = "Plan")]
    rows_per_second: Option<f64>,
    /// Numbers of GPUs to tell the speed of, on paper: as 8,64,1024
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', help_heading = "Plan")]
    gpus: Vec<u32>,
}

/// What `medley plan` was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The run.
    pub spec: RunSpec,
    /// Whether to show JSON.
    pub json: bool,
    /// Rows a second of all workers together; positive, finite.
    pub rows_per_second: Option<f64>,
    /// The numbers of GPUs to tell the speed of; from 1.
    pub gpus: Vec<u32>,
}

impl PlanFlags {
    pub(super) fn checked(self, spec: RunSpec) -> Result<Plan, SpecError> {
        let Self { json, rows_per_second, gpus, .. } = self;
        if let Some(rate) = rows_per_second.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(SpecError::Value {
                flag: "--rows_per_second",
                value: rate.to_string(),
                expected: "a finite number above 0".to_owned(),
            });
        }
        if let Some(gpus) = gpus.iter().find(|gpus| !(1..=MOST_GPUS).contains(*gpus)) {
            return Err(SpecError::Value {
                flag: "--gpus",
                value: gpus.to_string(),
                expected: format!("numbers from 1 to {MOST_GPUS}"),
            });
        }
        Ok(Plan { spec, json, rows_per_second, gpus })
    }
}
