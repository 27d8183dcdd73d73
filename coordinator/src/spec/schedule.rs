//! The course of the learning rate, as the flags say it.

use medley_common::schedule::{Decay, Setting};
use serde_json::{Map, Value};

use super::SpecError;
use crate::cli::run_flags::OptimizerFlags;

const FLAG: &str = "--lr_scheduler_kwargs";

/// What `--lr_scheduler_type` and `--lr_scheduler_kwargs` say.
///
/// # Errors
/// The settings are no JSON object of numbers and words, or the schedule has no such settings.
pub(super) fn decay(given: &OptimizerFlags) -> Result<Decay, SpecError> {
    let text = &given.lr_scheduler_kwargs;
    let refused = |expected: &str| SpecError::Value { flag: FLAG, value: text.clone(), expected: expected.to_owned() };
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| refused("a JSON object, such as '{\"num_cycles\": 2}'"))?;
    let setting = |(name, value): (String, Value)| {
        let setting = match &value {
            Value::String(word) => Setting::Word(word.clone()),
            other => Setting::Number(other.as_f64().ok_or_else(|| refused("numbers and words alone"))?),
        };
        Ok((name, setting))
    };
    let settings: Vec<(String, Setting)> = object.into_iter().map(setting).collect::<Result<_, SpecError>>()?;
    let schedule = |problem: String| SpecError::Schedule { problem };
    let decay = Decay::new(&given.lr_scheduler_type, settings).map_err(|error| schedule(error.to_string()))?;
    match decay.problem(given.learning_rate) {
        Some(problem) => Err(schedule(problem)),
        None => Ok(decay),
    }
}
