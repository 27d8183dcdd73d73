//! What a person should know about a run that is valid all the same.

use std::fmt;

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// The result is what the flags ask for; only the way there differs.
    Note,
    /// Something that was asked for is not what happens.
    Warning,
}

/// One sentence to show before the run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub kind: NoteKind,
    /// The sentence: lower case, no full stop.
    pub text: String,
}

impl Note {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { kind: NoteKind::Note, text: text.into() }
    }

    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self { kind: NoteKind::Warning, text: text.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            NoteKind::Note => "note",
            NoteKind::Warning => "warning",
        };
        write!(f, "{kind}: {}", self.text)
    }
}
