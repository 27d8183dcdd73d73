//! The gradient of one update, summed over all lanes of all workers.

use std::fmt;
use std::ops::Range;

use medley_common::spec::TuningSpec;

use crate::collective::{Spare, SparseRows, Summed};
use crate::layout::{Layout, Segment};
use crate::ops::{DeviceError, Ops, Slice};

/// The summed gradient: dense segments, and the word embedding as rows.
pub struct Gradients<O: Ops> {
    segments: Vec<(Segment, O::Buffer)>,
    words: Vec<u32>,
    word_values: O::Buffer,
    word_elements: usize,
}

/// Why sums are not a gradient of the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GradientError {
    /// A segment is missing, or one is there that should not.
    #[error("the collective summed {summed} dense segments; the model has {expected}")]
    Segments {
        /// Segments that came back.
        summed: usize,
        /// Segments of the model that are trained, the word embedding not counted.
        expected: usize,
    },
    /// A segment has another length than the model's.
    #[error("the collective's sum of {segment:?} has {elements} elements; the model has {expected}")]
    Length {
        /// The segment.
        segment: Segment,
        /// Elements that came back.
        elements: usize,
        /// Elements of the model's segment.
        expected: usize,
    },
    /// The rows of the word embedding do not fit.
    #[error("the collective's {rows} word rows with {elements} elements do not fit the model")]
    Words {
        /// Rows that came back.
        rows: usize,
        /// Their elements.
        elements: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Where numbers ceased to be finite, by the name of the parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This is the first weight, in the order of the layout, that is not finite itself.
    Weight(String),
    /// This is the first gradient, in the order of the backward pass, that is not finite; all weights are.
    Gradient(String),
    /// Every parameter's gradient is finite by itself.
    Unknown,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(name) => write!(f, "the weight {name} is not finite itself"),
            Self::Gradient(name) => write!(f, "the first gradient that is not finite is that of {name}"),
            Self::Unknown => f.write_str("each parameter's gradient is finite by itself"),
        }
    }
}

impl<O: Ops> Gradients<O> {
    /// Takes what the collective has summed; the second part are the buffers that it did not need.
    ///
    /// # Errors
    /// The device failed, or the sums are not of this model.
    pub fn new(
        ops: &O,
        (layout, tuning): (&Layout, &TuningSpec),
        summed: Summed<O::Buffer>,
    ) -> Result<(Self, Spare<O::Buffer>), GradientError> {
        let Summed { mut segments, words, spare, .. } = summed;
        check(ops, (layout, tuning), &segments, &words)?;
        // The norm is a sum over segments: their order must not depend on the collective.
        segments.sort_by_key(|(segment, _)| *segment);
        let word_elements = words.rows.len() * layout.slots()[0].shape[1];
        Ok((Self { segments, words: words.rows, word_values: words.values, word_elements }, spare))
    }

    /// The dense segments, in the order of the layout.
    #[must_use]
    pub fn segments(&self) -> &[(Segment, O::Buffer)] {
        &self.segments
    }

    /// The rows of the word embedding that have a gradient, ascending, and their values.
    #[must_use]
    pub fn words(&self) -> (&[u32], &O::Buffer) {
        (&self.words, &self.word_values)
    }

    /// All rows of the word embedding that have a gradient.
    #[must_use]
    pub fn words_run(&self) -> Slice<'_, O::Buffer> {
        Slice { buffer: &self.word_values, range: 0..self.word_elements }
    }

    /// All elements of each dense segment.
    pub fn dense_runs(&self, layout: &Layout) -> impl Iterator<Item = Slice<'_, O::Buffer>> {
        self.segments.iter().map(|(segment, buffer)| Slice { buffer, range: 0..layout.range(*segment).len() })
    }

    /// The L2 norm of the summed gradient: the same bits on all ranks and for any number of threads.
    ///
    /// # Errors
    /// The device failed.
    pub fn norm(&self, ops: &O, layout: &Layout) -> Result<f64, DeviceError> {
        let runs: Vec<_> = std::iter::once(self.words_run()).chain(self.dense_runs(layout)).collect();
        Ok(ops.square_sum(&runs)?.sqrt())
    }

    /// The tensor whose gradient was the first in the backward pass, which goes from the layout's end to its beginning and
    /// spoils all that comes after, not to be finite in what `shard` has of it: its place among the layout's slots.
    ///
    /// # Errors
    /// The device failed.
    pub fn first_not_finite(
        &self,
        ops: &O,
        layout: &Layout,
        shard: &[Range<usize>],
    ) -> Result<Option<usize>, DeviceError> {
        for (place, slot) in layout.slots().iter().enumerate().rev() {
            let runs = shard.iter().map(|run| run.start.max(slot.range.start)..run.end.min(slot.range.end));
            for run in runs.filter(|run| !run.is_empty()) {
                if let Some(run) = self.run(layout, &run)
                    && !ops.square_sum(&[run])?.is_finite()
                {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }

    /// The gradient of a run of a parameter; of the word embedding, all rows that have one. None where it is not trained.
    fn run(&self, layout: &Layout, run: &Range<usize>) -> Option<Slice<'_, O::Buffer>> {
        let (segment, whole) = layout.segments().iter().find(|(_, whole)| whole.contains(&run.start))?;
        if *segment == Segment::Words {
            return Some(self.words_run());
        }
        let (_, buffer) = self.segments.iter().find(|(known, _)| known == segment)?;
        Some(Slice { buffer, range: run.start - whole.start..run.end - whole.start })
    }

    /// The dense segments' buffers, for reuse.
    #[must_use]
    pub fn into_segments(self) -> Vec<(Segment, O::Buffer)> {
        self.segments
    }
}

/// What the mean gradient is multiplied by so that its norm is at most `max_norm`: `torch.nn.utils.clip_grad_norm_`.
#[must_use]
pub fn clip(norm: f64, max_norm: Option<f64>) -> f64 {
    max_norm.map_or(1.0, |max_norm| (max_norm / (norm + 1e-6)).min(1.0))
}

fn check<O: Ops>(
    ops: &O,
    (layout, tuning): (&Layout, &TuningSpec),
    segments: &[(Segment, O::Buffer)],
    words: &SparseRows<O::Buffer>,
) -> Result<(), GradientError> {
    let (summed, expected) = (segments.len(), layout.dense_segments(tuning).count());
    let found = |segment: &Segment| segments.iter().any(|(known, _)| known == segment);
    let mut known = layout.dense_segments(tuning).map(|(segment, _)| segment);
    if summed != expected || !known.all(found) {
        return Err(GradientError::Segments { summed, expected });
    }
    for (segment, values) in segments {
        let (segment, elements, expected) = (*segment, ops.room(values), layout.range(*segment).len());
        if elements != expected {
            return Err(GradientError::Length { segment, elements, expected });
        }
    }
    let table = &layout.slots()[0].shape;
    let ascending = words.rows.is_sorted_by(|left, right| left < right);
    let inside = words.rows.last().is_none_or(|row| (*row as usize) < table[0]);
    if !ascending || !inside || ops.room(&words.values) < words.rows.len() * table[1] {
        return Err(GradientError::Words { rows: words.rows.len(), elements: ops.room(&words.values) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_is_torchs() {
        assert_eq!(clip(3.0, None), 1.0);
        assert_eq!(clip(0.5, Some(1.0)), 1.0);
        assert_eq!(clip(3.0, Some(1.0)), 1.0 / 3.000_001);
    }
}
