//! The feed-forward block of an encoder layer: `y = norm(x + dropout(W₂ gelu(W₁ x)))`, biases left out.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::lane_sums::{LinearRows, Rows, SegmentSums};
use super::layer::LayerGradients;
use crate::layout::{LayerSlots, Layout, Segment};
use crate::ops::dropout::Site;
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};
use crate::ops::{DeviceError, Ops};

/// Where the block's parameters lie, and its sizes. Its passes are over the tokens of the layer's scope.
#[derive(Debug)]
pub struct FeedForward {
    layer: u32,
    segment: Range<usize>,
    slots: LayerSlots,
    hidden: usize,
    intermediate: usize,
    epsilon: f64,
}

/// What forward keeps for backward. `Q` tokens of the layer's scope, `H` hidden, `I` intermediate.
#[derive(Debug, Default)]
pub struct FeedForwardActivations<B> {
    /// Input of the activation without its bias, `[Q, I]`.
    u: B,
    /// Output of the activation, `[Q, I]`.
    a: B,
    /// Input of the layer norm, `[Q, H]`.
    z: B,
    stats: B,
}

impl FeedForward {
    /// The block of layer `layer` of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout, layer: u32) -> Self {
        Self {
            layer,
            segment: layout.range(Segment::Layer(layer)),
            slots: layout.layer_slots(),
            hidden: config.hidden_size as usize,
            intermediate: config.intermediate_size as usize,
            epsilon: config.layer_norm_eps,
        }
    }

    fn grow<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut FeedForwardActivations<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, rows) = (pass.ops, pass.tokens());
        ops.grow_activations(&mut kept.u, rows * self.intermediate)?;
        ops.grow_activations(&mut kept.a, rows * self.intermediate)?;
        ops.grow_activations(&mut kept.z, rows * self.hidden)?;
        ops.grow(&mut kept.stats, rows * 2)
    }

    fn grow_gradients<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        gradients: &mut LayerGradients<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, rows) = (pass.ops, pass.tokens());
        ops.grow_activations(&mut gradients.dense, rows * self.hidden)?;
        ops.grow_activations(&mut gradients.inner, rows * self.intermediate)?;
        ops.grow(&mut gradients.partials, pass.blocks() * self.intermediate.max(3 * self.hidden))
    }

    /// Computes `output` from `input`, both `[Q, H]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut FeedForwardActivations<O::Buffer>,
        input: &O::Buffer,
        output: &mut O::Buffer,
    ) -> Result<(), DeviceError> {
        self.grow(pass, kept)?;
        let (ops, pack, slots, rows) = (pass.ops, pass.pack, &self.slots, pass.tokens());
        let weights = pass.segment(&self.segment);
        ops.linear(Linear {
            shape: LinearShape { rows, inputs: self.hidden, outputs: self.intermediate },
            x: input,
            weight: weights.at(&slots.intermediate_weight),
            bias: None,
            y: &mut kept.u,
        })?;
        let bias = weights.at(&slots.intermediate_bias);
        ops.bias_gelu(BiasGelu { pack, u: &kept.u, bias, a: &mut kept.a })?;
        ops.linear(Linear {
            shape: LinearShape { rows, inputs: self.intermediate, outputs: self.hidden },
            x: &kept.a,
            weight: weights.at(&slots.output_weight),
            bias: None,
            y: &mut kept.z,
        })?;
        ops.residual_norm(ResidualNorm {
            pack,
            dropout: pass.dropout(Site::FeedForwardOutput(self.layer)),
            bias: weights.at(&slots.output_bias),
            residual: input,
            norm: Norm {
                gamma: weights.at(&slots.output_norm_weight),
                beta: weights.at(&slots.output_norm_bias),
                epsilon: self.epsilon,
            },
            z: &mut kept.z,
            stats: &mut kept.stats,
            y: output,
        })
    }

    /// Turns the gradient of the output, `gradients.hidden`, into that of `input`, `gradients.residual`, and sums those of
    /// the parameters.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        (kept, input): (&FeedForwardActivations<O::Buffer>, &O::Buffer),
        gradients: &mut LayerGradients<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        self.grow_gradients(pass, gradients)?;
        let (ops, pack, slots, rows) = (pass.ops, pass.pack, &self.slots, pass.tokens());
        let weights = pass.segment(&self.segment);
        ops.residual_norm_backward(ResidualNormBackward {
            pack,
            dropout: pass.dropout(Site::FeedForwardOutput(self.layer)),
            dy: &gradients.hidden,
            z: &kept.z,
            stats: &kept.stats,
            gamma: weights.at(&slots.output_norm_weight),
            dz: &mut gradients.residual,
            du: &mut gradients.dense,
            partials: &mut gradients.partials,
        })?;
        let norm = slots.output_bias.start..slots.output_norm_bias.end;
        sums.blocks(norm, Rows { pack, gradient: &gradients.partials })?;
        let dense = Rows { pack, gradient: &gradients.dense };
        sums.weight(slots.output_weight.clone(), dense, &kept.a, self.intermediate)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows, inputs: self.intermediate, outputs: self.hidden },
            dy: &gradients.dense,
            weight: weights.at(&slots.output_weight),
            dx: &mut gradients.inner,
            write: Write::Set,
        })?;
        ops.bias_gelu_backward(BiasGeluBackward {
            pack,
            u: &kept.u,
            bias: weights.at(&slots.intermediate_bias),
            gradient: &mut gradients.inner,
            partials: &mut gradients.partials,
        })?;
        let dy = Rows { pack, gradient: &gradients.inner };
        let inner = LinearRows { dy, partials: Some(&gradients.partials), x: input, inputs: self.hidden };
        sums.linear([slots.intermediate_weight.clone(), slots.intermediate_bias.clone()], inner)?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: LinearShape { rows, inputs: self.hidden, outputs: self.intermediate },
            dy: &gradients.inner,
            weight: weights.at(&slots.intermediate_weight),
            dx: &mut gradients.residual,
            write: Write::Add,
        })
    }
}
