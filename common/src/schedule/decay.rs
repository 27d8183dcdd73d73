//! The course of a learning rate: a shape, and the values of its parameters.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::shape::{Domain, Moment, Parameter, SHAPES, Shape};

/// How the learning rate goes: what `--lr_scheduler_type` and `--lr_scheduler_kwargs` say.
#[derive(Clone)]
pub struct Decay {
    shape: &'static dyn Shape,
    /// The values of the shape's parameters, in their order.
    values: Vec<f64>,
}

/// What is better of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Less of it, as of a loss.
    Less,
    /// More of it, as of an accuracy.
    More,
}

/// What a parameter is given as.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// A word.
    Word(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => write!(f, "{word:?}"),
        }
    }
}

/// Why something is no course of a learning rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecayError {
    /// There is no such shape.
    #[error("{name:?} is no schedule; expected one of {expected}")]
    Unknown {
        /// What was given.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// The shape has no such parameter.
    #[error("{shape} has no {parameter:?}; expected {expected}")]
    NoParameter {
        /// The shape.
        shape: &'static str,
        /// What was given.
        parameter: String,
        /// The parameters there are.
        expected: String,
    },
    /// A parameter is not what it may be.
    #[error("{parameter} is {value}; expected {expected}")]
    Value {
        /// The parameter.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A parameter must be given.
    #[error("{shape} needs {parameter}, {expected}")]
    Missing {
        /// The shape.
        shape: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What it may be.
        expected: String,
    },
}

impl Decay {
    /// The names of all shapes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|shape| shape.name())
    }

    /// Straight down to 0.
    #[must_use]
    pub fn linear() -> Self {
        Self { shape: &super::linear::Linear, values: Vec::new() }
    }

    /// The shape of that name, with some of its parameters.
    ///
    /// # Errors
    /// There is no such shape or parameter, or a value is not what it may be.
    pub fn new(name: &str, settings: impl IntoIterator<Item = (String, Setting)>) -> Result<Self, DecayError> {
        let shape = find(name)?;
        let parameters = shape.parameters();
        let mut values: Vec<Option<f64>> = parameters.iter().map(|parameter| parameter.default).collect();
        for (given, setting) in settings {
            let Some((place, parameter)) = (0..).zip(parameters).find(|(_, parameter)| parameter.name == given) else {
                let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name).collect();
                let expected = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(DecayError::NoParameter { shape: shape.name(), parameter: given, expected });
            };
            values[place] = Some(value(parameter, &setting)?);
        }
        let missing = |parameter: &Parameter| {
            let (shape, expected) = (shape.name(), parameter.domain.expected());
            DecayError::Missing { shape, parameter: parameter.name, expected }
        };
        let known = parameters.iter().zip(values).map(|(parameter, value)| value.ok_or_else(|| missing(parameter)));
        Ok(Self { shape, values: known.collect::<Result<_, _>>()? })
    }

    /// The shape of that name, with all of its parameters in their order, as [`Self::values`] has them.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn of(name: &str, values: Vec<f64>) -> Result<Self, DecayError> {
        let shape = find(name)?;
        let parameters = shape.parameters();
        if let Some(Parameter { name, domain, .. }) = parameters.get(values.len()) {
            let (shape, expected) = (shape.name(), domain.expected());
            return Err(DecayError::Missing { shape, parameter: name, expected });
        }
        if values.len() > parameters.len() {
            let (parameter, expected) = (format!("value {}", values.len()), parameters.len().to_string());
            return Err(DecayError::NoParameter { shape: shape.name(), parameter, expected });
        }
        let mut known = parameters.iter().zip(&values);
        if let Some((parameter, value)) = known.find(|(parameter, value)| !parameter.domain.holds(**value)) {
            let (value, expected) = (value.to_string(), parameter.domain.expected());
            return Err(DecayError::Value { parameter: parameter.name, value, expected });
        }
        Ok(Self { shape, values })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shape.name()
    }

    /// The values of its parameters, in their order.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// What was set about it, by name.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, Setting)> {
        let parameters = self.shape.parameters().iter().zip(&self.values);
        let set = parameters.filter(|(parameter, value)| parameter.default != Some(**value));
        set.map(|(parameter, value)| match parameter.domain {
            Domain::Word(words) => {
                let word = words.iter().enumerate().find(|(place, _)| *place as f64 == *value);
                (parameter.name, Setting::Word(word.map_or_else(String::new, |(_, word)| (*word).to_owned())))
            }
            Domain::Number(..) | Domain::Whole(..) => (parameter.name, Setting::Number(*value)),
        })
    }

    /// Whether it begins with a warm-up.
    #[must_use]
    pub fn has_warmup(&self) -> bool {
        self.shape.has_warmup()
    }

    /// Why it makes no sense for this peak, if it does not.
    #[must_use]
    pub fn problem(&self, peak: f64) -> Option<String> {
        self.shape.problem(peak, &self.values)
    }

    /// How it goes on after the warm-up, in words.
    #[must_use]
    pub fn words(&self) -> String {
        self.shape.words(&self.values)
    }

    /// What it wants of the metric that evaluations measure; `None` where it is a function of the update alone.
    #[must_use]
    pub fn wants(&self) -> Option<Wish> {
        self.shape.wants(&self.values)
    }

    /// The peak that is left where evaluations have measured that, in their order.
    pub(super) fn peak(&self, peak: f64, measured: &[f64]) -> f64 {
        self.shape.peak(peak, measured, &self.values)
    }

    /// The factor of the peak after `step` steps of the scheduler.
    pub(super) fn factor(&self, step: u64, (warmup, total): (u64, u64), peak: f64) -> f64 {
        if self.has_warmup() && step < warmup {
            return self.shape.warmup(step as f64 / warmup as f64, &self.values);
        }
        self.shape.factor(&Moment { step, warmup: warmup.min(step), total, peak, values: &self.values })
    }
}

fn find(name: &str) -> Result<&'static dyn Shape, DecayError> {
    let found = SHAPES.iter().find(|shape| shape.name() == name).copied();
    found.ok_or_else(|| {
        let expected = Decay::names().collect::<Vec<_>>().join(", ");
        DecayError::Unknown { name: name.to_owned(), expected }
    })
}

/// What a setting comes to, if it is one that the parameter may have.
fn value(parameter: &Parameter, setting: &Setting) -> Result<f64, DecayError> {
    let value = match (parameter.domain, setting) {
        (Domain::Word(words), Setting::Word(word)) => {
            words.iter().position(|known| known == word).map(|place| place as f64)
        }
        (Domain::Number(..) | Domain::Whole(..), Setting::Number(number)) => {
            Some(*number).filter(|number| parameter.domain.holds(*number))
        }
        (Domain::Word(_), Setting::Number(_)) | (_, Setting::Word(_)) => None,
    };
    let (name, expected) = (parameter.name, parameter.domain.expected());
    value.ok_or_else(|| DecayError::Value { parameter: name, value: setting.to_string(), expected })
}

impl PartialEq for Decay {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.values == other.values
    }
}

impl fmt::Debug for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.settings().try_for_each(|(name, setting)| write!(f, " {name}={setting}"))
    }
}

/// A shape by its name where all about it is as ever, else with its values.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Whole(String, Vec<f64>),
}

impl Serialize for Decay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.name().to_owned();
        let is_plain = self.settings().next().is_none();
        let written = if is_plain { Written::Name(name) } else { Written::Whole(name, self.values.clone()) };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Decay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let decay = match Written::deserialize(deserializer)? {
            Written::Name(name) => Self::new(&name, []),
            Written::Whole(name, values) => Self::of(&name, values),
        };
        decay.map_err(serde::de::Error::custom)
    }
}
