//! One encoder layer: attention and feed-forward, each followed by dropout, residual and layer norm.
//!
//! Of the last layer's output only the first token of each sequence is ever read. That layer takes keys and values from
//! all tokens, and everything else from the first tokens alone: the results are the same, the work is a sixth.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::{Rows, SegmentSums};
use crate::layout::{LayerSlots, Layout, Segment};
use crate::ops::attention::{Attention, AttentionBackward, HeadShape};
use crate::ops::dropout::Site;
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};
use crate::ops::head::{FirstTokens, FirstTokensBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};
use crate::ops::{DeviceError, Ops, Slice};

/// Where a layer's parameters lie, and its sizes.
#[derive(Debug)]
pub struct Layer {
    index: u32,
    scope: Scope,
    segment: Range<usize>,
    slots: LayerSlots,
    heads: HeadShape,
    intermediate: usize,
    epsilon: f64,
}

/// The tokens that a layer's output is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All.
    AllTokens,
    /// The first of each sequence: the last layer's.
    FirstTokens,
}

/// What forward keeps for backward. `T` tokens, `Q` tokens of the layer's scope, `H` hidden, `I` intermediate.
#[derive(Debug, Default)]
pub struct LayerActivations<B> {
    /// The input's rows of the layer's scope, `[Q, H]`; unused where that is all tokens.
    firsts: B,
    /// Queries, `[Q, H]`.
    q: B,
    /// Keys and values, `[T, 2 H]`.
    kv: B,
    /// Softmax statistics, `[Q, heads, 2]`.
    softmax: B,
    /// The heads' outputs, `[Q, H]`.
    context: B,
    /// Input of the attention's layer norm, `[Q, H]`.
    attention_z: B,
    attention_stats: B,
    /// Output of the attention's layer norm, `[Q, H]`.
    attention: B,
    /// Input of the activation without its bias, `[Q, I]`.
    u: B,
    /// Output of the activation, `[Q, I]`.
    a: B,
    /// Input of the feed-forward's layer norm, `[Q, H]`.
    output_z: B,
    output_stats: B,
}

/// Gradients on their way back; shared by all layers.
#[derive(Debug, Default)]
pub struct LayerGradients<B> {
    /// Of the layer's output, `[Q, H]`; becomes that of its input, `[T, H]`.
    pub hidden: B,
    /// Along the residual connection, `[Q, H]`.
    pub residual: B,
    /// Of a dense layer's output, `[Q, H]`.
    dense: B,
    /// Of the activation, `[Q, I]`.
    inner: B,
    /// Of the queries, `[Q, H]`.
    q: B,
    /// Of keys and values, `[T, 2 H]`.
    kv: B,
    /// Each block's sums.
    pub partials: B,
}

impl Layer {
    /// Layer `index` of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout, index: u32) -> Self {
        let last = index + 1 == config.num_hidden_layers;
        Self {
            index,
            scope: if last { Scope::FirstTokens } else { Scope::AllTokens },
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

    /// The pass over the tokens that the layer's output is computed for.
    fn scoped<'a, O: Ops>(&self, pass: &Pass<'a, O>) -> Pass<'a, O> {
        match self.scope {
            Scope::AllTokens => Pass { ..*pass },
            Scope::FirstTokens => pass.over_firsts(),
        }
    }

    fn parameters<'a, O: Ops>(&self, pass: &Pass<'a, O>, within: &Range<usize>) -> Slice<'a, O::Buffer> {
        pass.parameters(self.segment.start + within.start..self.segment.start + within.end)
    }

    fn norm<'a, O: Ops>(&self, pass: &Pass<'a, O>, gamma: &Range<usize>, beta: &Range<usize>) -> Norm<'a, O> {
        Norm { gamma: self.parameters(pass, gamma), beta: self.parameters(pass, beta), epsilon: self.epsilon }
    }

    /// Ranges of the queries' weight and bias, and of those of keys and values.
    fn query_key_value(&self) -> [Range<usize>; 4] {
        let (weight, bias, hidden) = (&self.slots.qkv_weight, &self.slots.qkv_bias, self.heads.hidden());
        let (weights, biases) = (weight.start + hidden * hidden, bias.start + hidden);
        [weight.start..weights, bias.start..biases, weights..weight.end, biases..bias.end]
    }

    /// Makes room for what forward keeps.
    fn grow<O: Ops>(&self, pass: &Pass<'_, O>, kept: &mut LayerActivations<O::Buffer>) -> Result<(), DeviceError> {
        let (ops, tokens, asking, hidden) = (pass.ops, pass.tokens(), self.scoped(pass).tokens(), self.heads.hidden());
        ops.grow(&mut kept.kv, tokens * 2 * hidden)?;
        ops.grow(&mut kept.softmax, asking * self.heads.heads * 2)?;
        for buffer in [&mut kept.q, &mut kept.context, &mut kept.attention_z, &mut kept.attention, &mut kept.output_z] {
            ops.grow(buffer, asking * hidden)?;
        }
        for buffer in [&mut kept.attention_stats, &mut kept.output_stats] {
            ops.grow(buffer, asking * 2)?;
        }
        for buffer in [&mut kept.u, &mut kept.a] {
            ops.grow(buffer, asking * self.intermediate)?;
        }
        Ok(())
    }

    /// Makes room for backward.
    fn grow_gradients<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        gradients: &mut LayerGradients<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, hidden, scoped) = (pass.ops, self.heads.hidden(), self.scoped(pass));
        let (asking, blocks) = (scoped.tokens(), scoped.blocks());
        for buffer in [&mut gradients.dense, &mut gradients.q] {
            ops.grow(buffer, asking * hidden)?;
        }
        ops.grow(&mut gradients.inner, asking * self.intermediate)?;
        ops.grow(&mut gradients.kv, pass.tokens() * 2 * hidden)?;
        ops.grow(&mut gradients.partials, blocks * self.intermediate.max(3 * hidden))
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
        self.grow(pass, kept)?;
        let scoped = self.scoped(pass);
        let mut firsts = std::mem::take(&mut kept.firsts);
        let mut asking = input;
        if self.scope == Scope::FirstTokens {
            let hidden = self.heads.hidden();
            pass.ops.grow(&mut firsts, scoped.tokens() * hidden)?;
            pass.ops.first_tokens(FirstTokens { pack: pass.pack, hidden, x: input, y: &mut firsts })?;
            asking = &firsts;
        }
        self.attention(pass, kept, input, asking)?;
        kept.firsts = firsts;
        self.feed_forward(&scoped, kept, output)
    }

    fn attention<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut LayerActivations<O::Buffer>,
        input: &O::Buffer,
        asking: &O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, slots, scoped, hidden) = (pass.ops, &self.slots, self.scoped(pass), self.heads.hidden());
        let [q_weight, q_bias, kv_weight, kv_bias] = self.query_key_value();
        ops.linear(Linear {
            shape: LinearShape { rows: scoped.tokens(), inputs: hidden, outputs: hidden },
            x: asking,
            weight: self.parameters(pass, &q_weight),
            bias: Some(self.parameters(pass, &q_bias)),
            y: &mut kept.q,
        })?;
        ops.linear(Linear {
            shape: LinearShape { rows: pass.tokens(), inputs: hidden, outputs: 2 * hidden },
            x: input,
            weight: self.parameters(pass, &kv_weight),
            bias: Some(self.parameters(pass, &kv_bias)),
            y: &mut kept.kv,
        })?;
        ops.attention(Attention {
            queries: scoped.pack,
            keys: pass.pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.index)),
            q: &kept.q,
            kv: &kept.kv,
            context: &mut kept.context,
            stats: &mut kept.softmax,
        })?;
        ops.linear(Linear {
            shape: LinearShape { rows: scoped.tokens(), inputs: hidden, outputs: hidden },
            x: &kept.context,
            weight: self.parameters(pass, &slots.attention_weight),
            bias: None,
            y: &mut kept.attention_z,
        })?;
        ops.residual_norm(ResidualNorm {
            pack: scoped.pack,
            dropout: pass.dropout(Site::AttentionOutput(self.index)),
            bias: self.parameters(pass, &slots.attention_bias),
            residual: asking,
            norm: self.norm(pass, &slots.attention_norm_weight, &slots.attention_norm_bias),
            z: &mut kept.attention_z,
            stats: &mut kept.attention_stats,
            y: &mut kept.attention,
        })
    }

    /// The pass is over the tokens of the layer's scope.
    fn feed_forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut LayerActivations<O::Buffer>,
        output: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        let (rows, intermediate) = (pass.tokens(), self.intermediate);
        ops.linear(Linear {
            shape: LinearShape { rows, inputs: hidden, outputs: intermediate },
            x: &kept.attention,
            weight: self.parameters(pass, &slots.intermediate_weight),
            bias: None,
            y: &mut kept.u,
        })?;
        let bias = self.parameters(pass, &slots.intermediate_bias);
        ops.bias_gelu(BiasGelu { pack, u: &kept.u, bias, a: &mut kept.a })?;
        ops.linear(Linear {
            shape: LinearShape { rows, inputs: intermediate, outputs: hidden },
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
        self.grow_gradients(pass, gradients)?;
        let scoped = self.scoped(pass);
        self.feed_forward_backward(&scoped, kept, gradients, sums)?;
        self.attention_output_backward(&scoped, kept, gradients, sums)?;
        pass.ops.attention_backward(AttentionBackward {
            queries: scoped.pack,
            keys: pass.pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.index)),
            q: &kept.q,
            kv: &kept.kv,
            stats: &kept.softmax,
            dcontext: &gradients.residual,
            dq: &mut gradients.q,
            dkv: &mut gradients.kv,
        })?;
        self.attention_input_backward(pass, (kept, input), gradients, sums)
    }

    /// From `gradients.hidden` to `gradients.residual`: the gradient of the attention's layer norm. The pass is over the
    /// tokens of the layer's scope.
    fn feed_forward_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &LayerActivations<O::Buffer>,
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        let (rows, intermediate) = (pass.tokens(), self.intermediate);
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
        let norm = slots.output_bias.start..slots.output_norm_bias.end;
        sums.blocks(norm, Rows { pack, gradient: &gradients.partials })?;
        sums.weight(slots.output_weight.clone(), Rows { pack, gradient: &gradients.dense }, &kept.a, intermediate)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows, inputs: intermediate, outputs: hidden },
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
        sums.blocks(slots.intermediate_bias.clone(), Rows { pack, gradient: &gradients.partials })?;
        let inner = Rows { pack, gradient: &gradients.inner };
        sums.weight(slots.intermediate_weight.clone(), inner, &kept.attention, hidden)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows, inputs: hidden, outputs: intermediate },
            dy: &gradients.inner,
            weight: self.parameters(pass, &slots.intermediate_weight),
            dx: &mut gradients.residual,
            write: Write::Add,
        })
    }

    /// From `gradients.residual` to the gradients of the residual connection, in `gradients.hidden`, and of the heads'
    /// outputs, in `gradients.residual`. The pass is over the tokens of the layer's scope.
    fn attention_output_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &LayerActivations<O::Buffer>,
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
        let norm = slots.attention_bias.start..slots.attention_norm_bias.end;
        sums.blocks(norm, Rows { pack, gradient: &gradients.partials })?;
        let dense = Rows { pack, gradient: &gradients.dense };
        sums.weight(slots.attention_weight.clone(), dense, &kept.context, hidden)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows: pass.tokens(), inputs: hidden, outputs: hidden },
            dy: &gradients.dense,
            weight: self.parameters(pass, &slots.attention_weight),
            dx: &mut gradients.residual,
            write: Write::Set,
        })
    }

    /// From the gradients of queries, keys, values and residual connection to that of the layer's input.
    fn attention_input_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input): (&LayerActivations<O::Buffer>, &O::Buffer),
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, scoped, hidden) = (pass.ops, self.scoped(pass), self.heads.hidden());
        let [q_weight, q_bias, kv_weight, kv_bias] = self.query_key_value();
        let asking = if self.scope == Scope::FirstTokens { &kept.firsts } else { input };
        sums.bias(q_bias, Rows { pack: scoped.pack, gradient: &gradients.q })?;
        sums.weight(q_weight.clone(), Rows { pack: scoped.pack, gradient: &gradients.q }, asking, hidden)?;
        sums.bias(kv_bias, Rows { pack: pass.pack, gradient: &gradients.kv })?;
        sums.weight(kv_weight.clone(), Rows { pack: pass.pack, gradient: &gradients.kv }, input, hidden)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows: scoped.tokens(), inputs: hidden, outputs: hidden },
            dy: &gradients.q,
            weight: self.parameters(pass, &q_weight),
            dx: &mut gradients.hidden,
            write: Write::Add,
        })?;
        let mut write = Write::Add;
        if self.scope == Scope::FirstTokens {
            std::mem::swap(&mut gradients.hidden, &mut gradients.residual);
            write = Write::Set;
        }
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows: pass.tokens(), inputs: hidden, outputs: 2 * hidden },
            dy: &gradients.kv,
            weight: self.parameters(pass, &kv_weight),
            dx: &mut gradients.hidden,
            write,
        })?;
        if self.scope == Scope::FirstTokens {
            let (dy, dx) = (&gradients.residual, &mut gradients.hidden);
            ops.first_tokens_backward(FirstTokensBackward { pack: pass.pack, hidden, dy, dx })?;
        }
        Ok(())
    }
}
