//! Which model a run ends with, whether it ends early, and how high its learning rate still is: by what evaluations during
//! training measure.
//!
//! The rules are those of transformers: `Trainer` chooses among the checkpoints that were evaluated, and
//! `EarlyStoppingCallback` counts evaluations that did not improve; `reduce_lr_on_plateau` is told of each but the one
//! before the first update. A value that is no number is never the best.

use std::num::NonZeroU32;

use medley_common::identity::Update;
use medley_common::schedule::{Decay, LrSchedule, Wish};
use serde::{Deserialize, Deserializer, Serialize};

use super::number::Number;
use crate::cli::run_flags::{RunFlags, StrategyFlag};
use crate::cli::selection_flags::SelectionFlags;
use crate::metrics;
use crate::spec::{Cadence, Every, SpecError};

/// How evaluations decide. Checkpoints that were evaluated are candidates for the best model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// The metric, by its key without `eval_`.
    pub metric: String,
    /// Whether more of it is better.
    pub greater_is_better: bool,
    /// Whether the run ends with the best of its checkpoints, and not with the last model.
    pub load_best: bool,
    /// Evaluations without an improvement, one after the other, after which training ends.
    pub patience: Option<NonZeroU32>,
    /// What an improvement must be more than.
    pub threshold: f64,
}

/// What an evaluation measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Updates done when it was made.
    pub update: Update,
    /// The metric.
    #[serde(deserialize_with = "number")]
    pub value: f64,
}

/// JSON has no infinity and no NaN: what is neither is `null`.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Criterion {
    pub(super) fn parse(flags: &RunFlags, decay: &Decay) -> Result<Option<Self>, SpecError> {
        let SelectionFlags {
            load_best_model_at_end,
            metric_for_best_model,
            greater_is_better,
            early_stopping_patience,
            early_stopping_threshold,
        } = &flags.selection;
        let patience = early_stopping_patience
            .map(|patience| Number::new("--early_stopping_patience", patience).at_least(1))
            .transpose()?
            .and_then(NonZeroU32::new);
        let threshold = Number::new("--early_stopping_threshold", *early_stopping_threshold).not_negative()?;
        let load_best = load_best_model_at_end.0;
        let asked_by = match (load_best, patience, decay.wants()) {
            (true, ..) => "--load_best_model_at_end".to_owned(),
            (_, Some(_), _) => "--early_stopping_patience".to_owned(),
            (.., Some(_)) => format!("--lr_scheduler_type {}", decay.name()),
            (false, None, None) => return unasked(flags).map_or(Ok(None), Err),
        };
        if threshold > 0.0 && patience.is_none() {
            return Err(needs("--early_stopping_threshold", "--early_stopping_patience", PATIENCE));
        }
        if flags.cadence.evaluation_strategy == StrategyFlag::No {
            return Err(needs(&asked_by, "--evaluation_strategy", "use --evaluation_strategy epoch or steps"));
        }
        if load_best && flags.cadence.save_strategy != flags.cadence.evaluation_strategy {
            return Err(SpecError::Unmeasured);
        }
        let given = metric_for_best_model.as_deref().unwrap_or("loss");
        let metric = given.strip_prefix("eval_").unwrap_or(given).to_owned();
        let greater_is_better = greater_is_better.map_or(!is_cost(&metric), |greater| greater.0);
        if decay.wants().is_some_and(|wish| (wish == Wish::More) != greater_is_better) {
            return Err(contradicted(decay, &metric, greater_is_better));
        }
        Ok(Some(Self { metric, greater_is_better, load_best, patience, threshold }))
    }

    /// Checks what depends on the labels and on how many updates there are.
    pub(super) fn check(&self, cadence: &Cadence, labels: &[String]) -> Result<(), SpecError> {
        let known = metrics::names(labels);
        if !known.contains(&self.metric) {
            return Err(SpecError::Value {
                flag: "--metric_for_best_model",
                value: self.metric.clone(),
                expected: known.join(", "),
            });
        }
        let fits = match (cadence.evaluation, cadence.saving) {
            (Every::Epoch, Every::Epoch) => true,
            (Every::Updates(evaluation), Every::Updates(saving)) => saving.get().is_multiple_of(evaluation.get()),
            _ => false,
        };
        if self.load_best && !fits && cadence.total_updates > 0 {
            return Err(SpecError::Unmeasured);
        }
        Ok(())
    }

    /// The best that was measured; the earliest of equals.
    #[must_use]
    pub fn best(&self, measured: impl IntoIterator<Item = Measured>) -> Option<Measured> {
        let numbers = measured.into_iter().filter(|measured| measured.value.is_finite());
        numbers.reduce(|best, next| if self.is_better(next.value, best.value) { next } else { best })
    }

    /// The updates that were measured, the best first; the earlier of equals first.
    #[must_use]
    pub fn ranking(&self, measured: impl IntoIterator<Item = Measured>) -> Vec<Update> {
        let mut numbers: Vec<Measured> = measured.into_iter().filter(|measured| measured.value.is_finite()).collect();
        let order = |one: &Measured, other: &Measured| match self.greater_is_better {
            true => other.value.total_cmp(&one.value),
            false => one.value.total_cmp(&other.value),
        };
        numbers.sort_by(|one, other| order(one, other).then(one.update.cmp(&other.update)));
        numbers.into_iter().map(|measured| measured.update).collect()
    }

    /// The update after which training ends because there was no improvement any more; `measured` is in order.
    #[must_use]
    pub fn ends_after(&self, measured: impl IntoIterator<Item = Measured>) -> Option<Update> {
        let patience = self.patience?.get();
        let (mut best, mut failures) = (None, 0);
        for Measured { update, value } in measured {
            let improves = match best {
                None => value.is_finite(),
                Some(best) => self.is_better(value, best) && (value - best).abs() > self.threshold,
            };
            failures = if improves { 0 } else { failures + 1 };
            if value.is_finite() && best.is_none_or(|best| self.is_better(value, best)) {
                best = Some(value);
            }
            if failures >= patience {
                return Some(update);
            }
        }
        None
    }

    /// The peak that the learning rate of `update` has, where evaluations have measured that, in their order.
    #[must_use]
    pub fn peak<'a>(
        &self,
        schedule: &LrSchedule,
        measured: impl IntoIterator<Item = &'a Measured>,
        update: Update,
    ) -> f64 {
        if schedule.decay.wants().is_none() {
            return schedule.peak;
        }
        let counts = |it: &&Measured| it.update > Update(0) && it.update < update;
        let before: Vec<f64> = measured.into_iter().filter(counts).map(|measured| measured.value).collect();
        schedule.peak_after(&before)
    }

    /// What it decides, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let direction = if self.greater_is_better { "highest" } else { "lowest" };
        let result = match self.load_best {
            true => format!("the checkpoint with the {direction} eval_{} is the result", self.metric),
            false => "the last model is the result".to_owned(),
        };
        let Some(patience) = self.patience else { return result };
        let more = if self.threshold > 0.0 { format!(" by more than {}", self.threshold) } else { String::new() };
        let metric = &self.metric;
        format!("{result}; training ends after {patience} evaluations in a row that do not improve eval_{metric}{more}")
    }

    /// The settings by their flags, as the recipe has them.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, serde_json::Value)> {
        vec![
            ("load_best_model_at_end", self.load_best.into()),
            ("metric_for_best_model", self.metric.as_str().into()),
            ("greater_is_better", self.greater_is_better.into()),
            ("early_stopping_patience", self.patience.map(NonZeroU32::get).into()),
            ("early_stopping_threshold", self.threshold.into()),
        ]
    }

    fn is_better(&self, value: f64, than: f64) -> bool {
        if self.greater_is_better { value > than } else { value < than }
    }
}

/// transformers would lower the learning rate while the metric improves.
fn contradicted(decay: &Decay, metric: &str, greater_is_better: bool) -> SpecError {
    let (better, mode, is) = if greater_is_better { ("more", "max", "min") } else { ("less", "min", "max") };
    let name = decay.name();
    let problem = format!(
        "{name} has mode {is}, but {better} of eval_{metric} is better: give --lr_scheduler_kwargs \
         '{{\"mode\": \"{mode}\"}}'"
    );
    SpecError::Schedule { problem }
}

const PATIENCE: &str = "give the number of evaluations without an improvement after which training ends";

/// Whether less of a metric is better, where nothing is said.
pub(crate) fn is_cost(metric: &str) -> bool {
    metric.ends_with("loss") || metric == "calibration_error"
}

/// A setting that has nothing to set.
fn unasked(flags: &RunFlags) -> Option<SpecError> {
    const BEST: &str = "or drop it: the last model is the result";
    const DECIDES: &str =
        "--load_best_model_at_end, --early_stopping_patience or --lr_scheduler_type reduce_lr_on_plateau";
    let selection = &flags.selection;
    if selection.metric_for_best_model.is_some() {
        return Some(needs("--metric_for_best_model", DECIDES, BEST));
    }
    if selection.greater_is_better.is_some() {
        return Some(needs("--greater_is_better", DECIDES, BEST));
    }
    (selection.early_stopping_threshold > 0.0)
        .then(|| needs("--early_stopping_threshold", "--early_stopping_patience", PATIENCE))
}

fn needs(flag: &str, needs: &'static str, way_out: &'static str) -> SpecError {
    SpecError::Needs { flag: flag.into(), needs, way_out }
}

#[cfg(test)]
#[path = "criterion_test.rs"]
mod tests;
