//! The classifier, a pooler included, and the loss: what is done to each sequence's first token.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::bert::Loss;
use super::family::{self, Activation};
use super::lane_sums::{LinearRows, Rows, SegmentSums};
use super::layer::Below;
use crate::layout::{Layout, Segment};
use crate::ops::dropout::{Dropout, Site};
use crate::ops::gelu::{BiasGelu, BiasGeluBackward};
use crate::ops::head::{CrossEntropy, HeadDropout, TanhDropout, TanhDropoutBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::{DeviceError, Ops, Slice};

/// Where the head's parameters lie, its sizes, and what its family has between its two layers.
#[derive(Debug)]
pub struct Head {
    hidden: usize,
    labels: usize,
    segment: Range<usize>,
    /// Ranges within the segment.
    dense_weight: Range<usize>,
    dense_bias: Range<usize>,
    output_weight: Range<usize>,
    output_bias: Range<usize>,
    drops_input: bool,
    activation: Activation,
}

/// What forward keeps for backward. `S` sequences, `H` hidden.
#[derive(Debug, Default)]
pub struct HeadActivations<B> {
    /// The first tokens' hidden states after dropout, where there is one, `[S, H]`.
    input: B,
    /// Output of the first layer, through the tangent where that follows; without its bias where GELU does, `[S, H]`.
    dense: B,
    /// Input of the last layer, `[S, H]`.
    dropped: B,
    /// `[S, labels]`.
    logits: B,
    /// `[S, labels]`.
    dlogits: B,
    /// `[S]`.
    losses: B,
    /// Gradient of the last layer's input; becomes that of the first layer's output, `[S, H]`.
    ddense: B,
    /// On one side of a dropout that is an operation of its own, `[S, H]`.
    undropped: B,
    /// Each block's sums of GELU.
    partials: B,
}

impl Head {
    /// The head of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout) -> Self {
        let (hidden, labels) = (config.hidden_size as usize, config.num_labels as usize);
        let dense_weight = 0..hidden * hidden;
        let dense_bias = dense_weight.end..dense_weight.end + hidden;
        let output_weight = dense_bias.end..dense_bias.end + labels * hidden;
        let output_bias = output_weight.end..output_weight.end + labels;
        let segment = layout.range(Segment::Head);
        let parts = family::parts(config.family);
        let (drops_input, activation) = (parts.drops_input, parts.activation);
        Self { hidden, labels, segment, dense_weight, dense_bias, output_weight, output_bias, drops_input, activation }
    }

    /// Elements of the head's segment.
    #[must_use]
    pub fn segment_length(&self) -> usize {
        self.segment.len()
    }

    /// Makes room for the sequences of the pass. Here and below, it is over the first tokens.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn grow<O: Ops>(&self, pass: &Pass<'_, O>, kept: &mut HeadActivations<O::Buffer>) -> Result<(), DeviceError> {
        let (ops, sequences) = (pass.ops, pass.tokens());
        for buffer in [&mut kept.dense, &mut kept.dropped, &mut kept.ddense] {
            ops.grow_activations(buffer, sequences * self.hidden)?;
        }
        if self.drops_input {
            ops.grow_activations(&mut kept.input, sequences * self.hidden)?;
            ops.grow_activations(&mut kept.undropped, sequences * self.hidden)?;
        }
        if self.activation == Activation::Gelu {
            ops.grow(&mut kept.partials, pass.blocks() * self.hidden)?;
        }
        ops.grow(&mut kept.logits, sequences * self.labels)?;
        ops.grow_activations(&mut kept.dlogits, sequences * self.labels)?;
        ops.grow(&mut kept.losses, sequences)
    }

    fn shape<O: Ops>(&self, pass: &Pass<'_, O>, outputs: usize) -> LinearShape {
        LinearShape { rows: pass.tokens(), inputs: self.hidden, outputs }
    }

    /// The dropout of the first layer's input.
    fn input_dropout<O: Ops>(&self, pass: &Pass<'_, O>) -> Option<Dropout> {
        if self.drops_input { pass.dropout(Site::ClassifierInput) } else { None }
    }

    /// Computes the logits from the first tokens' last hidden states, `[S, H]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut HeadActivations<O::Buffer>,
        input: &O::Buffer,
    ) -> Result<(), DeviceError> {
        let (ops, pack, hidden) = (pass.ops, pass.pack, self.hidden);
        let weights = pass.segment(&self.segment);
        let mut x = input;
        if let Some(dropout) = self.input_dropout(pass) {
            ops.head_dropout(HeadDropout { pack, hidden, dropout, x: input, y: &mut kept.input })?;
            x = &kept.input;
        }
        let (shape, bias) = (self.shape(pass, hidden), weights.at(&self.dense_bias));
        let (weight, dropout) = (weights.at(&self.dense_weight), pass.dropout(Site::Pooled));
        match self.activation {
            Activation::Tanh => {
                ops.linear(Linear { shape, x, weight, bias: Some(bias), y: &mut kept.dense })?;
                let (x, y) = (&mut kept.dense, &mut kept.dropped);
                ops.tanh_dropout(TanhDropout { pack, hidden, dropout, x, y })?;
            }
            Activation::Gelu => {
                ops.linear(Linear { shape, x, weight, bias: None, y: &mut kept.dense })?;
                let a = if dropout.is_some() { &mut kept.undropped } else { &mut kept.dropped };
                ops.bias_gelu(BiasGelu { pack, u: &kept.dense, bias, a })?;
                if let Some(dropout) = dropout {
                    let (x, y) = (&kept.undropped, &mut kept.dropped);
                    ops.head_dropout(HeadDropout { pack, hidden, dropout, x, y })?;
                }
            }
        }
        ops.linear(Linear {
            shape: self.shape(pass, self.labels),
            x: &kept.dropped,
            weight: weights.at(&self.output_weight),
            bias: Some(weights.at(&self.output_bias)),
            y: &mut kept.logits,
        })
    }

    /// The logits that forward has left, `[S, labels]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn logits<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &HeadActivations<O::Buffer>,
    ) -> Result<Vec<f32>, DeviceError> {
        pass.ops.read(Slice { buffer: &kept.logits, range: 0..pass.tokens() * self.labels })
    }

    /// Sums the losses that backward has left by lane.
    ///
    /// # Errors
    /// The device failed.
    pub fn sum_losses<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &HeadActivations<O::Buffer>,
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        sums.losses(Rows { pack: pass.pack, gradient: &kept.losses })
    }

    /// Computes the losses, and the gradient of the logits.
    ///
    /// # Errors
    /// The device failed.
    pub fn loss<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut HeadActivations<O::Buffer>,
        loss: Loss<'_>,
    ) -> Result<(), DeviceError> {
        pass.ops.cross_entropy(CrossEntropy {
            pack: pass.pack,
            labels: self.labels,
            smoothing: loss.smoothing,
            class_weights: loss.class_weights,
            gradient_scale: loss.gradient_scale,
            logits: &kept.logits,
            dlogits: &mut kept.dlogits,
            losses: &mut kept.losses,
        })
    }

    /// From the gradient of the logits, writes that of `input` to `dinput`, `[S, H]`, if it is passed on, and sums those of
    /// the parameters.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut HeadActivations<O::Buffer>,
        (input, dinput, below): (&O::Buffer, &mut O::Buffer, Below),
        sums: &mut SegmentSums<'_, O>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, hidden) = (pass.ops, pass.pack, self.hidden);
        let weights = pass.segment(&self.segment);
        let dlogits = Rows { pack, gradient: &kept.dlogits };
        let rows = LinearRows { dy: dlogits, partials: None, x: &kept.dropped, inputs: hidden };
        sums.linear([self.output_weight.clone(), self.output_bias.clone()], rows)?;
        self.activation_backward(pass, kept)?;
        let dropout = self.input_dropout(pass);
        let x = if dropout.is_some() { &kept.input } else { input };
        let partials = (self.activation == Activation::Gelu).then_some(&kept.partials);
        let rows = LinearRows { dy: Rows { pack, gradient: &kept.ddense }, partials, x, inputs: hidden };
        sums.linear([self.dense_weight.clone(), self.dense_bias.clone()], rows)?;
        if below == Below::Frozen {
            return Ok(());
        }
        ops.linear_input_gradient(LinearInputGradient {
            shape: self.shape(pass, hidden),
            dy: &kept.ddense,
            weight: weights.at(&self.dense_weight),
            dx: if dropout.is_some() { &mut kept.undropped } else { &mut *dinput },
            write: Write::Set,
        })?;
        match dropout {
            Some(dropout) => ops.head_dropout(HeadDropout { pack, hidden, dropout, x: &kept.undropped, y: dinput }),
            None => Ok(()),
        }
    }

    /// Turns the gradient of the logits into that of the first layer's output; with GELU, it leaves its sums by block.
    fn activation_backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut HeadActivations<O::Buffer>,
    ) -> Result<(), DeviceError> {
        let (ops, pack, hidden) = (pass.ops, pass.pack, self.hidden);
        let weights = pass.segment(&self.segment);
        let dropout = pass.dropout(Site::Pooled);
        // With the tangent, dropout is one operation.
        let apart = dropout.filter(|_| self.activation == Activation::Gelu);
        ops.linear_input_gradient(LinearInputGradient {
            shape: self.shape(pass, self.labels),
            dy: &kept.dlogits,
            weight: weights.at(&self.output_weight),
            dx: if apart.is_some() { &mut kept.undropped } else { &mut kept.ddense },
            write: Write::Set,
        })?;
        if let Some(dropout) = apart {
            let (x, y) = (&kept.undropped, &mut kept.ddense);
            ops.head_dropout(HeadDropout { pack, hidden, dropout, x, y })?;
        }
        let gradient = &mut kept.ddense;
        match self.activation {
            Activation::Tanh => {
                ops.tanh_dropout_backward(TanhDropoutBackward { pack, hidden, dropout, x: &kept.dense, gradient })
            }
            Activation::Gelu => {
                let (bias, partials) = (weights.at(&self.dense_bias), &mut kept.partials);
                ops.bias_gelu_backward(BiasGeluBackward { pack, u: &kept.dense, bias, gradient, partials })
            }
        }
    }
}
