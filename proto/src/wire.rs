//! What all conversions share: the error, and the small values.

use std::fmt;
use std::ops::Range;

use medley_common::identity::{Digest, Generation, Split};
use medley_common::message::{ArtifactKind, FailureKind, Token, Verdict};
use medley_common::save::Piece;

use crate::v1;

/// A message that does not say what it must; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A required field is absent, or an enum has no known value.
    #[error("{field} is missing or unknown; is the other side of another version?")]
    Missing {
        /// The field, as `message.field`.
        field: &'static str,
    },
    /// A field has another size than it must.
    #[error("{field} has {found} bytes; expected {expected}")]
    Size {
        /// The field, as `message.field`.
        field: &'static str,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        found: usize,
    },
    /// The value of a field is out of range.
    #[error("{field}: {problem}")]
    Value {
        /// The field, as `message.field`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl WireError {
    /// The field, as `message.field`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Missing { field } | Self::Size { field, .. } | Self::Value { field, .. } => field,
        }
    }
}

pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Missing { field })
}

pub(crate) fn bytes32(value: &[u8], field: &'static str) -> Result<[u8; 32], WireError> {
    value.try_into().map_err(|_| WireError::Size { field, expected: 32, found: value.len() })
}

/// A learning rate: a number, not negative.
pub(crate) fn rate(value: f64, field: &'static str) -> Result<f64, WireError> {
    let is_rate = value.is_finite() && value >= 0.0;
    is_rate.then_some(value).ok_or_else(|| WireError::Value { field, problem: format!("{value} is no learning rate") })
}

/// A line that another process has written, for people: without what moves a terminal's cursor, and not longer than a line
/// of a log may be. What is beyond is cut off.
pub(crate) fn line(text: String, most_bytes: usize) -> String {
    let mut end = text.len().min(most_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == text.len() && !text.contains(char::is_control) {
        return text;
    }
    let cut = if end < text.len() { " ..." } else { "" };
    text[..end].replace(char::is_control, " ") + cut
}

/// A list of no more entries than there is a use for.
pub(crate) fn at_most<T>(list: Vec<T>, most: usize, field: &'static str) -> Result<Vec<T>, WireError> {
    if list.len() <= most {
        return Ok(list);
    }
    Err(WireError::Value { field, problem: format!("{} entries; expected {most} at most", list.len()) })
}

pub(crate) fn digest(value: &[u8], field: &'static str) -> Result<Digest, WireError> {
    bytes32(value, field).map(Digest)
}

/// A piece of a file that is one of its pieces.
///
/// # Errors
/// There are fewer.
pub fn piece(index: u32, count: u32, field: &'static str) -> Result<Piece, WireError> {
    if index < count {
        return Ok(Piece { index, count });
    }
    Err(WireError::Value { field, problem: format!("piece {index} of {count}") })
}

/// The same message both ways: what comes from a group's rank 0 goes on to the others.
pub(crate) fn to_token(generation: Generation, token: Token) -> v1::Token {
    v1::Token { generation: generation.0, token: token.into_bytes() }
}

/// As that of the [`Token`] in it: never the bytes.
impl fmt::Debug for v1::Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// A token of a size that one may have, and its group.
pub(crate) fn token(message: v1::Token) -> Result<(Generation, Token), WireError> {
    let token = Token::new(message.token);
    let token = token.map_err(|error| WireError::Value { field: "token.token", problem: error.to_string() })?;
    Ok((Generation(message.generation), token))
}

pub(crate) fn to_ranges(ranges: Vec<Range<u32>>) -> Vec<v1::Range> {
    ranges.into_iter().map(|range| v1::Range { start: range.start, end: range.end }).collect()
}

/// Ranges that ascend and do not overlap; none of them is empty.
pub(crate) fn ranges(ranges: Vec<v1::Range>, field: &'static str) -> Result<Vec<Range<u32>>, WireError> {
    let mut end = 0;
    for range in &ranges {
        if range.start < end || range.end <= range.start {
            let problem = format!("{}..{} after {end}", range.start, range.end);
            return Err(WireError::Value { field, problem });
        }
        end = range.end;
    }
    Ok(ranges.into_iter().map(|range| range.start..range.end).collect())
}

impl From<Split> for v1::Split {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::Validation => Self::Validation,
            Split::Test => Self::Test,
        }
    }
}

impl TryFrom<v1::Split> for Split {
    type Error = WireError;

    fn try_from(split: v1::Split) -> Result<Self, WireError> {
        match split {
            v1::Split::Train => Ok(Self::Train),
            v1::Split::Validation => Ok(Self::Validation),
            v1::Split::Test => Ok(Self::Test),
            v1::Split::Unspecified => Err(WireError::Missing { field: "split" }),
        }
    }
}

impl From<ArtifactKind> for v1::ArtifactKind {
    fn from(kind: ArtifactKind) -> Self {
        match kind {
            ArtifactKind::Weights => Self::Weights,
            ArtifactKind::Optimizer => Self::Optimizer,
        }
    }
}

impl TryFrom<v1::ArtifactKind> for ArtifactKind {
    type Error = WireError;

    fn try_from(kind: v1::ArtifactKind) -> Result<Self, WireError> {
        match kind {
            v1::ArtifactKind::Weights => Ok(Self::Weights),
            v1::ArtifactKind::Optimizer => Ok(Self::Optimizer),
            v1::ArtifactKind::Unspecified => Err(WireError::Missing { field: "artifact.kind" }),
        }
    }
}

impl From<Verdict> for v1::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Over => Self::Over,
            Verdict::Released => Self::Released,
            Verdict::Failed => Self::Failed,
            Verdict::Refused => Self::Refused,
            Verdict::Replaced => Self::Replaced,
        }
    }
}

impl TryFrom<v1::Verdict> for Verdict {
    type Error = WireError;

    fn try_from(verdict: v1::Verdict) -> Result<Self, WireError> {
        match verdict {
            v1::Verdict::Over => Ok(Self::Over),
            v1::Verdict::Released => Ok(Self::Released),
            v1::Verdict::Failed => Ok(Self::Failed),
            v1::Verdict::Refused => Ok(Self::Refused),
            v1::Verdict::Replaced => Ok(Self::Replaced),
            v1::Verdict::Unspecified => Err(WireError::Missing { field: "stop.verdict" }),
        }
    }
}

impl From<FailureKind> for v1::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Data => Self::Data,
            FailureKind::Config => Self::Config,
            FailureKind::Lost => Self::Lost,
            FailureKind::Internal => Self::Internal,
            FailureKind::Diverged => Self::Diverged,
        }
    }
}

impl TryFrom<v1::FailureKind> for FailureKind {
    type Error = WireError;

    fn try_from(kind: v1::FailureKind) -> Result<Self, WireError> {
        match kind {
            v1::FailureKind::Data => Ok(Self::Data),
            v1::FailureKind::Config => Ok(Self::Config),
            v1::FailureKind::Lost => Ok(Self::Lost),
            v1::FailureKind::Internal => Ok(Self::Internal),
            v1::FailureKind::Diverged => Ok(Self::Diverged),
            v1::FailureKind::Unspecified => Err(WireError::Missing { field: "failed.kind" }),
        }
    }
}
