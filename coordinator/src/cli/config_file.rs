//! A run's flags in a TOML file: the same names with underscores, each with its value.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use toml::Value;

use super::CliError;
use super::huggingface::Unsupported;
use super::spelling::Spelling;

/// More than any set of flags needs.
const MOST_BYTES: u64 = 1 << 20;

/// Why a file is not a set of flags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(String),
    /// It is too large.
    #[error("is larger than {MOST_BYTES} bytes, which no set of flags is")]
    TooLarge,
    /// It is not TOML.
    #[error("is not TOML: {0}")]
    Toml(String),
    /// A key is not a flag.
    #[error("unknown key \"{key}\"{suggestion}")]
    UnknownKey {
        /// The key.
        key: String,
        /// A key that may be meant.
        suggestion: String,
    },
    /// A key is a flag of Hugging Face that is not supported.
    #[error("key \"{key}\" is not supported: {instead}")]
    Unsupported {
        /// The key.
        key: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A value is of no kind that a flag has.
    #[error("{key} is {found}; expected a string, a number, true, false, or a list of strings without commas")]
    Kind {
        /// The key.
        key: String,
        /// What its value is.
        found: &'static str,
    },
    /// A value is refused.
    #[error("{0}")]
    Value(String),
}

/// Reads a file as the words that would say the same on the command line.
///
/// `suggest` names the flag that an unknown name looks like.
pub(super) fn words(
    path: &Path,
    spelling: &Spelling,
    suggest: impl Fn(&str) -> Option<String>,
) -> Result<Vec<OsString>, CliError> {
    let in_file = |problem| CliError::Config { path: path.to_path_buf(), problem };
    let text = read(path).map_err(in_file)?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| in_file(ConfigProblem::Toml(error.to_string())))?;
    let mut words = Vec::with_capacity(table.len());
    for (key, value) in &table {
        let value = word(key, value).map_err(in_file)?;
        if spelling.knows(key) && key != "config" && key != "help" {
            words.push(OsString::from(format!("--{key}={value}")));
        } else if let Some(unsupported) = Unsupported::named(key) {
            if !unsupported.asks_nothing(Some(&value)) {
                return Err(in_file(ConfigProblem::Unsupported { key: key.clone(), instead: unsupported.instead }));
            }
        } else {
            let plain = key.replace('-', "_");
            let plain = plain.strip_prefix("no_").unwrap_or(&plain);
            let other = spelling.other_name(plain).map(ToOwned::to_owned);
            let meant = other.or_else(|| spelling.completions(plain).next().cloned()).or_else(|| suggest(plain));
            let meant = meant.filter(|meant| meant != key);
            let suggestion = meant.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
            return Err(in_file(ConfigProblem::UnknownKey { key: key.clone(), suggestion }));
        }
    }
    Ok(words)
}

fn read(path: &Path) -> Result<String, ConfigProblem> {
    let file = std::fs::File::open(path).map_err(|error| ConfigProblem::Io(error.to_string()))?;
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|error| ConfigProblem::Io(error.to_string()))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(ConfigProblem::TooLarge);
    }
    Ok(text)
}

/// The value as it stands on the command line.
fn word(key: &str, value: &Value) -> Result<String, ConfigProblem> {
    let refused = |found| ConfigProblem::Kind { key: key.to_owned(), found };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(truth) => Ok(truth.to_string()),
        Value::Array(items) => {
            let text = |item: &Value| item.as_str().filter(|text| !text.contains(',')).map(ToOwned::to_owned);
            let items: Option<Vec<String>> = items.iter().map(text).collect();
            items.map(|items| items.join(",")).ok_or_else(|| refused("another list"))
        }
        Value::Table(_) => Err(refused("a table")),
        Value::Datetime(_) => Err(refused("a date")),
    }
}

#[cfg(test)]
#[path = "config_file_test.rs"]
mod tests;
