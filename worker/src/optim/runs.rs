//! Which parameters are moved alike.

use std::ops::Range;

use medley_common::spec::TuningSpec;

use crate::layout::{Layout, Segment};

/// Parameters that have the same learning rate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// What the learning rate is multiplied by.
    pub(super) rate: f64,
    pub(super) runs: Vec<Run>,
}

/// Neighbouring parameters of a segment that decay alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) segment: Segment,
    /// Elements within the segment.
    pub(super) within: Range<usize>,
    /// Elements of the optimizer's shard, which is a run of the flat buffer.
    pub(super) range: Range<usize>,
    pub(super) decays: bool,
}

/// All parameters of `shard` that are trained, in the order of the layout: neighbouring segments of the same rate are one
/// group.
pub(super) fn groups(layout: &Layout, tuning: &TuningSpec, shard: &Range<usize>) -> Vec<Group> {
    let layers = layout.segments().iter().filter(|(segment, _)| matches!(segment, Segment::Layer(_))).count() as u32;
    let mut groups: Vec<Group> = Vec::new();
    for (segment, whole) in layout.segments().iter().filter(|(segment, _)| segment.is_trained(tuning)) {
        let (rate, runs) = (segment.rate(tuning, layers), runs(layout, (*segment, whole), shard));
        match groups.last_mut() {
            Some(group) if group.rate.to_bits() == rate.to_bits() => group.runs.extend(runs),
            _ => groups.push(Group { rate, runs }),
        }
    }
    groups
}

/// Neighbouring tensors of a segment that decay alike are one run, as far as they are in `shard`.
fn runs(layout: &Layout, (segment, whole): (Segment, &Range<usize>), shard: &Range<usize>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for slot in layout.slots().iter().filter(|slot| whole.contains(&slot.range.start)) {
        let (start, end) = (slot.range.start.max(shard.start), slot.range.end.min(shard.end));
        if start >= end {
            continue;
        }
        let (within, decays) = (start - whole.start..end - whole.start, slot.decays());
        let (start, end) = (start - shard.start, end - shard.start);
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
