//! BERT for sequence classification: what is computed, forward and backward, in terms of [`Ops`].
//!
//! | file | part |
//! |---|---|
//! | [`bert`] | the whole model: order of the parts, activations kept between forward and backward |
//! | [`embeddings`] | words, positions and token types |
//! | [`layer`] | one encoder layer: attention, feed-forward, two post-norms |
//! | [`head`] | pooler, classifier and loss |
//! | [`lane_sums`] | gradients summed over lanes in the order of the lane tree |
//! | [`words`] | the word embedding's gradient, as rows |

use crate::ops::dropout::{Dropout, Masks, Site};
use crate::ops::{Ops, Slice};

pub mod bert;
pub mod embeddings;
pub mod head;
pub mod lane_sums;
pub mod layer;
pub mod words;

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

    /// Some of the parameters.
    fn parameters(&self, range: std::ops::Range<usize>) -> Slice<'a, O::Buffer> {
        Slice { buffer: self.parameters, range }
    }

    fn dropout(&self, site: Site) -> Option<Dropout> {
        self.masks.at(site)
    }

    fn tokens(&self) -> usize {
        self.pack.as_ref().tokens.len()
    }

    fn blocks(&self) -> usize {
        self.pack.as_ref().blocks.len()
    }
}
