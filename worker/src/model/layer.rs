//! One encoder layer: attention and feed-forward, each followed by dropout, residual and layer norm.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::SegmentSums;
use crate::layout::{LayerSlots, Layout, Segment};
use crate::ops::attention::{Attention, AttentionBackward, HeadShape};
use crate::ops::dropout::Site;
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};
use crate::ops::{DeviceError, Ops, Slice};

/// Where a layer's parameters lie, and its sizes.
#[derive(Debug)]
pub struct Layer {
    index: u32,
    segment: Range<usize>,
    slots: LayerSlots,
    heads: HeadShape,
    intermediate: usize,
    epsilon: f64,
}

/// What forward keeps for backward. `T` tokens, `H` hidden, `I` intermediate.
#[derive(Debug, Default)]
pub struct LayerActivations<B> {
    /// Queries, keys and values, `[T, 3 H]`.
    qkv: B,
    /// Softmax statistics, `[T, heads, 2]`.
    softmax: B,
    /// The heads' outputs, `[T, H]`.
    context: B,
    /// Input of the attention's layer norm, `[T, H]`.
    attention_z: B,
    attention_stats: B,
    /// Output of the attention's layer norm, `[T, H]`.
    attention: B,
    /// Input of the activation without its bias, `[T, I]`.
    u: B,
    /// Output of the activation, `[T, I]`.
    a: B,
    /// Input of the feed-forward's layer norm, `[T, H]`.
    output_z: B,
    output_stats: B,
}

/// Gradients on their way back; shared by all layers.
#[derive(Debug, Default)]
pub struct LayerGradients<B> {
    /// Of the layer's output; becomes that of its input, `[T, H]`.
    pub hidden: B,
    /// Along the residual connection, `[T, H]`.
    pub residual: B,
    /// Of a dense layer's output, `[T, H]`.
    dense: B,
    /// Of the activation, `[T, I]`.
    inner: B,
    /// Of queries, keys and values, `[T, 3 H]`.
    qkv: B,
    /// Each block's sums.
    pub partials: B,
}

impl Layer {
    /// Layer `index` of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout, index: u32) -> Self {
        Self {
            index,
            segment: layout.range(Segment::Layer(index)),
            slots: layout.layer_slots(),
            heads: HeadShape { heads: config.num_attention_heads as usize, head_size: config.head_size() as usize },
            intermediate: config.intermediate_size as usize,
            epsilon: config.layer_norm_eps,
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
        self.segment.len()
    }

    /// Makes room for the activations of `tokens` tokens.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn grow<O: Ops>(
        &self,
        ops: &O,
        kept: &mut LayerActivations<O::Buffer>,
        tokens: usize,
    ) -> Result<(), DeviceError> {
        let hidden = self.heads.hidden();
        ops.grow(&mut kept.qkv, tokens * 3 * hidden)?;
        ops.grow(&mut kept.softmax, tokens * self.heads.heads * 2)?;
        for buffer in [&mut kept.context, &mut kept.attention_z, &mut kept.attention, &mut kept.output_z] {
            ops.grow(buffer, tokens * hidden)?;
        }
        for buffer in [&mut kept.attention_stats, &mut kept.output_stats] {
            ops.grow(buffer, tokens * 2)?;
        }
        for buffer in [&mut kept.u, &mut kept.a] {
            ops.grow(buffer, tokens * self.intermediate)?;
        }
        Ok(())
    }

    /// Makes room for the gradients of `tokens` tokens in `blocks` blocks.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn grow_gradients<O: Ops>(
        &self,
        ops: &O,
        gradients: &mut LayerGradients<O::Buffer>,
        tokens: usize,
        blocks: usize,
    ) -> Result<(), DeviceError> {
        let hidden = self.heads.hidden();
        for buffer in [&mut gradients.hidden, &mut gradients.residual, &mut gradients.dense] {
            ops.grow(buffer, tokens * hidden)?;
        }
        ops.grow(&mut gradients.inner, tokens * self.intermediate)?;
        ops.grow(&mut gradients.qkv, tokens * 3 * hidden)?;
        ops.grow(&mut gradients.partials, blocks * self.intermediate.max(3 * hidden))
    }

    fn parameters<'a, O: Ops>(&self, pass: &Pass<'a, O>, within: &Range<usize>) -> Slice<'a, O::Buffer> {
        pass.parameters(self.segment.start + within.start..self.segment.start + within.end)
    }

    fn norm<'a, O: Ops>(&self, pass: &Pass<'a, O>, gamma: &Range<usize>, beta: &Range<usize>) -> Norm<'a, O> {
        Norm { gamma: self.parameters(pass, gamma), beta: self.parameters(pass, beta), epsilon: self.epsilon }
    }

    fn shape<O: Ops>(pass: &Pass<'_, O>, inputs: usize, outputs: usize) -> LinearShape {
        LinearShape { rows: pass.tokens(), inputs, outputs }
    }

    /// Computes the hidden states `output` from `input`, both `[T, H]`.
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
        self.attention(pass, kept, input)?;
        self.feed_forward(pass, kept, output)
    }

    fn attention<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut LayerActivations<O::Buffer>,
        input: &O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        ops.linear(Linear {
            shape: Self::shape(pass, hidden, 3 * hidden),
            x: input,
            weight: self.parameters(pass, &slots.qkv_weight),
            bias: Some(self.parameters(pass, &slots.qkv_bias)),
            y: &mut kept.qkv,
        })?;
        ops.attention(Attention {
            pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.index)),
            qkv: &kept.qkv,
            context: &mut kept.context,
            stats: &mut kept.softmax,
        })?;
        ops.linear(Linear {
            shape: Self::shape(pass, hidden, hidden),
            x: &kept.context,
            weight: self.parameters(pass, &slots.attention_weight),
            bias: None,
            y: &mut kept.attention_z,
        })?;
        ops.residual_norm(ResidualNorm {
            pack,
            dropout: pass.dropout(Site::AttentionOutput(self.index)),
            bias: self.parameters(pass, &slots.attention_bias),
            residual: input,
            norm: self.norm(pass, &slots.attention_norm_weight, &slots.attention_norm_bias),
            z: &mut kept.attention_z,
            stats: &mut kept.attention_stats,
            y: &mut kept.attention,
        })
    }

    fn feed_forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut LayerActivations<O::Buffer>,
        output: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        ops.linear(Linear {
            shape: Self::shape(pass, hidden, self.intermediate),
            x: &kept.attention,
            weight: self.parameters(pass, &slots.intermediate_weight),
            bias: None,
            y: &mut kept.u,
        })?;
        let bias = self.parameters(pass, &slots.intermediate_bias);
        ops.bias_gelu(BiasGelu { pack, u: &kept.u, bias, a: &mut kept.a })?;
        ops.linear(Linear {
            shape: Self::shape(pass, self.intermediate, hidden),
            x: &kept.a,
            weight: self.parameters(pass, &slots.output_weight),
            bias: None,
            y: &mut kept.output_z,
        })?;
        ops.residual_norm(ResidualNorm {
            pack,
            dropout: pass.dropout(Site::FeedForwardOutput(self.index)),
            bias: self.parameters(pass, &slots.output_bias),
            residual: &kept.attention,
            norm: self.norm(pass, &slots.output_norm_weight, &slots.output_norm_bias),
            z: &mut kept.output_z,
            stats: &mut kept.output_stats,
            y: output,
        })
    }

    /// Turns the gradient of the layer's output, `gradients.hidden`, into that of its `input`, and sums those of its
    /// parameters.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input): (&LayerActivations<O::Buffer>, &O::Buffer),
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        self.feed_forward_backward(pass, kept, gradients, sums)?;
        self.attention_backward(pass, (kept, input), gradients, sums)
    }

    /// From `gradients.hidden` to `gradients.residual`: the gradient of the attention's layer norm.
    fn feed_forward_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &LayerActivations<O::Buffer>,
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        ops.residual_norm_backward(ResidualNormBackward {
            pack,
            dropout: pass.dropout(Site::FeedForwardOutput(self.index)),
            dy: &gradients.hidden,
            z: &kept.output_z,
            stats: &kept.output_stats,
            gamma: self.parameters(pass, &slots.output_norm_weight),
            dz: &mut gradients.residual,
            du: &mut gradients.dense,
            partials: &mut gradients.partials,
        })?;
        sums.blocks(slots.output_bias.start..slots.output_norm_bias.end, &gradients.partials)?;
        sums.weight(slots.output_weight.clone(), &gradients.dense, &kept.a, self.intermediate)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: Self::shape(pass, self.intermediate, hidden),
            dy: &gradients.dense,
            weight: self.parameters(pass, &slots.output_weight),
            dx: &mut gradients.inner,
            write: Write::Set,
        })?;
        ops.bias_gelu_backward(BiasGeluBackward {
            pack,
            u: &kept.u,
            bias: self.parameters(pass, &slots.intermediate_bias),
            gradient: &mut gradients.inner,
            partials: &mut gradients.partials,
        })?;
        sums.blocks(slots.intermediate_bias.clone(), &gradients.partials)?;
        sums.weight(slots.intermediate_weight.clone(), &gradients.inner, &kept.attention, hidden)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: Self::shape(pass, hidden, self.intermediate),
            dy: &gradients.inner,
            weight: self.parameters(pass, &slots.intermediate_weight),
            dx: &mut gradients.residual,
            write: Write::Add,
        })
    }

    /// From `gradients.residual` to `gradients.hidden`: the gradient of the layer's input.
    fn attention_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input): (&LayerActivations<O::Buffer>, &O::Buffer),
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        ops.residual_norm_backward(ResidualNormBackward {
            pack,
            dropout: pass.dropout(Site::AttentionOutput(self.index)),
            dy: &gradients.residual,
            z: &kept.attention_z,
            stats: &kept.attention_stats,
            gamma: self.parameters(pass, &slots.attention_norm_weight),
            dz: &mut gradients.hidden,
            du: &mut gradients.dense,
            partials: &mut gradients.partials,
        })?;
        sums.blocks(slots.attention_bias.start..slots.attention_norm_bias.end, &gradients.partials)?;
        sums.weight(slots.attention_weight.clone(), &gradients.dense, &kept.context, hidden)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: Self::shape(pass, hidden, hidden),
            dy: &gradients.dense,
            weight: self.parameters(pass, &slots.attention_weight),
            dx: &mut gradients.residual,
            write: Write::Set,
        })?;
        ops.attention_backward(AttentionBackward {
            pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.index)),
            qkv: &kept.qkv,
            stats: &kept.softmax,
            dcontext: &gradients.residual,
            dqkv: &mut gradients.qkv,
        })?;
        sums.bias(slots.qkv_bias.clone(), &gradients.qkv)?;
        sums.weight(slots.qkv_weight.clone(), &gradients.qkv, input, hidden)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: Self::shape(pass, hidden, 3 * hidden),
            dy: &gradients.qkv,
            weight: self.parameters(pass, &slots.qkv_weight),
            dx: &mut gradients.hidden,
            write: Write::Add,
        })
    }
}
