//! The flags of what is told while a run goes on.

use clap::{Args, ValueEnum};

use super::truth::Truth;
use crate::spec::{Format, Level};

/// How much to tell, and for whom.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "What is told on standard error")]
pub(crate) struct ConsoleFlags {
    /// The least that is told: error, warning, info or debug [default: info]
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub(crate) log_level: Option<LogLevelFlag>,
    /// Tell errors and the result alone
    #[arg(long)]
    pub(crate) quiet: Truth,
    /// Lines for people, or JSON, an object a line
    #[arg(long, value_name = "text|json", value_enum, default_value_t = LogFormatFlag::Text)]
    pub(crate) log_format: LogFormatFlag,
}

// Hugging Face has more names, and none for what is usual but passive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevelFlag {
    #[value(name = "error", alias = "critical")]
    Error,
    #[value(name = "warning")]
    Warning,
    #[value(name = "info", alias = "passive")]
    Info,
    #[value(name = "debug", alias = "detail")]
    Debug,
}

impl From<LogLevelFlag> for Level {
    fn from(flag: LogLevelFlag) -> Self {
        match flag {
            LogLevelFlag::Error => Self::Error,
            LogLevelFlag::Warning => Self::Warning,
            LogLevelFlag::Info => Self::Info,
            LogLevelFlag::Debug => Self::Debug,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum LogFormatFlag {
    Text,
    Json,
}

impl From<LogFormatFlag> for Format {
    fn from(flag: LogFormatFlag) -> Self {
        match flag {
            LogFormatFlag::Text => Self::Text,
            LogFormatFlag::Json => Self::Json,
        }
    }
}
