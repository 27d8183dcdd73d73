//! One flag and what is tried of it.

use std::fmt;

/// A flag of `medley train` and its values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// The flag, without dashes and with underscores.
    pub(super) name: String,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    List(Vec<String>),
    /// From the first to the second number.
    Range(f64, f64),
    /// The same, evenly by powers.
    Powers(f64, f64),
}

/// Why a text is no axis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--over {text}: {problem}")]
pub struct AxisError {
    text: String,
    problem: &'static str,
}

impl Axis {
    /// Reads `NAME=A,B,C`, `NAME=LOW..HIGH` or `NAME=log:LOW..HIGH`.
    pub(super) fn parse(text: &str) -> Result<Self, AxisError> {
        let refused = |problem| AxisError { text: text.to_owned(), problem };
        let (name, values) =
            text.split_once('=').ok_or(refused("expected NAME=VALUES, as in learning_rate=1e-5,3e-5"))?;
        let name = name.trim_start_matches("--").replace('-', "_");
        if name.is_empty() {
            return Err(refused("there is no name before the ="));
        }
        let (powers, range) = values.strip_prefix("log:").map_or((false, values), |range| (true, range));
        let bounds = range.split_once("..").map(|(low, high)| (low.parse::<f64>(), high.parse::<f64>()));
        let values = match bounds {
            Some((Ok(low), Ok(high))) if !(low < high && low.is_finite() && high.is_finite()) => {
                return Err(refused("a range goes from a number up to a greater one"));
            }
            Some((Ok(low), Ok(_))) if powers && low <= 0.0 => return Err(refused("powers are of numbers above 0")),
            Some((Ok(low), Ok(high))) if powers => Values::Powers(low, high),
            Some((Ok(low), Ok(high))) => Values::Range(low, high),
            _ if powers => return Err(refused("expected two numbers after log:, as in log:1e-5..1e-4")),
            _ => {
                let list: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
                if list.iter().any(String::is_empty) {
                    return Err(refused("a value is empty"));
                }
                if list.iter().enumerate().any(|(place, value)| list[..place].contains(value)) {
                    return Err(refused("a value is there twice"));
                }
                Values::List(list)
            }
        };
        Ok(Self { name, values })
    }

    /// Its values; `None` for a range, which has no end of them.
    pub(super) fn values(&self) -> Option<&[String]> {
        match &self.values {
            Values::List(list) => Some(list),
            Values::Range(..) | Values::Powers(..) => None,
        }
    }

    /// The value at a place from 0 up to, but not including, 1.
    pub(super) fn at(&self, place: f64) -> String {
        // Three digits are what a person would have typed, and tell values apart well enough.
        match &self.values {
            Values::List(list) => {
                let index = (place * list.len() as f64) as usize;
                list[index.min(list.len() - 1)].clone()
            }
            Values::Range(low, high) => short(low + place * (high - low)),
            Values::Powers(low, high) => short((low.ln() + place * (high.ln() - low.ln())).exp()),
        }
    }
}

/// A number with three significant digits, in the shorter of both ways.
fn short(value: f64) -> String {
    let exact: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    format!("{exact:?}").trim_end_matches(".0").to_owned()
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            Values::List(list) => write!(f, "{}={}", self.name, list.join(",")),
            Values::Range(low, high) => write!(f, "{}={low:?}..{high:?}", self.name),
            Values::Powers(low, high) => write!(f, "{}=log:{low:?}..{high:?}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read_and_written_back() {
        for text in ["learning_rate=1e-5,3e-5", "warmup_ratio=0.0..0.5", "learning_rate=log:1e-5..0.0001"] {
            assert_eq!(Axis::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Axis::parse("--learning-rate=1e-5").unwrap().name, "learning_rate");
        assert_eq!(Axis::parse("train_file=a..b.jsonl").unwrap().values().unwrap(), ["a..b.jsonl"], "no numbers");
    }

    #[test]
    fn values_lie_where_they_should() {
        let powers = Axis::parse("learning_rate=log:1e-5..1e-3").unwrap();
        assert_eq!([0.0, 0.5, 0.9999].map(|place| powers.at(place)), ["1e-5", "0.0001", "0.001"]);
        let range = Axis::parse("warmup_ratio=0..0.5").unwrap();
        assert_eq!([0.0, 0.5].map(|place| range.at(place)), ["0", "0.25"]);
        let list = Axis::parse("optim=adamw_hf,adamw_torch").unwrap();
        assert_eq!(
            [0.0, 0.49, 0.5, 0.99].map(|place| list.at(place)),
            ["adamw_hf", "adamw_hf", "adamw_torch", "adamw_torch"]
        );
    }

    #[test]
    fn what_is_no_axis_is_refused_with_what_is_expected() {
        let cases = [
            ("learning_rate", "expected NAME=VALUES"),
            ("=1", "no name"),
            ("a=1,,2", "empty"),
            ("a=1,1", "twice"),
            ("a=2..1", "up to a greater one"),
            ("a=1..inf", "up to a greater one"),
            ("a=log:0..1", "above 0"),
            ("a=log:1,2", "log:1e-5..1e-4"),
        ];
        for (text, expected) in cases {
            let error = Axis::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--over {text}: ")) && error.contains(expected), "{error}");
        }
    }
}
