//! Why a tracker could not be told something.

use std::io;
use std::path::Path;

/// Why, and whether to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Trouble {
    /// Why: lower case, no full stop.
    pub reason: String,
    /// Whether it may pass.
    pub may_pass: bool,
}

impl Trouble {
    /// Trouble that may pass.
    #[must_use]
    pub fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), may_pass: true }
    }

    /// Trouble that stays.
    #[must_use]
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), may_pass: false }
    }

    /// What the operating system refuses: a disk that is full or ill may be so for a while.
    pub fn io<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        const EIO: i32 = 5;
        move |error| Self {
            reason: format!("{action} {}: {error}", path.display()),
            may_pass: error.raw_os_error() == Some(EIO)
                || matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
        }
    }
}
