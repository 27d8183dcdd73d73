//! A save: which state it is of, and the pieces in which the ranks send its files.

use std::ops::Range;

use crate::identity::{Generation, Update};

/// One save of the state. It outlives the group that began it, and is no other's: after the run went back, the same update
/// is saved by another group, and has other bits where sums depend on the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaveId {
    /// Updates done in the state.
    pub update: Update,
    /// The group that stood when it was begun.
    pub generation: Generation,
}

/// One of `count` pieces that a file is cut into, each a run of bytes; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// Which one.
    pub index: u32,
    /// How many there are; at least 1.
    pub count: u32,
}

impl Piece {
    /// Its bytes in a file of `bytes`: the pieces are the file, in order, and of almost equal length.
    #[must_use]
    pub fn range(self, bytes: u64) -> Range<u64> {
        let count = u128::from(self.count.max(1));
        let cut = |index: u32| {
            let place = u128::from(bytes) * u128::from(index).min(count) / count;
            u64::try_from(place).unwrap_or(bytes)
        };
        cut(self.index)..cut(self.index.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_file() {
        for (bytes, count) in [(0, 1), (10, 1), (10, 3), (2, 5), (u64::MAX, 7)] {
            let ranges: Vec<_> = (0..count).map(|index| Piece { index, count }.range(bytes)).collect();
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, bytes));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
            let lengths = ranges.iter().map(|range| range.end - range.start);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "{ranges:?}");
        }
        assert_eq!(Piece { index: 5, count: 3 }.range(10), 10..10, "none of the file's");
    }
}
