//! One encoder layer: attention, then feed-forward.

use medley_common::model::ModelConfig;

use super::Pass;
use super::attention::{AttentionActivations, AttentionBlock};
use super::feed_forward::{FeedForward, FeedForwardActivations};
use super::lane_sums::SegmentSums;
use crate::layout::{Layout, Segment};
use crate::ops::{DeviceError, Ops};

/// One encoder layer.
#[derive(Debug)]
pub struct Layer {
    index: u32,
    segment_length: usize,
    attention: AttentionBlock,
    feed_forward: FeedForward,
}

/// The tokens that a layer's output is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All.
    AllTokens,
    /// The first of each sequence.
    FirstTokens,
}

/// What is below a layer or the head: where nothing of it is trained, no gradient is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// Some of it is trained.
    Trained,
    /// Nothing of it is.
    Frozen,
}

/// What forward keeps for backward.
#[derive(Debug, Default)]
pub struct LayerActivations<B> {
    attention: AttentionActivations<B>,
    feed_forward: FeedForwardActivations<B>,
}

/// Gradients on their way back; shared by all layers. `T` tokens, `Q` tokens of the layer's scope, `H` hidden, `I`
/// intermediate.
#[derive(Debug, Default)]
pub struct LayerGradients<B> {
    /// Of the layer's output, `[Q, H]`; becomes that of its input, `[T, H]`. The caller makes room for it.
    pub hidden: B,
    /// The same of a layer whose scope is the first tokens, behind its attention, `[Q, H]`.
    pub(super) firsts: B,
    /// Along the residual connection, `[Q, H]`. The caller makes room for `[T, H]`.
    pub residual: B,
    /// Of a dense layer's output, `[Q, H]`.
    pub(super) dense: B,
    /// Of the activation, `[Q, I]`.
    pub(super) inner: B,
    /// Of the queries, `[Q, H]`; unused where the scope is all tokens.
    pub(super) q: B,
    /// Of keys and values, `[T, 2 H]`; behind queries, `[T, 3 H]`, where the scope is all tokens.
    pub(super) kv: B,
    /// Each block's sums.
    pub partials: B,
}

impl Layer {
    /// Layer `index` of a model of this layout.
    ///
    /// Of the last layer's output only the first token of each sequence is ever read. That layer takes keys and values
    /// from all tokens and everything else from the first tokens alone: the result is the same, the work a sixth.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout, index: u32) -> Self {
        let last = index + 1 == config.num_hidden_layers;
        let scope = if last { Scope::FirstTokens } else { Scope::AllTokens };
        Self {
            index,
            segment_length: layout.range(Segment::Layer(index)).len(),
            attention: AttentionBlock::new(config, layout, index, scope),
            feed_forward: FeedForward::new(config, layout, index),
        }
    }

    /// Its place among the layers, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Elements of the layer's segment.
    #[must_use]
    pub fn segment_length(&self) -> usize {
        self.segment_length
    }

    /// Computes the hidden states `output`, `[Q, H]`, from `input`, `[T, H]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut LayerActivations<O::Buffer>,
        input: &O::Buffer,
        output: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        self.attention.forward(pass, &mut kept.attention, input)?;
        let pass = self.attention.scoped(pass);
        self.feed_forward.forward(&pass, &mut kept.feed_forward, kept.attention.output(), output)
    }

    /// Turns the gradient of the layer's output, `gradients.hidden`, into that of its `input`, if it is passed on, and sums
    /// those of its parameters.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input, below): (&LayerActivations<O::Buffer>, &O::Buffer, Below),
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let scoped = self.attention.scoped(pass);
        self.feed_forward.backward(&scoped, (&kept.feed_forward, kept.attention.output()), gradients, sums)?;
        self.attention.backward(pass, (&kept.attention, input, below), gradients, sums)
    }
}
