//! What of a row is read: the columns of its texts and its label, and baselines that see one text of two.

use std::fmt;

use crate::cli::row_flags::{QuotingFlag, RowFlags};
use crate::dataset::layout::{Quoting, RowLayout, TextColumns};
use crate::spec::SpecError;

/// One text of two, alone: what can be told from it without the other is no inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The first (`--premise_only`).
    Premise,
    /// The second (`--hypothesis_only`).
    Hypothesis,
}

impl Baseline {
    /// The flag, as recipes name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Premise => "premise_only",
            Self::Hypothesis => "hypothesis_only",
        }
    }

    pub(super) fn parse(flags: &RowFlags) -> Result<Option<Self>, SpecError> {
        match (flags.premise_only.0, flags.hypothesis_only.0) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some(Self::Premise)),
            (false, true) => Ok(Some(Self::Hypothesis)),
            (true, true) => Err(SpecError::Exclusive {
                first: "--premise_only",
                second: "--hypothesis_only".into(),
                way_out: "keep one of them, or drop both to read pairs",
            }),
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self::Premise => "the first text",
            Self::Hypothesis => "the second text",
        };
        write!(f, "{place} of each pair alone (--{})", self.name())
    }
}

/// The columns that are read.
pub(super) fn layout(flags: &RowFlags) -> Result<RowLayout, SpecError> {
    let label = flags.label_column_name.trim().to_owned();
    let value = |flag, value: &str, expected: &str| SpecError::Value {
        flag,
        value: format!("\"{value}\""),
        expected: expected.to_owned(),
    };
    if label.is_empty() {
        return Err(value("--label_column_name", &label, "the name of a column"));
    }
    let given = &flags.text_column_names;
    let names: Vec<String> = given.split(',').map(|name| name.trim().to_owned()).collect();
    let expected = "one or two names of columns, with a comma between them";
    let refused = |expected| Err(value("--text_column_names", given, expected));
    if names.iter().any(String::is_empty) {
        return refused(expected);
    }
    if names.contains(&label) {
        return refused("other columns than that of --label_column_name");
    }
    let text = match <[String; 2]>::try_from(names) {
        Ok([first, second]) if first == second => return refused("columns that differ"),
        Ok([first, second]) => match Baseline::parse(flags)? {
            None => TextColumns::Pair(first, second),
            Some(Baseline::Premise) => TextColumns::Single(first),
            Some(Baseline::Hypothesis) => TextColumns::Single(second),
        },
        Err(mut names) => match (names.pop(), names.pop(), Baseline::parse(flags)?) {
            (Some(only), None, None) => TextColumns::Single(only),
            (Some(only), None, Some(baseline)) => {
                return Err(SpecError::Exclusive {
                    first: if baseline == Baseline::Premise { "--premise_only" } else { "--hypothesis_only" },
                    second: format!("--text_column_names {only}"),
                    way_out: "it reads one of two texts: name two columns, or drop it",
                });
            }
            _ => return refused(expected),
        },
    };
    let quoting = match flags.quoting {
        QuotingFlag::Minimal => Quoting::Minimal,
        QuotingFlag::None => Quoting::None,
    };
    Ok(RowLayout { text, label, quoting })
}

#[cfg(test)]
#[path = "text_test.rs"]
mod tests;
