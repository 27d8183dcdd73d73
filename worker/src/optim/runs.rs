//! Which parameters are moved alike.

use std::ops::Range;

use crate::layout::{Layout, Segment};

/// Neighbouring parameters of a segment that decay alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) segment: Segment,
    /// Elements within the segment.
    pub(super) within: Range<usize>,
    /// Elements of the flat buffer.
    pub(super) range: Range<usize>,
    pub(super) decays: bool,
}

/// All parameters, in the order of the layout: neighbouring tensors of a segment that decay alike are one run.
pub(super) fn runs(layout: &Layout) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (segment, whole) in layout.segments() {
        let slots = layout.slots().iter().filter(|slot| whole.contains(&slot.range.start));
        for slot in slots {
            let (start, end) = (slot.range.start, slot.range.end);
            let (within, decays) = (start - whole.start..end - whole.start, slot.decays());
            match runs.last_mut() {
                Some(run) if run.segment == *segment && run.decays == decays => {
                    run.within.end = within.end;
                    run.range.end = end;
                }
                _ => runs.push(Run { segment: *segment, within, range: start..end, decays }),
            }
        }
    }
    runs
}
