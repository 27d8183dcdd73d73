//! Where each parameter lies in the flat buffer.
//!
//! The order is a pure function of the model's shape, so every process has the same one (candle's `VarMap` iterates a
//! hash map and has another order in every process). It follows the tensors' names segment by segment, in the order of
//! the forward pass; within a layer, query, key and value stand side by side, weights before biases, so that one
//! product may compute several of them.

use std::ops::Range;

use medley_common::identity::Digest;
use medley_common::model::ModelConfig;
use medley_common::spec::TuningSpec;
use sha2::{Digest as _, Sha256};

use crate::model::family;

/// The part of `elements` elements that `rank` of `world` has where each has one of its own: of almost equal length, it begins
/// at a multiple of `piece`.
#[must_use]
pub fn shard(elements: usize, rank: u32, world: u32, piece: usize) -> Range<usize> {
    let bound = |rank: u32| {
        let place = (elements as u128 * u128::from(rank) / u128::from(world.max(1))) as usize;
        if rank == world { elements } else { place - place % piece.max(1) }
    };
    bound(rank)..bound(rank + 1)
}

/// One parameter tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its Hugging Face name, with the prefix of the encoder: `bert.`, `roberta.`.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its elements in the flat buffer.
    pub range: Range<usize>,
}

impl Slot {
    /// Whether weight decay applies: to all but biases and layer norms.
    #[must_use]
    pub fn decays(&self) -> bool {
        !self.name.ends_with(".bias") && !self.name.contains("LayerNorm")
    }
}

/// The ranges of one encoder layer's parameters, relative to the start of the layer's segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSlots {
    /// Query, key and value weights, `[3 * hidden, hidden]`.
    pub qkv_weight: Range<usize>,
    /// Query, key and value biases, `[3 * hidden]`.
    pub qkv_bias: Range<usize>,
    /// Attention output weight, `[hidden, hidden]`.
    pub attention_weight: Range<usize>,
    /// Attention output bias.
    pub attention_bias: Range<usize>,
    /// Weight (gamma) of the layer norm after the attention.
    pub attention_norm_weight: Range<usize>,
    /// Bias (beta) of the layer norm after the attention.
    pub attention_norm_bias: Range<usize>,
    /// First feed-forward weight, `[intermediate, hidden]`.
    pub intermediate_weight: Range<usize>,
    /// First feed-forward bias.
    pub intermediate_bias: Range<usize>,
    /// Second feed-forward weight, `[hidden, intermediate]`.
    pub output_weight: Range<usize>,
    /// Second feed-forward bias.
    pub output_bias: Range<usize>,
    /// Weight (gamma) of the layer norm after the feed-forward.
    pub output_norm_weight: Range<usize>,
    /// Bias (beta) of the layer norm after the feed-forward.
    pub output_norm_bias: Range<usize>,
}

/// A run of the flat buffer whose gradients become ready together: the unit that is summed over workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// The word embedding, whose gradient touches few rows: summed as rows, not as a whole.
    Words,
    /// Position and token-type embeddings, their layer norm, and the projection to the encoder's width where there is one.
    Embeddings,
    /// One encoder layer.
    Layer(u32),
    /// The classifier, a pooler included.
    Head,
    /// No parameters: the sum of each lane's losses, which travels with the gradients.
    Losses,
}

impl Segment {
    /// Whether its parameters are trained; losses have none, and are always summed.
    #[must_use]
    pub fn is_trained(self, tuning: &TuningSpec) -> bool {
        match (self, tuning.frozen_layers) {
            (Self::Head | Self::Losses, _) | (_, None) => true,
            (Self::Words | Self::Embeddings, Some(_)) => false,
            (Self::Layer(layer), Some(frozen)) => layer >= frozen,
        }
    }

    /// What its parameters' learning rate is multiplied by in a model of so many `layers`: a power of the decay, which the
    /// head has none of, a layer one more than the layer above, and the embeddings one more than the lowest layer.
    #[must_use]
    pub fn rate(self, tuning: &TuningSpec, layers: u32) -> f64 {
        let below = match self {
            Self::Head | Self::Losses => 0,
            Self::Layer(layer) => layers.saturating_sub(layer),
            Self::Words | Self::Embeddings => layers.saturating_add(1),
        };
        // Multiplied one by one, which has the same bits everywhere.
        tuning.layer_lr_decay.map_or(1.0, |decay| (0..below).fold(1.0, |rate, _| rate * decay))
    }
}

/// The layout of all parameters of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    slots: Vec<Slot>,
    segments: Vec<(Segment, Range<usize>)>,
    hidden: usize,
    intermediate: usize,
}

impl Layout {
    /// The layout of a classifier of this shape.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let hidden = config.hidden_size as usize;
        let intermediate = config.intermediate_size as usize;
        let mut layout = Self { slots: Vec::new(), segments: Vec::new(), hidden, intermediate };
        let parts = family::parts(config.family);
        layout.embeddings(config, parts.encoder);
        for layer in 0..config.num_hidden_layers {
            let prefix = format!("{}.encoder.layer.{layer}.", parts.encoder);
            layout.segment(
                Segment::Layer(layer),
                &prefix,
                &[
                    ("attention.self.query.weight", vec![hidden, hidden]),
                    ("attention.self.key.weight", vec![hidden, hidden]),
                    ("attention.self.value.weight", vec![hidden, hidden]),
                    ("attention.self.query.bias", vec![hidden]),
                    ("attention.self.key.bias", vec![hidden]),
                    ("attention.self.value.bias", vec![hidden]),
                    ("attention.output.dense.weight", vec![hidden, hidden]),
                    ("attention.output.dense.bias", vec![hidden]),
                    ("attention.output.LayerNorm.weight", vec![hidden]),
                    ("attention.output.LayerNorm.bias", vec![hidden]),
                    ("intermediate.dense.weight", vec![intermediate, hidden]),
                    ("intermediate.dense.bias", vec![intermediate]),
                    ("output.dense.weight", vec![hidden, intermediate]),
                    ("output.dense.bias", vec![hidden]),
                    ("output.LayerNorm.weight", vec![hidden]),
                    ("output.LayerNorm.bias", vec![hidden]),
                ],
            );
        }
        let labels = config.num_labels as usize;
        let (dense, output) = (parts.dense, parts.output);
        layout.segment(
            Segment::Head,
            "",
            &[
                (&format!("{dense}.weight"), vec![hidden, hidden]),
                (&format!("{dense}.bias"), vec![hidden]),
                (&format!("{output}.weight"), vec![labels, hidden]),
                (&format!("{output}.bias"), vec![labels]),
            ],
        );
        layout
    }

    fn embeddings(&mut self, config: &ModelConfig, encoder: &str) {
        let (hidden, width) = (self.hidden, config.embedding_size() as usize);
        let matrix = |rows: u32| vec![rows as usize, width];
        let prefix = format!("{encoder}.");
        self.segment(Segment::Words, &prefix, &[("embeddings.word_embeddings.weight", matrix(config.vocab_size))]);
        let tables = [
            ("embeddings.position_embeddings.weight", matrix(config.max_position_embeddings)),
            ("embeddings.token_type_embeddings.weight", matrix(config.type_vocab_size)),
            ("embeddings.LayerNorm.weight", vec![width]),
            ("embeddings.LayerNorm.bias", vec![width]),
        ];
        let projection =
            [("embeddings_project.weight", vec![hidden, width]), ("embeddings_project.bias", vec![hidden])];
        let projection = projection.into_iter().filter(|_| width != hidden);
        self.segment(Segment::Embeddings, &prefix, &tables.into_iter().chain(projection).collect::<Vec<_>>());
    }

    fn segment(&mut self, segment: Segment, prefix: &str, tensors: &[(&str, Vec<usize>)]) {
        let start = self.len();
        for (name, shape) in tensors {
            let start = self.len();
            let end = start + shape.iter().product::<usize>();
            self.slots.push(Slot { name: format!("{prefix}{name}"), shape: shape.clone(), range: start..end });
        }
        self.segments.push((segment, start..self.len()));
    }

    /// Number of parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.range.end)
    }

    /// Whether there are no parameters; never so for a valid model.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All tensors, in the order of the flat buffer.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All segments with their elements in the flat buffer, in its order; backward finishes them last to first.
    #[must_use]
    pub fn segments(&self) -> &[(Segment, Range<usize>)] {
        &self.segments
    }

    /// The segments whose gradients are summed as a whole, with their elements in the flat buffer: the trained ones but the
    /// word embedding.
    pub fn dense_segments(&self, tuning: &TuningSpec) -> impl Iterator<Item = &(Segment, Range<usize>)> {
        let is_dense = |segment: Segment| segment != Segment::Words && segment.is_trained(tuning);
        self.segments.iter().filter(move |(segment, _)| is_dense(*segment))
    }

    /// The elements of `segment`; empty for a layer that the model does not have.
    #[must_use]
    pub fn range(&self, segment: Segment) -> Range<usize> {
        self.segments.iter().find(|(known, _)| *known == segment).map_or(0..0, |(_, range)| range.clone())
    }

    /// The ranges within any encoder layer's segment: the same for all layers.
    #[must_use]
    pub fn layer_slots(&self) -> LayerSlots {
        let (hidden, intermediate) = (self.hidden, self.intermediate);
        let mut end = 0;
        let mut take = |count: usize| {
            let start = end;
            end += count;
            start..end
        };
        LayerSlots {
            qkv_weight: take(3 * hidden * hidden),
            qkv_bias: take(3 * hidden),
            attention_weight: take(hidden * hidden),
            attention_bias: take(hidden),
            attention_norm_weight: take(hidden),
            attention_norm_bias: take(hidden),
            intermediate_weight: take(intermediate * hidden),
            intermediate_bias: take(intermediate),
            output_weight: take(hidden * intermediate),
            output_bias: take(hidden),
            output_norm_weight: take(hidden),
            output_norm_bias: take(hidden),
        }
    }

    /// SHA-256 over every tensor's name, shape and place: two processes with the same fingerprint may exchange flat
    /// buffers.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        let mut hash = Sha256::new();
        for slot in &self.slots {
            hash.update(format!("{} {:?} {}\n", slot.name, slot.shape, slot.range.start));
        }
        Digest(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use medley_common::model::Family;

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            family: Family::Bert,
            vocab_size: 100,
            hidden_size: 32,
            num_hidden_layers: 12,
            num_attention_heads: 4,
            intermediate_size: 64,
            max_position_embeddings: 128,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            classifier_dropout: 0.1,
            initializer_range: 0.02,
            num_labels: 3,
        }
    }

    #[test]
    fn slots_tile_the_buffer_and_segments_tile_the_slots() {
        let layout = Layout::new(&config());
        assert!(layout.slots().windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
        assert!(layout.segments().windows(2).all(|pair| pair[0].1.end == pair[1].1.start));
        assert_eq!(layout.segments().len(), 12 + 3);
        assert_eq!(layout.segments()[14].1.end, layout.len());
        assert_eq!(layout.len() as u64, config().parameters());
    }

    #[test]
    fn every_family_has_its_own_names() {
        let names = |family| {
            let layout = Layout::new(&ModelConfig { family, num_hidden_layers: 1, ..config() });
            let config = ModelConfig { family, num_hidden_layers: 1, ..config() };
            assert_eq!(layout.len() as u64, config.parameters(), "{family:?}");
            layout.slots().iter().map(|slot| (slot.name.clone(), slot.decays())).collect::<Vec<_>>()
        };
        let decays =
            |names: &[(String, bool)], name: &str| names.iter().find(|(own, _)| own == name).map(|(_, yes)| *yes);
        let roberta = names(Family::Roberta { pad_token_id: 1 });
        assert_eq!(roberta.len(), 5 + 16 + 4);
        assert_eq!(decays(&roberta, "roberta.embeddings.LayerNorm.weight"), Some(false));
        assert_eq!(decays(&roberta, "roberta.encoder.layer.0.attention.self.query.weight"), Some(true));
        assert_eq!(decays(&roberta, "classifier.dense.weight"), Some(true));
        assert_eq!(decays(&roberta, "classifier.out_proj.bias"), Some(false));
        let narrow = names(Family::Electra { embedding_size: 16 });
        assert_eq!(decays(&narrow, "electra.embeddings_project.weight"), Some(true));
        assert_eq!(decays(&narrow, "electra.embeddings_project.bias"), Some(false));
        let wide = names(Family::Electra { embedding_size: 32 });
        assert_eq!(wide.len() + 2, narrow.len(), "nothing is projected to its own width");
    }

    #[test]
    fn layer_ranges_name_the_tensors_they_say() {
        let layout = Layout::new(&config());
        let start = layout.range(Segment::Layer(11)).start;
        let at = |name: &str| {
            let slot = layout.slots().iter().find(|slot| slot.name == format!("bert.encoder.layer.11.{name}")).unwrap();
            slot.range.start - start..slot.range.end - start
        };
        let slots = layout.layer_slots();
        assert_eq!(slots.qkv_weight, at("attention.self.query.weight").start..at("attention.self.value.weight").end);
        assert_eq!(slots.qkv_bias, at("attention.self.query.bias").start..at("attention.self.value.bias").end);
        assert_eq!(slots.attention_bias, at("attention.output.dense.bias"));
        assert_eq!(slots.intermediate_weight, at("intermediate.dense.weight"));
        assert_eq!(slots.output_weight, at("output.dense.weight"));
        assert_eq!(slots.output_norm_bias, at("output.LayerNorm.bias"));
    }

    /// As BEiT and ELECTRA are fine-tuned: the embeddings are layer 0 of `layers + 2`, the head is the last.
    #[test]
    fn rates_fall_from_the_head_down() {
        let tuning = TuningSpec { frozen_layers: Some(2), layer_lr_decay: Some(0.5) };
        let rates = [Segment::Head, Segment::Layer(11), Segment::Layer(10), Segment::Layer(0), Segment::Embeddings];
        let rates = rates.map(|segment| segment.rate(&tuning, 12));
        assert_eq!(rates, [1.0, 0.5, 0.25, 0.5_f64.powi(12), 0.5_f64.powi(13)]);
        assert_eq!(Segment::Words.rate(&TuningSpec::default(), 12), 1.0);
        let layout = Layout::new(&config());
        let dense: Vec<Segment> = layout.dense_segments(&tuning).map(|(segment, _)| *segment).collect();
        assert_eq!((dense.len(), dense[0]), (11, Segment::Layer(2)));
        assert_eq!(layout.dense_segments(&TuningSpec::default()).count(), 14);
    }

    #[test]
    fn another_shape_has_another_fingerprint() {
        let one = Layout::new(&config()).fingerprint();
        let other = Layout::new(&ModelConfig { num_labels: 2, ..config() }).fingerprint();
        assert_ne!(one, other);
        assert_eq!(one, Layout::new(&config()).fingerprint());
    }
}
