//! The attention block of an encoder layer: `y = norm(x + dropout(W attention(x)))`, biases left out.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::{LinearRows, Rows, SegmentSums};
use super::layer::{Below, LayerGradients, Scope};
use crate::layout::{LayerSlots, Layout, Segment};
use crate::ops::attention::{Attention, AttentionBackward, HeadShape};
use crate::ops::dropout::Site;
use crate::ops::head::{FirstTokens, FirstTokensBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};
use crate::ops::{DeviceError, Ops};

/// Where the block's parameters lie, and its sizes.
#[derive(Debug)]
pub struct AttentionBlock {
    layer: u32,
    scope: Scope,
    segment: Range<usize>,
    slots: LayerSlots,
    heads: HeadShape,
    epsilon: f64,
}

/// What forward keeps for backward. `T` tokens, `Q` tokens of the layer's scope, `H` hidden.
#[derive(Debug, Default)]
pub struct AttentionActivations<B> {
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
    /// Input of the layer norm, `[Q, H]`.
    z: B,
    stats: B,
    /// Output of the layer norm, `[Q, H]`.
    y: B,
}

impl<B> AttentionActivations<B> {
    /// The block's output, `[Q, H]`.
    #[must_use]
    pub fn output(&self) -> &B {
        &self.y
    }
}

impl AttentionBlock {
    /// The block of layer `layer` of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout, layer: u32, scope: Scope) -> Self {
        Self {
            layer,
            scope,
            segment: layout.range(Segment::Layer(layer)),
            slots: layout.layer_slots(),
            heads: HeadShape { heads: config.num_attention_heads as usize, head_size: config.head_size() as usize },
            epsilon: config.layer_norm_eps,
        }
    }

    /// The pass over the tokens that the output is computed for.
    #[must_use]
    pub fn scoped<'a, O: Ops>(&self, pass: &Pass<'a, O>) -> Pass<'a, O> {
        match self.scope {
            Scope::AllTokens => Pass { ..*pass },
            Scope::FirstTokens => pass.over_firsts(),
        }
    }

    /// Ranges of the queries' weight and bias, and of those of keys and values.
    fn query_key_value(&self) -> [Range<usize>; 4] {
        let (weight, bias, hidden) = (&self.slots.qkv_weight, &self.slots.qkv_bias, self.heads.hidden());
        let (weights, biases) = (weight.start + hidden * hidden, bias.start + hidden);
        [weight.start..weights, bias.start..biases, weights..weight.end, biases..bias.end]
    }

    fn grow<O: Ops>(&self, pass: &Pass<'_, O>, kept: &mut AttentionActivations<O::Buffer>) -> Result<(), DeviceError> {
        let (ops, asking, hidden) = (pass.ops, self.scoped(pass).tokens(), self.heads.hidden());
        ops.grow_activations(&mut kept.kv, pass.tokens() * 2 * hidden)?;
        ops.grow(&mut kept.softmax, asking * self.heads.heads * 2)?;
        ops.grow(&mut kept.stats, asking * 2)?;
        for buffer in [&mut kept.q, &mut kept.context, &mut kept.z, &mut kept.y] {
            ops.grow_activations(buffer, asking * hidden)?;
        }
        Ok(())
    }

    fn grow_gradients<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        gradients: &mut LayerGradients<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, scoped, hidden) = (pass.ops, self.scoped(pass), self.heads.hidden());
        ops.grow_activations(&mut gradients.dense, scoped.tokens() * hidden)?;
        ops.grow_activations(&mut gradients.q, scoped.tokens() * hidden)?;
        ops.grow_activations(&mut gradients.kv, pass.tokens() * 2 * hidden)?;
        ops.grow(&mut gradients.partials, scoped.blocks() * 3 * hidden)
    }

    /// Computes the block's output, `[Q, H]`, from `input`, `[T, H]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut AttentionActivations<O::Buffer>,
        input: &O::Buffer,
    ) -> Result<(), DeviceError> {
        self.grow(pass, kept)?;
        if self.scope == Scope::AllTokens {
            return self.attend(pass, kept, input, input);
        }
        let hidden = self.heads.hidden();
        let mut firsts = std::mem::take(&mut kept.firsts);
        pass.ops.grow_activations(&mut firsts, self.scoped(pass).tokens() * hidden)?;
        pass.ops.first_tokens(FirstTokens { pack: pass.pack, hidden, x: input, y: &mut firsts })?;
        self.attend(pass, kept, input, &firsts)?;
        kept.firsts = firsts;
        Ok(())
    }

    /// The tokens of `asking`, `[Q, H]`, attend to those of `input`, `[T, H]`.
    fn attend<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut AttentionActivations<O::Buffer>,
        input: &O::Buffer,
        asking: &O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, slots, scoped, hidden) = (pass.ops, &self.slots, self.scoped(pass), self.heads.hidden());
        let weights = pass.segment(&self.segment);
        let [q_weight, q_bias, kv_weight, kv_bias] = self.query_key_value();
        ops.linear(Linear {
            shape: LinearShape { rows: scoped.tokens(), inputs: hidden, outputs: hidden },
            x: asking,
            weight: weights.at(&q_weight),
            bias: Some(weights.at(&q_bias)),
            y: &mut kept.q,
        })?;
        ops.linear(Linear {
            shape: LinearShape { rows: pass.tokens(), inputs: hidden, outputs: 2 * hidden },
            x: input,
            weight: weights.at(&kv_weight),
            bias: Some(weights.at(&kv_bias)),
            y: &mut kept.kv,
        })?;
        ops.attention(Attention {
            queries: scoped.pack,
            keys: pass.pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.layer)),
            q: &kept.q,
            kv: &kept.kv,
            context: &mut kept.context,
            stats: &mut kept.softmax,
        })?;
        ops.linear(Linear {
            shape: LinearShape { rows: scoped.tokens(), inputs: hidden, outputs: hidden },
            x: &kept.context,
            weight: weights.at(&slots.attention_weight),
            bias: None,
            y: &mut kept.z,
        })?;
        ops.residual_norm(ResidualNorm {
            pack: scoped.pack,
            dropout: pass.dropout(Site::AttentionOutput(self.layer)),
            bias: weights.at(&slots.attention_bias),
            residual: asking,
            norm: Norm {
                gamma: weights.at(&slots.attention_norm_weight),
                beta: weights.at(&slots.attention_norm_bias),
                epsilon: self.epsilon,
            },
            z: &mut kept.z,
            stats: &mut kept.stats,
            y: &mut kept.y,
        })
    }

    /// Turns the gradient of the output, `gradients.residual`, into that of `input`, `gradients.hidden`, if it is passed on,
    /// and sums those of the parameters.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input, below): (&AttentionActivations<O::Buffer>, &O::Buffer, Below),
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        self.grow_gradients(pass, gradients)?;
        let scoped = self.scoped(pass);
        self.output_backward(&scoped, kept, gradients, sums)?;
        pass.ops.attention_backward(AttentionBackward {
            queries: scoped.pack,
            keys: pass.pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.layer)),
            q: &kept.q,
            kv: &kept.kv,
            context: &kept.context,
            stats: &kept.softmax,
            dcontext: &gradients.residual,
            dq: &mut gradients.q,
            dkv: &mut gradients.kv,
        })?;
        self.sum_query_key_value(pass, (kept, input), gradients, sums)?;
        if below == Below::Frozen { Ok(()) } else { self.input_backward(pass, gradients) }
    }

    /// From `gradients.residual` to the gradients of the residual connection, in `gradients.hidden`, and of the heads'
    /// outputs, in `gradients.residual`. The pass is over the tokens of the layer's scope.
    fn output_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &AttentionActivations<O::Buffer>,
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, slots, hidden) = (pass.ops, pass.pack, &self.slots, self.heads.hidden());
        let weights = pass.segment(&self.segment);
        ops.residual_norm_backward(ResidualNormBackward {
            pack,
            dropout: pass.dropout(Site::AttentionOutput(self.layer)),
            dy: &gradients.residual,
            z: &kept.z,
            stats: &kept.stats,
            gamma: weights.at(&slots.attention_norm_weight),
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
            weight: weights.at(&slots.attention_weight),
            dx: &mut gradients.residual,
            write: Write::Set,
        })
    }

    fn sum_query_key_value<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input): (&AttentionActivations<O::Buffer>, &O::Buffer),
        gradients: &LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (pack, hidden) = (self.scoped(pass).pack, self.heads.hidden());
        let [q_weight, q_bias, kv_weight, kv_bias] = self.query_key_value();
        let asking = if self.scope == Scope::FirstTokens { &kept.firsts } else { input };
        let rows = |pack, gradient, x| LinearRows { dy: Rows { pack, gradient }, partials: None, x, inputs: hidden };
        sums.linear([q_weight, q_bias], rows(pack, &gradients.q, asking))?;
        sums.linear([kv_weight, kv_bias], rows(pass.pack, &gradients.kv, input))
    }

    /// Adds the gradients through queries, keys and values to that of the residual connection, in `gradients.hidden`.
    fn input_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        gradients: &mut LayerGradients<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, hidden) = (pass.ops, self.heads.hidden());
        let weights = pass.segment(&self.segment);
        let [q_weight, _, kv_weight, _] = self.query_key_value();
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows: self.scoped(pass).tokens(), inputs: hidden, outputs: hidden },
            dy: &gradients.q,
            weight: weights.at(&q_weight),
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
            weight: weights.at(&kv_weight),
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
