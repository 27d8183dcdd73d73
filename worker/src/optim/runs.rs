//! Which parameters are moved alike.

use std::ops::Range;

use medley_common::spec::TuningSpec;

use crate::layout::{Layout, Segment};

/// Parameters of one segment and learning rate that lie side by side, and so does what is remembered of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// What the learning rate is multiplied by.
    pub(super) rate: f64,
    /// Elements of the flat buffer.
    pub(super) parameters: Range<usize>,
    /// Elements of what is remembered.
    pub(super) memory: Range<usize>,
    pub(super) runs: Vec<Run>,
}

/// Neighbouring parameters of a segment that decay alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) segment: Segment,
    /// Elements within the segment.
    pub(super) within: Range<usize>,
    /// Elements within the part.
    pub(super) range: Range<usize>,
    pub(super) decays: bool,
}

/// All parameters of `shard` that are trained, in its order, which is that of the layout: what is remembered lies without
/// gaps. Of neighbouring segments of the same rate those that one run of the shard has are one part.
pub(super) fn parts(layout: &Layout, tuning: &TuningSpec, shard: &[Range<usize>]) -> Vec<Part> {
    let layers = layout.segments().iter().filter(|(segment, _)| matches!(segment, Segment::Layer(_))).count() as u32;
    let mut parts: Vec<Part> = Vec::new();
    let mut remembered = 0;
    for piece in shard {
        let known = parts.len();
        for (segment, whole) in layout.segments().iter().filter(|(segment, _)| segment.is_trained(tuning)) {
            let (start, end) = (whole.start.max(piece.start), whole.end.min(piece.end));
            if start >= end {
                continue;
            }
            let rate = segment.rate(tuning, layers);
            let goes_on = |part: &Part| part.rate.to_bits() == rate.to_bits() && part.parameters.end == start;
            if !parts[known..].last().is_some_and(goes_on) {
                let memory = remembered + start - piece.start;
                parts.push(Part { rate, parameters: start..start, memory: memory..memory, runs: Vec::new() });
            }
            if let Some(part) = parts.last_mut() {
                part.runs.extend(runs(layout, (*segment, whole), &(start..end), part.parameters.start));
                part.parameters.end = end;
                part.memory.end = part.memory.start + part.parameters.len();
            }
        }
        remembered += piece.len();
    }
    parts
}

/// Neighbouring tensors of a segment that decay alike are one run, as far as they are in `range`; their places in the part
/// that begins at `first`.
fn runs(layout: &Layout, (segment, whole): (Segment, &Range<usize>), range: &Range<usize>, first: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for slot in layout.slots().iter().filter(|slot| whole.contains(&slot.range.start)) {
        let (start, end) = (slot.range.start.max(range.start), slot.range.end.min(range.end));
        if start >= end {
            continue;
        }
        let (within, decays) = (start - whole.start..end - whole.start, slot.decays());
        let (start, end) = (start - first, end - first);
        match runs.last_mut() {
            Some(run) if run.decays == decays => {
                run.within.end = within.end;
                run.range.end = end;
            }
            _ => runs.push(Run { segment, within, range: start..end, decays }),
        }
    }
    runs
}
