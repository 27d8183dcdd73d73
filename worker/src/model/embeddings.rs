//! Words, positions and token types.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::{Rows, SegmentSums};
use crate::layout::{Layout, Segment};
use crate::ops::dropout::Site;
use crate::ops::embedding::{Embedding, EmbeddingBackward, PositionGradient};
use crate::ops::norm::Norm;
use crate::ops::{DeviceError, Ops, Slice};

/// Where the embeddings' parameters lie, and their sizes.
#[derive(Debug)]
pub struct Embeddings {
    hidden: usize,
    types: usize,
    epsilon: f64,
    words: Range<usize>,
    segment: Range<usize>,
    /// Ranges within the segment.
    position: Range<usize>,
    token_type: Range<usize>,
    gamma: Range<usize>,
    beta: Range<usize>,
}

/// What forward keeps for backward.
#[derive(Debug, Default)]
pub struct EmbeddingActivations<B> {
    z: B,
    stats: B,
}

impl Embeddings {
    /// The embeddings of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout) -> Self {
        let hidden = config.hidden_size as usize;
        let types = config.type_vocab_size as usize;
        let position = 0..config.max_position_embeddings as usize * hidden;
        let token_type = position.end..position.end + types * hidden;
        let gamma = token_type.end..token_type.end + hidden;
        let beta = gamma.end..gamma.end + hidden;
        let (words, segment) = (layout.range(Segment::Words), layout.range(Segment::Embeddings));
        Self { hidden, types, epsilon: config.layer_norm_eps, words, segment, position, token_type, gamma, beta }
    }

    /// Width of the word embedding.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Elements of the segment of the small tensors.
    #[must_use]
    pub fn segment_length(&self) -> usize {
        self.segment.len()
    }

    /// Elements of each block's partial sums.
    #[must_use]
    pub fn partials(&self) -> usize {
        (self.types + 2) * self.hidden
    }

    /// Makes room for `tokens` tokens.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn grow<O: Ops>(
        &self,
        ops: &O,
        kept: &mut EmbeddingActivations<O::Buffer>,
        tokens: usize,
    ) -> Result<(), DeviceError> {
        ops.grow_activations(&mut kept.z, tokens * self.hidden)?;
        ops.grow(&mut kept.stats, tokens * 2)
    }

    /// Writes the first hidden states to `output`, `[T, H]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut EmbeddingActivations<O::Buffer>,
        output: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        let weights = pass.segment(&self.segment);
        pass.ops.embedding(Embedding {
            pack: pass.pack,
            dropout: pass.dropout(Site::Embedding),
            words: Slice { buffer: pass.parameters, range: self.words.clone() },
            positions: weights.at(&self.position),
            types: weights.at(&self.token_type),
            norm: Norm { gamma: weights.at(&self.gamma), beta: weights.at(&self.beta), epsilon: self.epsilon },
            z: &mut kept.z,
            stats: &mut kept.stats,
            y: output,
        })
    }

    /// Writes the gradient of each token's embedding to `dz`, `[T, H]`, and each block's sums to `partials`.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &EmbeddingActivations<O::Buffer>,
        dy: &O::Buffer,
        [dz, partials]: [&mut O::Buffer; 2],
    ) -> Result<(), DeviceError> {
        pass.ops.embedding_backward(EmbeddingBackward {
            pack: pass.pack,
            dropout: pass.dropout(Site::Embedding),
            dy,
            z: &kept.z,
            stats: &kept.stats,
            gamma: pass.segment(&self.segment).at(&self.gamma),
            types: self.types,
            dz,
            partials,
        })
    }

    /// Sums the gradients of the small tensors over lanes.
    ///
    /// # Errors
    /// The device failed.
    pub fn sum<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        sums: &mut SegmentSums<'_, O>,
        dz: &O::Buffer,
        partials: &O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, pack, hidden) = (pass.ops, pass.pack, self.hidden);
        let lanes = &pack.as_ref().lanes;
        sums.sum(self.position.clone(), &mut |lane, dpositions| {
            ops.position_gradient(PositionGradient { pack, lane: &lanes[lane], hidden, dz, dpositions })
        })?;
        sums.blocks(self.token_type.start..self.beta.end, Rows { pack, gradient: partials })
    }
}
