//! Which classes a run has, as its flags say.

use std::fmt;

use crate::dataset::labels::LabelSet;
use crate::spec::SpecError;

/// The classes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChoice {
    /// Those of the training file, sorted as text; without training, the model's own.
    Auto,
    /// These, in the order of their ids.
    Named(Vec<String>),
}

impl LabelChoice {
    pub(super) fn parse(given: &str) -> Result<Self, SpecError> {
        if given.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let labels: Vec<String> = given.split(',').map(|label| label.trim().to_owned()).collect();
        let refused = |expected: String| SpecError::Value { flag: "--labels", value: format!("\"{given}\""), expected };
        if labels.len() < 2 || labels.iter().any(String::is_empty) {
            return Err(refused("at least two names with commas between them, or auto".to_owned()));
        }
        if labels.len() > LabelSet::MOST {
            return Err(refused(format!("at most {} names", LabelSet::MOST)));
        }
        if labels.iter().enumerate().any(|(place, label)| labels[..place].contains(label)) {
            return Err(refused("names that differ".to_owned()));
        }
        Ok(Self::Named(labels))
    }
}

impl fmt::Display for LabelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("labels as they are found"),
            Self::Named(names) => f.write_str(&names.join(", ")),
        }
    }
}
