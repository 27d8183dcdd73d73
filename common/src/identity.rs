//! Names for the numbers that must not be confused.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One worker process, numbered by the coordinator in the order of arrival; never reused within a run.
    WorkerId(u64)
}
number! {
    /// A worker's place in the current group, `0..world`.
    Rank(u32)
}
number! {
    /// The number of the current group of workers. It grows by one with every regrouping; whatever carries an older
    /// one is refused (INV-2).
    Generation(u64)
}
number! {
    /// An optimizer update, numbered from 1; as a position, the number of updates done.
    Update(u64)
}
number! {
    /// A row of one split, numbered from 0 in file order, skipped rows not counted.
    RowId(u32)
}

impl Update {
    /// The update after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A part of the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Rows that updates are computed from.
    Train,
    /// Labelled rows that measure the model (`--validation_file`).
    Validation,
    /// Rows to predict, labelled or not (`--test_file`).
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// A number that a worker's process has drawn, the same in all its sessions: host and process id are not enough where
/// containers have the same of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMark(pub u64);

impl ProcessMark {
    /// Draws one. The standard library has the system's randomness for the keys of its hash tables alone, so it is taken
    /// from there.
    #[must_use]
    pub fn draw() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }
}

/// As what a process is known to the run that it takes part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The run, as its `Welcome` named it.
    pub run: Digest,
    /// Its names, the newest last, from the one under which it was last given work: each session gives another, and the
    /// ledger's newest group may have any of these.
    pub names: Vec<WorkerId>,
}

impl Known {
    /// The names that are kept: so many coordinators in a row would have to die without giving any work.
    const MOST_NAMES: usize = 64;

    /// Known under another name from now on; what another run knew is forgotten.
    #[must_use]
    pub fn named(before: Option<Self>, run: Digest, worker: WorkerId) -> Self {
        let mut names = before.filter(|before| before.run == run).map_or_else(Vec::new, |before| before.names);
        names.push(worker);
        let surplus = names.len().saturating_sub(Self::MOST_NAMES);
        // The first is the one that the ledger has.
        names.drain(1..=surplus);
        Self { run, names }
    }

    /// Given work under its newest name: so that one is in the ledger, and no older one is looked for any more.
    pub fn employed(&mut self) {
        self.names.drain(..self.names.len().saturating_sub(1));
    }

    /// Its newest name.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.names.last().copied()
    }
}

/// A SHA-256 digest; prints as `sha256sum` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first 12 of its 64 digits: enough for a person to tell two apart.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is not 64 hexadecimal digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_through_hex() {
        let digest = Digest(std::array::from_fn(|i| (i * 9) as u8));
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex("abc"), None);
        assert_eq!(Digest::from_hex(&"g".repeat(64)), None);
    }

    #[test]
    fn names_are_kept_until_there_is_work_under_the_newest() {
        let run = Digest([1; 32]);
        let mut known = Known::named(None, run, WorkerId(1));
        known = Known::named(Some(known), run, WorkerId(11));
        known = Known::named(Some(known), run, WorkerId(21));
        assert_eq!(known.names, [WorkerId(1), WorkerId(11), WorkerId(21)]);
        known.employed();
        assert_eq!((known.names.as_slice(), known.worker()), (&[WorkerId(21)][..], Some(WorkerId(21))));
        let other = Known::named(Some(known.clone()), Digest([2; 32]), WorkerId(3));
        assert_eq!(other.names, [WorkerId(3)]);
        let many = (0..1000).map(WorkerId).fold(known, |known, name| Known::named(Some(known), run, name));
        assert_eq!((many.names.len(), many.worker()), (Known::MOST_NAMES, Some(WorkerId(999))));
    }
}
