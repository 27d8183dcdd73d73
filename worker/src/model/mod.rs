//! BERT, and its like, for sequence classification: what is computed, forward and backward, in terms of [`Ops`].
//!
//! | file | part |
//! |---|---|
//! | [`bert`] | the whole model: order of the parts, activations kept between forward and backward |
//! | [`family`] | what BERT, RoBERTa and ELECTRA have of their own: names of tensors, kinds of heads |
//! | [`embeddings`] | words, positions and token types |
//! | [`layer`] | one encoder layer |
//! | [`attention`] | its attention block, with its post-norm |
//! | [`feed_forward`] | its feed-forward block, with its post-norm |
//! | [`head`] | the classifier, a pooler included, and the loss |
//! | [`lane_sums`] | gradients summed over lanes in the order of the lane tree |

use std::ops::Range;

use crate::ops::dropout::{Dropout, Masks, Site};
use crate::ops::section::{Part, Section};
use crate::ops::{DeviceError, Ops, Slice};

pub mod attention;
pub mod bert;
pub mod embeddings;
pub mod family;
pub mod feed_forward;
pub mod head;
pub mod lane_sums;
pub mod layer;

/// The parameters of a segment, by their ranges within it.
struct SegmentParameters<'a, B> {
    parameters: &'a B,
    start: usize,
}

impl<'a, B> SegmentParameters<'a, B> {
    fn at(&self, within: &Range<usize>) -> Slice<'a, B> {
        Slice { buffer: self.parameters, range: self.start + within.start..self.start + within.end }
    }
}

/// What every part of the model is computed with.
pub struct Pass<'a, O: Ops> {
    /// The device.
    pub ops: &'a O,
    /// All parameters, in the order of the layout.
    pub parameters: &'a O::Buffer,
    /// All tokens.
    pub pack: &'a O::Pack,
    /// The first token of each sequence: all that the last layer's output and the head are needed for.
    pub firsts: &'a O::Pack,
    /// The dropout masks.
    pub masks: Masks,
}

impl<'a, O: Ops> Pass<'a, O> {
    /// The same pass over the first tokens alone.
    #[must_use]
    pub fn over_firsts(&self) -> Self {
        Self { pack: self.firsts, ..*self }
    }

    /// The parameters at `range`.
    fn segment(&self, range: &Range<usize>) -> SegmentParameters<'a, O::Buffer> {
        SegmentParameters { parameters: self.parameters, start: range.start }
    }

    fn dropout(&self, site: Site) -> Option<Dropout> {
        self.masks.at(site)
    }

    /// Enqueues a part of the pass, whose sums go to these places: where batches of its shape come again and again, as what
    /// the device may have kept of it.
    fn section(
        &self,
        kept: &mut O::Sections,
        (part, sums): (Part, Vec<u64>),
        enqueue: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if !self.pack.as_ref().is_padded {
            return enqueue();
        }
        let packs = [self.pack, self.firsts].map(|pack| self.ops.place_of_pack(pack));
        let mut places = vec![packs[0], packs[1], self.ops.place(self.parameters)];
        places.extend(sums);
        self.ops.section(kept, Section { part, places }, enqueue)
    }

    fn tokens(&self) -> usize {
        self.pack.as_ref().tokens.len()
    }

    fn blocks(&self) -> usize {
        self.pack.as_ref().blocks.len()
    }
}
