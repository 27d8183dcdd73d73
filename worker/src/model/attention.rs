//! The attention block of an encoder layer: `y = norm(x + dropout(W attention(x)))`, biases left out.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::{LinearRows, Rows, SegmentSums};
use super::layer::{Below, LayerGradients, Scope};
use crate::layout::{LayerSlots, Layout, Segment};
use crate::ops::attention::{Attention, AttentionBackward, HeadShape, QueryKeyValue};
use crate::ops::dropout::Site;
use crate::ops::head::{FirstTokens, FirstTokensBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, SharedInputGradient, Write};
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

/// Some of the linear layers that make queries, keys and values, in this order: side by side they are one.
const QUERY: Range<usize> = 0..1;
const KEY_VALUE: Range<usize> = 1..3;
const QUERY_KEY_VALUE: Range<usize> = 0..3;

/// What forward keeps for backward. `T` tokens, `Q` tokens of the layer's scope, `H` hidden.
#[derive(Debug, Default)]
pub struct AttentionActivations<B> {
    /// The input's rows of the layer's scope, `[Q, H]`; unused where that is all tokens.
    firsts: B,
    /// Queries, `[Q, H]`; unused where the scope is all tokens.
    q: B,
    /// Keys and values, `[T, 2 H]`; behind queries, `[T, 3 H]`, where the scope is all tokens.
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

    /// Ranges of the weight and the bias of some of the layers that make queries, keys and values.
    fn projection(&self, layers: &Range<usize>) -> [Range<usize>; 2] {
        let hidden = self.heads.hidden();
        [(&self.slots.qkv_weight, hidden * hidden), (&self.slots.qkv_bias, hidden)]
            .map(|(all, each)| all.start + layers.start * each..all.start + layers.end * each)
    }

    /// Where queries, keys and values stand, or their gradients.
    fn query_key_value<T>(&self, q: T, kv: T) -> QueryKeyValue<T> {
        match self.scope {
            Scope::AllTokens => QueryKeyValue::Together(kv),
            Scope::FirstTokens => QueryKeyValue::Apart { q, kv },
        }
    }

    /// Makes room for queries, keys and values, or for their gradients.
    fn grow_query_key_value<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        q: &mut O::Buffer,
        kv: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, tokens, hidden) = (pass.ops, pass.tokens(), self.heads.hidden());
        match self.query_key_value(q, kv) {
            QueryKeyValue::Together(qkv) => ops.grow_activations(qkv, tokens * 3 * hidden),
            QueryKeyValue::Apart { q, kv } => {
                ops.grow_activations(q, self.scoped(pass).tokens() * hidden)?;
                ops.grow_activations(kv, tokens * 2 * hidden)
            }
        }
    }

    fn grow<O: Ops>(&self, pass: &Pass<'_, O>, kept: &mut AttentionActivations<O::Buffer>) -> Result<(), DeviceError> {
        let (ops, asking, hidden) = (pass.ops, self.scoped(pass).tokens(), self.heads.hidden());
        self.grow_query_key_value(pass, &mut kept.q, &mut kept.kv)?;
        ops.grow(&mut kept.softmax, asking * self.heads.heads * 2)?;
        ops.grow(&mut kept.stats, asking * 2)?;
        for buffer in [&mut kept.context, &mut kept.z, &mut kept.y] {
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
        if self.scope == Scope::FirstTokens {
            ops.grow_activations(&mut gradients.firsts, scoped.tokens() * hidden)?;
        }
        self.grow_query_key_value(pass, &mut gradients.q, &mut gradients.kv)?;
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
        pass.ops.grow_activations(&mut kept.firsts, self.scoped(pass).tokens() * hidden)?;
        pass.ops.first_tokens(FirstTokens { pack: pass.pack, hidden, x: input, y: &mut kept.firsts })?;
        // It comes back whatever happens: memory must not be freed while a pass is recorded.
        let firsts = std::mem::take(&mut kept.firsts);
        let attended = self.attend(pass, kept, input, &firsts);
        kept.firsts = firsts;
        attended
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
        match self.query_key_value(&mut kept.q, &mut kept.kv) {
            QueryKeyValue::Together(qkv) => self.project(pass, &QUERY_KEY_VALUE, input, qkv)?,
            QueryKeyValue::Apart { q, kv } => {
                self.project(&scoped, &QUERY, asking, q)?;
                self.project(pass, &KEY_VALUE, input, kv)?;
            }
        }
        ops.attention(Attention {
            queries: scoped.pack,
            keys: pass.pack,
            shape: self.heads,
            dropout: pass.dropout(Site::Attention(self.layer)),
            qkv: self.query_key_value(&kept.q, &kept.kv),
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

    /// What some of the layers that make queries, keys and values make of `x`: `y`, for all tokens of the pass.
    fn project<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        layers: &Range<usize>,
        x: &O::Buffer,
        y: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        let (weights, hidden) = (pass.segment(&self.segment), self.heads.hidden());
        let [weight, bias] = self.projection(layers).map(|range| weights.at(&range));
        let shape = LinearShape { rows: pass.tokens(), inputs: hidden, outputs: layers.len() * hidden };
        pass.ops.linear(Linear { shape, x, weight, bias: Some(bias), y })
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
            qkv: self.query_key_value((&kept.q, &mut gradients.q), (&kept.kv, &mut gradients.kv)),
            context: &kept.context,
            stats: &kept.softmax,
            dcontext: &gradients.residual,
        })?;
        self.sum_query_key_value(pass, (kept, input), gradients, sums)?;
        if below == Below::Frozen { Ok(()) } else { self.input_backward(pass, gradients) }
    }

    /// From `gradients.residual` to the gradients of the residual connection, in `gradients.hidden` or `gradients.firsts`,
    /// and of the heads' outputs, in `gradients.residual`. The pass is over the tokens of the layer's scope.
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
            dz: match self.scope {
                Scope::AllTokens => &mut gradients.hidden,
                Scope::FirstTokens => &mut gradients.firsts,
            },
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
        let inputs = self.heads.hidden();
        let rows = |pack, gradient, x| LinearRows { dy: Rows { pack, gradient }, partials: None, x, inputs };
        match self.query_key_value(&gradients.q, &gradients.kv) {
            QueryKeyValue::Together(dy) => sums.linear(self.projection(&QUERY_KEY_VALUE), rows(pass.pack, dy, input)),
            QueryKeyValue::Apart { q, kv } => {
                sums.linear(self.projection(&QUERY), rows(self.scoped(pass).pack, q, &kept.firsts))?;
                sums.linear(self.projection(&KEY_VALUE), rows(pass.pack, kv, input))
            }
        }
    }

    /// Adds the gradients through queries, keys and values to that of the residual connection, which comes to be in
    /// `gradients.hidden`.
    fn input_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        gradients: &mut LayerGradients<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, weights, hidden) = (pass.ops, pass.segment(&self.segment), self.heads.hidden());
        let scoped = &self.scoped(pass);
        let weight = |layers| weights.at(&self.projection(layers)[0]);
        let shape = |pass: &Pass<'_, O>, layers: &Range<usize>| LinearShape {
            rows: pass.tokens(),
            inputs: hidden,
            outputs: layers.len() * hidden,
        };
        let LayerGradients { hidden: sum, firsts, q, kv, .. } = gradients;
        match self.query_key_value(&*q, &*kv) {
            QueryKeyValue::Together(dy) => {
                let (shape, weight) = (shape(pass, &QUERY_KEY_VALUE), weight(&QUERY_KEY_VALUE));
                ops.shared_input_gradient(SharedInputGradient { shape, first: hidden, dy, weight, dx: sum })
            }
            QueryKeyValue::Apart { q, kv } => {
                let back = |pass, layers, dy, dx: &mut O::Buffer, write| {
                    let (shape, weight) = (shape(pass, layers), weight(layers));
                    ops.linear_input_gradient(LinearInputGradient { shape, dy, weight, dx, write })
                };
                back(scoped, &QUERY, q, firsts, Write::Add)?;
                back(pass, &KEY_VALUE, kv, sum, Write::Set)?;
                ops.first_tokens_backward(FirstTokensBackward { pack: pass.pack, hidden, dy: firsts, dx: sum })
            }
        }
    }
}
