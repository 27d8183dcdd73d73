//! The whole model.

use medley_common::lane::Node;
use medley_common::model::ModelConfig;

use super::Pass;
use super::embeddings::{EmbeddingActivations, Embeddings};
use super::head::{Head, HeadActivations};
use super::lane_sums::{LaneShare, SegmentSums};
use super::layer::{Below, Layer, LayerActivations, LayerGradients};
use crate::collective::SparseRows;
use crate::layout::{Layout, Segment};
use crate::ops::buffer_pool::BufferPool;
use crate::ops::embedding::WordGradient;
use crate::ops::section::Part;
use crate::ops::{DeviceError, Ops};

/// `BertForSequenceClassification`, or what another family has in its place: post-norm, with the buffers it computes in.
///
/// Buffers only grow: they are as large as the largest batch so far needed.
pub struct Bert<O: Ops> {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    /// The embeddings and so many of the lowest layers are not trained: backward does not come to them.
    frozen: Option<usize>,
    head: Head,
    embedding: EmbeddingActivations<O::Buffer>,
    /// What each layer that is trained keeps for backward, or what the layer at hand does.
    kept: Vec<LayerActivations<O::Buffer>>,
    /// The hidden states before the first layer and after each layer.
    hidden: Vec<O::Buffer>,
    classification: HeadActivations<O::Buffer>,
    gradients: LayerGradients<O::Buffer>,
    /// What the device keeps of the parts of passes.
    sections: O::Sections,
}

/// What layers keep from forward to backward, besides their inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All that backward needs.
    Everything,
    /// Nothing: backward computes each layer again, to the same bits, in the memory of one (Chen et al., "Training Deep
    /// Nets with Sublinear Memory Cost", 2016).
    Nothing,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Backward follows: every layer's activations are kept.
    Training,
    /// Only the logits are wanted: two layers' worth of memory is enough.
    Prediction,
}

/// Who takes gradients as they become ready.
pub trait GradientSink<O: Ops> {
    /// Why one is not taken.
    type Error: From<DeviceError>;

    /// Takes the sums of a dense segment, one for each node of this rank's share that has rows.
    ///
    /// # Errors
    /// The sink's own.
    fn segment(&mut self, segment: Segment, sums: Vec<(Node, O::Buffer)>) -> Result<(), Self::Error>;

    /// Takes the sums of the word embedding's rows; comes last.
    ///
    /// # Errors
    /// The sink's own.
    fn words(&mut self, sums: Vec<(Node, SparseRows<O::Buffer>)>) -> Result<(), Self::Error>;
}

/// How gradients are summed.
pub struct Backward<'a, O: Ops> {
    /// This rank's share of the lanes.
    pub share: &'a LaneShare,
    /// Buffers for the sums.
    pub pool: &'a mut BufferPool<O>,
    /// The loss.
    pub loss: Loss<'a>,
}

/// What is differentiated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss<'a> {
    /// Probability mass that the loss spreads evenly over all labels.
    pub smoothing: f64,
    /// How much each label counts; empty: all alike.
    pub class_weights: &'a [f64],
    /// What the loss is multiplied by before it is differentiated.
    pub gradient_scale: f64,
}

impl<O: Ops> Bert<O> {
    /// A model of this shape, without room for any batch yet; the embeddings and `frozen_layers` of the lowest layers are
    /// not trained, if that is not `None`.
    #[must_use]
    pub fn new(config: &ModelConfig, layout: &Layout, keep: Keep, frozen_layers: Option<u32>) -> Self {
        let layers = config.num_hidden_layers;
        let frozen = frozen_layers.map(|frozen| frozen.min(layers));
        let trained = layers - frozen.unwrap_or(0);
        let kept = if keep == Keep::Nothing { 1 } else { trained.max(1) };
        Self {
            embeddings: Embeddings::new(config, layout),
            layers: (0..layers).map(|layer| Layer::new(config, layout, layer)).collect(),
            frozen: frozen.map(|frozen| frozen as usize),
            head: Head::new(config, layout),
            embedding: EmbeddingActivations::default(),
            kept: (0..kept).map(|_| LayerActivations::default()).collect(),
            hidden: (0..=layers).map(|_| O::Buffer::default()).collect(),
            classification: HeadActivations::default(),
            gradients: LayerGradients::default(),
            sections: O::Sections::default(),
        }
    }

    /// Gives up what the device keeps of parts of passes, and has it keep no more; whether there was any.
    pub fn stop_sections(&mut self, ops: &O) -> bool {
        ops.stop_sections(&mut self.sections)
    }

    /// Computes the logits of the pass.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward(&mut self, pass: &Pass<'_, O>, purpose: Purpose) -> Result<(), DeviceError> {
        let (tokens, width) = (pass.tokens(), self.embeddings.hidden());
        // A prediction needs the hidden states of two places and the activations of one layer at a time.
        let (training, kept_layers) = (purpose == Purpose::Training, self.kept.len().max(1));
        // What a frozen layer leaves is of no use once the next one has it.
        let lowest = self.frozen.unwrap_or(0);
        let place = |layer: usize| if training { layer } else { layer % 2 };
        self.embeddings.grow(pass.ops, &mut self.embedding, tokens)?;
        pass.ops.grow_activations(&mut self.hidden[0], tokens * width)?;
        let Self { embeddings, embedding, hidden, sections, .. } = self;
        let part = Part::Forward(Segment::Embeddings);
        pass.section(sections, (part, Vec::new()), &mut || embeddings.forward(pass, embedding, &mut hidden[0]))?;
        for (index, layer) in self.layers.iter().enumerate() {
            let kept = &mut self.kept[if training { index.saturating_sub(lowest) % kept_layers } else { 0 }];
            let mut output = std::mem::take(&mut self.hidden[place(index + 1)]);
            pass.ops.grow_activations(&mut output, tokens * width)?;
            let (part, input) = (Part::Forward(Segment::Layer(layer.index())), &self.hidden[place(index)]);
            let enqueue = &mut || layer.forward(pass, kept, input, &mut output);
            pass.section(&mut self.sections, (part, Vec::new()), enqueue)?;
            self.hidden[place(index + 1)] = output;
        }
        let (firsts, input) = (&pass.over_firsts(), &self.hidden[place(self.layers.len())]);
        self.head.grow(firsts, &mut self.classification)?;
        let Self { head, classification, sections, .. } = self;
        let part = Part::Forward(Segment::Head);
        pass.section(sections, (part, Vec::new()), &mut || head.forward(firsts, classification, input))
    }

    /// The logits of the pass that forward was computed for, `[sequences, labels]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn logits(&self, pass: &Pass<'_, O>) -> Result<Vec<f32>, DeviceError> {
        self.head.logits(&pass.over_firsts(), &self.classification)
    }

    /// Computes the losses of the lanes and all gradients of their sum, from the head to the lowest parameters that are
    /// trained, and hands each segment's to `sink` as soon as it is ready.
    ///
    /// # Errors
    /// The device failed, or the sink did.
    pub fn backward<S: GradientSink<O>>(
        &mut self,
        pass: &Pass<'_, O>,
        backward: Backward<'_, O>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let Backward { share, pool, loss } = backward;
        let (gradients, width) = (&mut self.gradients, self.embeddings.hidden());
        // Layers swap these two, so both hold all tokens.
        let widest = width.max(self.embeddings.width());
        pass.ops.grow_activations(&mut gradients.hidden, pass.tokens() * widest)?;
        pass.ops.grow_activations(&mut gradients.residual, pass.tokens() * widest)?;

        let firsts = &pass.over_firsts();
        self.head.loss(firsts, &mut self.classification, loss)?;
        let mut sums = SegmentSums::new(pass, share, pool, (Segment::Head, self.head.segment_length()))?;
        let below = |index: usize| if self.frozen == Some(index) { Below::Frozen } else { Below::Trained };
        let (output, is_below) = (&self.hidden[self.layers.len()], below(self.layers.len()));
        pass.section(&mut self.sections, (Part::Backward(Segment::Head), sums.places()), &mut || {
            let output = (output, &mut gradients.hidden, is_below);
            self.head.backward(firsts, &mut self.classification, output, &mut sums)
        })?;
        sink.segment(Segment::Head, sums.into_nodes())?;
        let losses = (Segment::Losses, share.reported_lanes() as usize);
        let mut sums = SegmentSums::new(pass, share, pool, losses)?;
        self.head.sum_losses(firsts, &self.classification, &mut sums)?;
        sink.segment(Segment::Losses, sums.into_nodes())?;

        let lowest = self.frozen.unwrap_or(0);
        for (index, layer) in self.layers.iter().enumerate().skip(lowest).rev() {
            // What the last layer keeps is still there.
            if self.kept.len() < self.layers.len() - lowest && index + 1 < self.layers.len() {
                let mut output = std::mem::take(&mut self.hidden[index + 1]);
                let (part, kept) = (Part::Forward(Segment::Layer(layer.index())), &mut self.kept[0]);
                let enqueue = &mut || layer.forward(pass, kept, &self.hidden[index], &mut output);
                pass.section(&mut self.sections, (part, Vec::new()), enqueue)?;
                self.hidden[index + 1] = output;
            }
            let (kept, input) = (&self.kept[(index - lowest) % self.kept.len().max(1)], &self.hidden[index]);
            let segment = Segment::Layer(layer.index());
            let mut sums = SegmentSums::new(pass, share, pool, (segment, layer.segment_length()))?;
            pass.section(&mut self.sections, (Part::Backward(segment), sums.places()), &mut || {
                layer.backward(pass, (kept, input, below(index)), gradients, &mut sums)
            })?;
            sink.segment(segment, sums.into_nodes())?;
        }

        if self.frozen.is_some() {
            return sink.words(Vec::new());
        }
        self.embeddings_backward(pass, (share, pool), sink)
    }

    /// The end of [`Self::backward`], from the first hidden states' gradient.
    fn embeddings_backward<S: GradientSink<O>>(
        &mut self,
        pass: &Pass<'_, O>,
        (share, pool): (&LaneShare, &mut BufferPool<O>),
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let gradients = &mut self.gradients;
        pass.ops.grow(&mut gradients.partials, pass.blocks() * self.embeddings.partials())?;
        let LayerGradients { hidden: dy, residual: dz, partials, .. } = gradients;
        let segment = Segment::Embeddings;
        let mut sums = SegmentSums::new(pass, share, pool, (segment, self.embeddings.segment_length()))?;
        pass.section(&mut self.sections, (Part::Backward(segment), sums.places()), &mut || {
            self.embeddings.backward(pass, &mut self.embedding, dy, [&mut *dz, &mut *partials])?;
            self.embeddings.sum(pass, (&self.embedding, dy), [dz, partials], &mut sums)
        })?;
        sink.segment(segment, sums.into_nodes())?;

        let (ops, pack, hidden) = (pass.ops, pass.pack, self.embeddings.width());
        let words = share
            .sum_rows(ops, pack.as_ref(), hidden, |lane| ops.word_gradient(WordGradient { pack, lane, hidden, dz }))?;
        sink.words(words)
    }
}
