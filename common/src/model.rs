//! The shape of a classifier on a BERT-like encoder, as its `config.json` tells it.

use serde::{Deserialize, Serialize};

/// A family of encoders, with the numbers that it alone has. What they mean to the computation, the names of tensors and
/// the kinds of heads, is the worker's; what their files mean is the coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// BERT: a pooler, and a classifier on it.
    #[default]
    Bert,
    /// RoBERTa: a classifier of two layers, positions that begin after the padding's.
    Roberta {
        /// The id of the padding token, which is also the row of the padding's position.
        pad_token_id: u32,
    },
    /// ELECTRA's discriminator: a classifier of two layers, embeddings that may be narrower than the encoder.
    Electra {
        /// Width of the embeddings.
        embedding_size: u32,
    },
}

impl Family {
    /// Whether it is what a model was before there were families: recipes of such a time do not name it.
    #[must_use]
    pub fn is_bert(&self) -> bool {
        *self == Self::Bert
    }
}

/// Sizes and rates of an encoder with a classifier (`BertForSequenceClassification` and the like).
///
/// The activation is always the exact erf-GELU and positions are absolute: a configuration that asks for others is
/// refused where it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The family of the encoder.
    #[serde(default, skip_serializing_if = "Family::is_bert")]
    pub family: Family,
    /// Rows of the word embedding.
    pub vocab_size: u32,
    /// Width of the hidden states.
    pub hidden_size: u32,
    /// Encoder layers.
    pub num_hidden_layers: u32,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: u32,
    /// Width of the feed-forward layer.
    pub intermediate_size: u32,
    /// Rows of the position embedding; see [`max_tokens`](Self::max_tokens).
    pub max_position_embeddings: u32,
    /// Rows of the token-type embedding.
    pub type_vocab_size: u32,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Dropout after the embeddings, the attention output and the feed-forward output.
    pub hidden_dropout: f64,
    /// Dropout on the attention probabilities.
    pub attention_dropout: f64,
    /// Dropout within the classifier.
    pub classifier_dropout: f64,
    /// Standard deviation of newly initialised weights.
    pub initializer_range: f64,
    /// Classes.
    pub num_labels: u32,
}

/// Why a model's shape cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A size is 0.
    #[error("{name} is 0; expected at least 1")]
    Zero {
        /// The field.
        name: &'static str,
    },
    /// The heads do not divide the width.
    #[error("hidden_size {hidden} is not a multiple of num_attention_heads {heads}")]
    Heads {
        /// Width of the hidden states.
        hidden: u32,
        /// Attention heads.
        heads: u32,
    },
    /// No position is left for a token.
    #[error(
        "max_position_embeddings is {positions}; expected more than the {reserved} that come before the first token's"
    )]
    Positions {
        /// Rows of the position embedding.
        positions: u32,
        /// Those that no token has.
        reserved: u32,
    },
    /// The padding token is no word.
    #[error("pad_token_id is {pad}; expected less than vocab_size {vocab_size}")]
    Padding {
        /// Its id.
        pad: u32,
        /// Rows of the word embedding.
        vocab_size: u32,
    },
    /// A rate lies outside its range.
    #[error("{name} is {value}; expected a number from {least} up to, but not including, {below}")]
    Rate {
        /// The field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The least that is allowed.
        least: f64,
        /// The bound that is not.
        below: f64,
    },
}

impl ModelConfig {
    /// Width of one attention head.
    #[must_use]
    pub fn head_size(&self) -> u32 {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Width of the embeddings: that of the hidden states, unless a projection lies between them.
    #[must_use]
    pub fn embedding_size(&self) -> u32 {
        match self.family {
            Family::Electra { embedding_size } => embedding_size,
            Family::Bert | Family::Roberta { .. } => self.hidden_size,
        }
    }

    /// The row of the position embedding of a sequence's first token.
    #[must_use]
    pub fn first_position(&self) -> u32 {
        match self.family {
            Family::Roberta { pad_token_id } => pad_token_id.saturating_add(1),
            Family::Bert | Family::Electra { .. } => 0,
        }
    }

    /// The longest sequence in tokens.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    /// Number of parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (hidden, intermediate) = (u64::from(self.hidden_size), u64::from(self.intermediate_size));
        let embedding = u64::from(self.embedding_size());
        let rows =
            u64::from(self.vocab_size) + u64::from(self.max_position_embeddings) + u64::from(self.type_vocab_size);
        let norm = 2 * hidden;
        let layer = 4 * hidden * (hidden + 1) + 2 * hidden * intermediate + intermediate + hidden + 2 * norm;
        let head = hidden * (hidden + 1) + u64::from(self.num_labels) * (hidden + 1);
        let projection = if embedding == hidden { 0 } else { hidden * (embedding + 1) };
        (rows + 2) * embedding + projection + u64::from(self.num_hidden_layers) * layer + head
    }

    /// Number of parameters above the frozen ones: all, or those above the embeddings and so many of the lowest layers.
    #[must_use]
    pub fn trained_parameters(&self, frozen_layers: Option<u32>) -> u64 {
        let Some(frozen) = frozen_layers else { return self.parameters() };
        let layers = self.num_hidden_layers - frozen.min(self.num_hidden_layers);
        let above = Self { num_hidden_layers: layers, vocab_size: 0, max_position_embeddings: 0, ..self.clone() };
        let (hidden, embedding) = (u64::from(self.hidden_size), u64::from(self.embedding_size()));
        let projection = if embedding == hidden { 0 } else { hidden * (embedding + 1) };
        above.parameters() - (u64::from(self.type_vocab_size) + 2) * embedding - projection
    }

    /// Checks the sizes and rates against each other.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("num_labels", self.num_labels),
            ("embedding_size", self.embedding_size()),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(ModelError::Zero { name });
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(ModelError::Heads { hidden: self.hidden_size, heads: self.num_attention_heads });
        }
        if let Family::Roberta { pad_token_id: pad } = self.family
            && pad >= self.vocab_size
        {
            return Err(ModelError::Padding { pad, vocab_size: self.vocab_size });
        }
        if self.max_tokens() == 0 {
            let (positions, reserved) = (self.max_position_embeddings, self.first_position());
            return Err(ModelError::Positions { positions, reserved });
        }
        let rates = [
            ("layer_norm_eps", self.layer_norm_eps, 1.0),
            ("hidden_dropout_prob", self.hidden_dropout, 1.0),
            ("attention_probs_dropout_prob", self.attention_dropout, 1.0),
            ("classifier_dropout", self.classifier_dropout, 1.0),
            ("initializer_range", self.initializer_range, 1e3),
        ];
        match rates.into_iter().find(|(_, value, below)| !(0.0..*below).contains(value)) {
            Some((name, value, below)) => Err(ModelError::Rate { name, value, least: 0.0, below }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ModelConfig {
        ModelConfig {
            family: Family::Bert,
            vocab_size: 100,
            hidden_size: 32,
            num_hidden_layers: 2,
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
    fn frozen_parameters_are_not_trained() {
        let model = tiny();
        assert_eq!(model.trained_parameters(None), model.parameters());
        let counts = [0, 1, 2, 3].map(|frozen| model.trained_parameters(Some(frozen)));
        // As torch counts them: tests/fixtures/tiny-bert/optimizers.json.
        assert_eq!(counts, [18_243, 9_699, 1_155, 1_155]);
    }

    /// As the model cards say: 333,475,840 and 108,232,704 without the classifier.
    #[test]
    fn biolinkbert_has_its_published_size() {
        let published = ModelConfig {
            vocab_size: 28_895,
            max_position_embeddings: 512,
            hidden_size: 1_024,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            intermediate_size: 4_096,
            ..tiny()
        };
        assert_eq!(published.parameters(), 333_475_840 + 3_075);
        let base = ModelConfig {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3_072,
            ..published
        };
        assert_eq!(base.parameters(), 108_232_704 + 2_307);
    }

    #[test]
    fn impossible_shapes_are_named() {
        assert_eq!(tiny().validate(), Ok(()));
        let odd = ModelConfig { num_attention_heads: 5, ..tiny() };
        assert_eq!(odd.validate(), Err(ModelError::Heads { hidden: 32, heads: 5 }));
        let empty = ModelConfig { num_hidden_layers: 0, ..tiny() };
        assert_eq!(empty.validate(), Err(ModelError::Zero { name: "num_hidden_layers" }));
        let wild = ModelConfig { hidden_dropout: 1.0, ..tiny() };
        assert!(wild.validate().is_err());
        let nan = ModelConfig { hidden_dropout: f64::NAN, ..tiny() };
        assert!(nan.validate().is_err());
        let family = Family::Roberta { pad_token_id: 127 };
        let full = ModelConfig { family, vocab_size: 200, ..tiny() };
        assert_eq!(full.validate(), Err(ModelError::Positions { positions: 128, reserved: 128 }));
        assert_eq!(ModelConfig { family, ..tiny() }.validate(), Err(ModelError::Padding { pad: 127, vocab_size: 100 }));
        let narrow = ModelConfig { family: Family::Electra { embedding_size: 0 }, ..tiny() };
        assert_eq!(narrow.validate(), Err(ModelError::Zero { name: "embedding_size" }));
    }

    /// roberta-base has 124,647,939 parameters with three labels and electra-small-discriminator 13,549,571, as
    /// transformers counts them.
    #[test]
    fn other_families_have_their_published_sizes() {
        let base = ModelConfig {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3_072,
            ..tiny()
        };
        let roberta = ModelConfig {
            family: Family::Roberta { pad_token_id: 1 },
            vocab_size: 50_265,
            max_position_embeddings: 514,
            type_vocab_size: 1,
            ..base.clone()
        };
        assert_eq!((roberta.parameters(), roberta.max_tokens()), (124_647_939, 512));
        let electra = ModelConfig {
            family: Family::Electra { embedding_size: 128 },
            vocab_size: 30_522,
            max_position_embeddings: 512,
            hidden_size: 256,
            num_attention_heads: 4,
            intermediate_size: 1_024,
            ..base
        };
        assert_eq!((electra.parameters(), electra.max_tokens()), (13_549_571, 512));
    }

    /// A recipe of a version without families is that of the same model now.
    #[test]
    fn bert_is_not_named() {
        let value = serde_json::to_value(tiny()).unwrap();
        assert_eq!(value.get("family"), None);
        assert_eq!(serde_json::from_value::<ModelConfig>(value).unwrap(), tiny());
        let electra = ModelConfig { family: Family::Electra { embedding_size: 8 }, ..tiny() };
        let value = serde_json::to_value(&electra).unwrap();
        assert_eq!(value["family"], serde_json::json!({"electra": {"embedding_size": 8}}));
        assert_eq!(serde_json::from_value::<ModelConfig>(value).unwrap(), electra);
    }
}
