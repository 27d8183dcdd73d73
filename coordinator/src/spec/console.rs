//! What is told of a run, and how.

use crate::cli::console_flags::ConsoleFlags;
use crate::spec::SpecError;

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What helps to find a fault.
    Debug,
    /// How the run goes.
    Info,
    /// What somebody should look after, though the run goes on.
    Warning,
    /// Why the run does not go on.
    Error,
}

/// For whom it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: an object a line.
    Json,
}

/// What is told on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Console {
    /// The least that is told.
    pub least: Level,
    /// Whether results are told even where they matter less than that.
    pub tells_results: bool,
    /// For whom.
    pub format: Format,
}

impl Console {
    pub(super) fn parse(given: &ConsoleFlags) -> Result<Self, SpecError> {
        if given.quiet.0 && given.log_level.is_some() {
            return Err(SpecError::Exclusive {
                first: "--quiet",
                second: "--log_level".to_owned(),
                way_out: "drop one; --quiet tells errors and the result, --log_level error tells errors alone",
            });
        }
        let least = if given.quiet.0 { Level::Error } else { given.log_level.map_or(Level::Info, Level::from) };
        Ok(Self { least, tells_results: given.quiet.0, format: given.log_format.into() })
    }

    /// Whether something of this level is told.
    #[must_use]
    pub fn wants(&self, level: Level, is_result: bool) -> bool {
        level >= self.least || is_result && self.tells_results
    }

    /// Whether there may be bars on a terminal.
    #[must_use]
    pub fn shows_bars(&self) -> bool {
        self.format == Format::Text && self.least <= Level::Info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{refusal, with};

    fn console(flags: &str) -> Console {
        with(flags).unwrap().output().console
    }

    #[test]
    fn levels_are_those_of_hugging_face_too() {
        for (flags, least) in [
            ("", Level::Info),
            ("--log_level passive", Level::Info),
            ("--log_level debug", Level::Debug),
            ("--log-level detail", Level::Debug),
            ("--log_level warning", Level::Warning),
            ("--log_level error", Level::Error),
            ("--log_level critical", Level::Error),
        ] {
            assert_eq!(console(flags).least, least, "{flags}");
        }
        assert!(refusal(&format!("{} --log_level loud", crate::cli::tests::LEAST)).contains("'loud'"));
    }

    #[test]
    fn quiet_tells_the_result() {
        let quiet = console("--quiet --log_format json");
        assert_eq!(quiet.format, Format::Json);
        assert!(
            quiet.wants(Level::Info, true) && quiet.wants(Level::Error, false) && !quiet.wants(Level::Warning, false)
        );
        assert!(!console("--log_level error").wants(Level::Info, true));
        assert!(console("").shows_bars() && console("--log_level debug").shows_bars());
        assert!(!quiet.shows_bars() && !console("--quiet").shows_bars() && !console("--log_format json").shows_bars());
        let both = format!("{} --quiet --log_level debug", crate::cli::tests::LEAST);
        assert!(refusal(&both).contains("--quiet and --log_level exclude each other"));
    }
}
