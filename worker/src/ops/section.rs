//! Parts of a pass that a device may do again without being asked for each of their operations.

use crate::layout::Segment;

/// Operations that are the same, on the same buffers, in every pass over a batch of the same shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section {
    /// What is computed.
    pub part: Part,
    /// [Places](super::Ops::place) of what it is computed from and where sums go: all that may be another one in the next
    /// pass. The model's own buffers are not among them: where one is made anew, so is what was kept of the section.
    pub places: Vec<u64>,
}

/// A part of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What a segment's parameters are used for on the way to the logits.
    Forward(Segment),
    /// The gradients of a segment's parameters, and what is passed on to the segment below.
    Backward(Segment),
}
