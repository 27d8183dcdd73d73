//! Values over updates, in a bounded number of buckets, however long a run is.

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

/// Buckets of a curve at most. Where there is one more, neighbours become one.
pub const BUCKETS: usize = 512;

/// What the values of a bucket come to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// Their sum.
    pub sum: f64,
    /// The greatest.
    pub greatest: f64,
    /// How many there are.
    pub count: u64,
}

/// `N` measures over the updates `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket<const N: usize> {
    /// Its first update with a value.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// The measures; `None` where no value is a number.
    pub spreads: [Option<Spread>; N],
}

/// `N` measures over the updates of a run.
///
/// A bucket is of as many updates as the span says, a power of two, and begins at a multiple of it: so a curve is the same
/// whether it is drawn up at once or as the run goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve<const N: usize> {
    span: u64,
    buckets: Vec<Bucket<N>>,
}

impl Spread {
    fn of(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self { least: value, sum: value, greatest: value, count: 1 })
    }

    fn with(self, other: Self) -> Self {
        Self {
            least: self.least.min(other.least),
            sum: self.sum + other.sum,
            greatest: self.greatest.max(other.greatest),
            count: self.count + other.count,
        }
    }

    /// The mean of its values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

impl<const N: usize> Bucket<N> {
    fn of(update: u64, values: [Option<f64>; N]) -> Self {
        Self { first: update, last: update, spreads: values.map(|value| value.and_then(Spread::of)) }
    }

    fn take(&mut self, other: &Self) {
        self.last = other.last;
        for (own, theirs) in self.spreads.iter_mut().zip(other.spreads) {
            *own = match (*own, theirs) {
                (Some(own), Some(theirs)) => Some(own.with(theirs)),
                (own, theirs) => own.or(theirs),
            };
        }
    }

    /// Where a measure's mean is drawn.
    #[must_use]
    pub fn middle(&self) -> f64 {
        (self.first + self.last) as f64 / 2.0
    }
}

impl<const N: usize> Default for Curve<N> {
    fn default() -> Self {
        Self { span: 1, buckets: Vec::new() }
    }
}

impl<const N: usize> Curve<N> {
    /// Adds the values of an update that is not before those it has; answers whether the span has grown.
    pub fn push(&mut self, update: u64, values: [Option<f64>; N]) -> bool {
        let span = self.span;
        self.add(Bucket::of(update, values));
        while self.buckets.len() > BUCKETS {
            self.span *= 2;
            std::mem::take(&mut self.buckets).into_iter().for_each(|bucket| self.add(bucket));
        }
        self.span > span
    }

    fn add(&mut self, bucket: Bucket<N>) {
        let span = self.span;
        match self.buckets.last_mut().filter(|last| last.first / span == bucket.first / span) {
            Some(last) => last.take(&bucket),
            None => self.buckets.push(bucket),
        }
    }

    /// Takes all after an update out. A bucket that this cuts is made anew of the values that are `known`, by update, and
    /// left out where they are not all of it.
    pub fn rewind(&mut self, to: u64, known: &[(u64, [Option<f64>; N])]) {
        self.buckets.retain(|bucket| bucket.first <= to);
        let Some(cut) = self.buckets.pop_if(|bucket| bucket.last > to) else { return };
        if known.first().is_some_and(|(update, _)| *update <= cut.first) {
            let kept = known.iter().filter(|(update, _)| (cut.first..=to).contains(update));
            kept.for_each(|(update, values)| self.add(Bucket::of(*update, *values)));
        }
    }

    /// Updates of a bucket.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.span
    }

    /// The buckets, by their updates; at most [`BUCKETS`].
    #[must_use]
    pub fn buckets(&self) -> &[Bucket<N>] {
        &self.buckets
    }
}

/// A bucket as a page is told it: its first and last update, then each measure: a number, `null`, or
/// `[least, sum, greatest, count]` of several.
impl<const N: usize> Serialize for Bucket<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(2 + N))?;
        list.serialize_element(&self.first)?;
        list.serialize_element(&self.last)?;
        for spread in &self.spreads {
            match spread {
                Some(spread) if spread.count == 1 => list.serialize_element(&spread.sum)?,
                Some(Spread { least, sum, greatest, count }) => {
                    list.serialize_element(&(least, sum, greatest, count))?;
                }
                None => list.serialize_element(&None::<f64>)?,
            }
        }
        list.end()
    }
}

#[cfg(test)]
#[path = "curve_test.rs"]
mod tests;
