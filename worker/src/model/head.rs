//! Pooler, classifier and loss.

use std::ops::Range;

use medley_common::model::ModelConfig;

use super::Pass;
use super::bert::Loss;
use super::lane_sums::{Rows, SegmentSums};
use super::layer::Below;
use crate::layout::{Layout, Segment};
use crate::ops::dropout::Site;
use crate::ops::head::{CrossEntropy, TanhDropout, TanhDropoutBackward};
use crate::ops::linear::{Linear, LinearInputGradient, LinearShape, Write};
use crate::ops::{DeviceError, Ops, Slice};

/// Where the head's parameters lie, and its sizes.
#[derive(Debug)]
pub struct Head {
    hidden: usize,
    labels: usize,
    segment: Range<usize>,
    /// Ranges within the segment.
    pooler_weight: Range<usize>,
    pooler_bias: Range<usize>,
    classifier_weight: Range<usize>,
    classifier_bias: Range<usize>,
}

/// What forward keeps for backward. `S` sequences, `H` hidden.
#[derive(Debug, Default)]
pub struct HeadActivations<B> {
    /// Output of the pooler, `[S, H]`.
    pooled: B,
    /// The same after dropout, `[S, H]`.
    dropped: B,
    /// `[S, labels]`.
    logits: B,
    /// `[S, labels]`.
    dlogits: B,
    /// `[S]`.
    losses: B,
    /// Gradient of the pooler's output; becomes that of its input to the activation, `[S, H]`.
    dpooled: B,
}

impl Head {
    /// The head of a model of this layout.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout) -> Self {
        let (hidden, labels) = (config.hidden_size as usize, config.num_labels as usize);
        let pooler_weight = 0..hidden * hidden;
        let pooler_bias = pooler_weight.end..pooler_weight.end + hidden;
        let classifier_weight = pooler_bias.end..pooler_bias.end + labels * hidden;
        let classifier_bias = classifier_weight.end..classifier_weight.end + labels;
        let segment = layout.range(Segment::Head);
        Self { hidden, labels, segment, pooler_weight, pooler_bias, classifier_weight, classifier_bias }
    }

    /// Elements of the head's segment.
    #[must_use]
    pub fn segment_length(&self) -> usize {
        self.segment.len()
    }

    /// Makes room for `sequences` sequences.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn grow<O: Ops>(
        &self,
        ops: &O,
        kept: &mut HeadActivations<O::Buffer>,
        sequences: usize,
    ) -> Result<(), DeviceError> {
        for buffer in [&mut kept.pooled, &mut kept.dropped, &mut kept.dpooled] {
            ops.grow_activations(buffer, sequences * self.hidden)?;
        }
        ops.grow(&mut kept.logits, sequences * self.labels)?;
        ops.grow_activations(&mut kept.dlogits, sequences * self.labels)?;
        ops.grow(&mut kept.losses, sequences)
    }

    fn shape<O: Ops>(&self, pass: &Pass<'_, O>, outputs: usize) -> LinearShape {
        LinearShape { rows: pass.tokens(), inputs: self.hidden, outputs }
    }

    /// Computes the logits from the first tokens' last hidden states, `[S, H]`. Here and below, the pass is over the first
    /// tokens.
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
        ops.linear(Linear {
            shape: self.shape(pass, hidden),
            x: input,
            weight: weights.at(&self.pooler_weight),
            bias: Some(weights.at(&self.pooler_bias)),
            y: &mut kept.pooled,
        })?;
        let dropout = pass.dropout(Site::Pooled);
        ops.tanh_dropout(TanhDropout { pack, hidden, dropout, x: &mut kept.pooled, y: &mut kept.dropped })?;
        ops.linear(Linear {
            shape: self.shape(pass, self.labels),
            x: &kept.dropped,
            weight: weights.at(&self.classifier_weight),
            bias: Some(weights.at(&self.classifier_bias)),
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

    /// Computes the losses, writes the gradient of `input` to `dinput`, `[S, H]`, if it is passed on, and sums those of the
    /// parameters.
    ///
    /// # Errors
    /// The device failed.
    pub fn backward<O: Ops>(
        &self,
        pass: &Pass<'_, O>,
        kept: &mut HeadActivations<O::Buffer>,
        (input, dinput, below): (&O::Buffer, &mut O::Buffer, Below),
        (loss, sums): (Loss<'_>, &mut SegmentSums<'_, O>),
    ) -> Result<(), DeviceError> {
        let (ops, pack, hidden, labels) = (pass.ops, pass.pack, self.hidden, self.labels);
        let weights = pass.segment(&self.segment);
        ops.cross_entropy(CrossEntropy {
            pack,
            labels,
            smoothing: loss.smoothing,
            class_weights: loss.class_weights,
            gradient_scale: loss.gradient_scale,
            logits: &kept.logits,
            dlogits: &mut kept.dlogits,
            losses: &mut kept.losses,
        })?;
        sums.weight(self.classifier_weight.clone(), Rows { pack, gradient: &kept.dlogits }, &kept.dropped, hidden)?;
        sums.bias(self.classifier_bias.clone(), Rows { pack, gradient: &kept.dlogits })?;
        ops.linear_input_gradient(LinearInputGradient {
            shape: self.shape(pass, labels),
            dy: &kept.dlogits,
            weight: weights.at(&self.classifier_weight),
            dx: &mut kept.dpooled,
            write: Write::Set,
        })?;
        let dropout = pass.dropout(Site::Pooled);
        let gradient = &mut kept.dpooled;
        ops.tanh_dropout_backward(TanhDropoutBackward { pack, hidden, dropout, x: &kept.pooled, gradient })?;
        sums.weight(self.pooler_weight.clone(), Rows { pack, gradient: &kept.dpooled }, input, hidden)?;
        sums.bias(self.pooler_bias.clone(), Rows { pack, gradient: &kept.dpooled })?;
        if below == Below::Frozen {
            return Ok(());
        }
        ops.linear_input_gradient(LinearInputGradient {
            shape: self.shape(pass, hidden),
            dy: &kept.dpooled,
            weight: weights.at(&self.pooler_weight),
            dx: dinput,
            write: Write::Set,
        })
    }
}
