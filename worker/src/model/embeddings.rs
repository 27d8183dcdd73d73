//! Words, positions and token types, and what makes them as wide as the encoder.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::{LinearRows, Rows, SegmentSums};
use crate::layout::{Layout, Segment};
use crate::ops::dropout::Site;
use crate::ops::embedding::{Embedding, EmbeddingBackward, PositionGradient};
use crate::ops::linear::{ColumnSum, Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::norm::Norm;
use crate::ops::{DeviceError, Ops, Slice};

/// Where the embeddings' parameters lie, and their sizes.
#[derive(Debug)]
pub struct Embeddings {
    /// Of the embeddings: `E`.
    width: usize,
    /// Of the encoder: `H`.
    hidden: usize,
    types: usize,
    epsilon: f64,
    words: Range<usize>,
    segment: Range<usize>,
    /// Ranges within the segment. Positions that no token has come first.
    reserved: Range<usize>,
    position: Range<usize>,
    token_type: Range<usize>,
    gamma: Range<usize>,
    beta: Range<usize>,
    projection: Option<Projection>,
}

/// Where a projection's parameters lie within the segment.
#[derive(Debug)]
struct Projection {
    /// `[H, E]`.
    weight: Range<usize>,
    /// `[H]`.
    bias: Range<usize>,
}

/// What forward keeps for backward.
#[derive(Debug, Default)]
pub struct EmbeddingActivations<B> {
    z: B,
    stats: B,
    /// Input of the projection, `[T, E]`.
    narrow: B,
    /// Its gradient.
    dnarrow: B,
}

impl Embeddings {
    /// The embeddings of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout) -> Self {
        let (hidden, width) = (config.hidden_size as usize, config.embedding_size() as usize);
        let types = config.type_vocab_size as usize;
        let reserved = 0..config.first_position() as usize * width;
        let position = reserved.end..config.max_position_embeddings as usize * width;
        let token_type = position.end..position.end + types * width;
        let gamma = token_type.end..token_type.end + width;
        let beta = gamma.end..gamma.end + width;
        let weight = beta.end..beta.end + hidden * width;
        let bias = weight.end..weight.end + hidden;
        Self {
            width,
            hidden,
            types,
            epsilon: config.layer_norm_eps,
            words: layout.range(Segment::Words),
            segment: layout.range(Segment::Embeddings),
            reserved,
            position,
            token_type,
            gamma,
            beta,
            projection: (width != hidden).then_some(Projection { weight, bias }),
        }
    }

    /// Width of the word embedding.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Width of the hidden states.
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
        (self.types + 2) * self.width
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
        ops.grow_activations(&mut kept.z, tokens * self.width)?;
        if self.projection.is_some() {
            ops.grow_activations(&mut kept.narrow, tokens * self.width)?;
        }
        ops.grow(&mut kept.stats, tokens * 2)
    }

    fn shape<O: Ops>(&self, pass: &Pass<'_, O>) -> LinearShape {
        LinearShape { rows: pass.tokens(), inputs: self.width, outputs: self.hidden }
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
        let Some(Projection { weight, bias }) = &self.projection else {
            return self.embed(pass, [&mut kept.z, &mut kept.stats, output]);
        };
        self.embed(pass, [&mut kept.z, &mut kept.stats, &mut kept.narrow])?;
        pass.ops.linear(Linear {
            shape: self.shape(pass),
            x: &kept.narrow,
            weight: weights.at(weight),
            bias: Some(weights.at(bias)),
            y: output,
        })
    }

    /// Writes each token's embedding to `y`, `[T, E]`.
    fn embed<O: Ops>(&self, pass: &Pass<'_, O>, [z, stats, y]: [&mut O::Buffer; 3]) -> Result<(), DeviceError> {
        let weights = pass.segment(&self.segment);
        pass.ops.embedding(Embedding {
            pack: pass.pack,
            dropout: pass.dropout(Site::Embedding),
            words: Slice { buffer: pass.parameters, range: self.words.clone() },
            positions: weights.at(&self.position),
            types: weights.at(&self.token_type),
            norm: Norm { gamma: weights.at(&self.gamma), beta: weights.at(&self.beta), epsilon: self.epsilon },
            z,
            stats,
            y,
        })
    }

    /// From the gradient of the first hidden states, `[T, H]`, writes that of each token's embedding to `dz`, `[T, E]`, and
    /// each block's sums to `partials`.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut EmbeddingActivations<O::Buffer>,
        dy: &O::Buffer,
        [dz, partials]: [&mut O::Buffer; 2],
    ) -> Result<(), DeviceError> {
        let mut dy = dy;
        if let Some(Projection { weight, .. }) = &self.projection {
            pass.ops.grow_activations(&mut kept.dnarrow, pass.tokens() * self.width)?;
            let weight = pass.segment(&self.segment).at(weight);
            let (shape, dx) = (self.shape(pass), &mut kept.dnarrow);
            pass.ops.linear_input_gradient(LinearInputGradient { shape, dy, weight, dx, write: Write::Set })?;
            dy = &kept.dnarrow;
        }
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

    /// Sums the gradients of the small tensors over lanes, from those that [`backward`](Self::backward) was given and wrote.
    ///
    /// # Errors
    /// The device failed.
    pub fn sum<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, dy): (&EmbeddingActivations<O::Buffer>, &O::Buffer),
        [dz, partials]: [&O::Buffer; 2],
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, hidden) = (pass.ops, pass.pack, self.width);
        let lanes = &pack.as_ref().lanes;
        if !self.reserved.is_empty() {
            // The sum of no rows.
            sums.sum(self.reserved.clone(), &mut |_, sum| ops.column_sum(ColumnSum { rows: 0..0, x: dz, sum }))?;
        }
        sums.sum(self.position.clone(), &mut |lane, dpositions| {
            ops.position_gradient(PositionGradient { pack, lane: &lanes[lane], hidden, dz, dpositions })
        })?;
        sums.blocks(self.token_type.start..self.beta.end, Rows { pack, gradient: partials })?;
        if let Some(Projection { weight, bias }) = &self.projection {
            let dy = Rows { pack, gradient: dy };
            let rows = LinearRows { dy, partials: None, x: &kept.narrow, inputs: self.width };
            sums.linear([weight.clone(), bias.clone()], rows)?;
        }
        Ok(())
    }
}
