//! A boolean as Hugging Face writes it.

use std::str::FromStr;

/// The value of a flag that is on or off: `--flag`, `--flag True`, `--flag no`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truth(pub(crate) bool);

impl FromStr for Truth {
    type Err = String;

    /// Reads what `HfArgumentParser` reads, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "t" | "y" | "1" => Ok(Self(true)),
            "no" | "false" | "f" | "n" | "0" => Ok(Self(false)),
            _ => Err("expected True or False (or yes/no, 1/0)".into()),
        }
    }
}
