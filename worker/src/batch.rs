//! The rows of one pass, packed: nothing is padded but where a device records passes (`padding.rs`).
//!
//! The tokens of all sequences stand one after another, grouped by lane in lane order. Every operation that sums over
//! rows sums within a lane, in blocks of rows that depend on the lane alone, so that a lane's results have the same
//! bits whatever other lanes are in the pass.

use std::ops::Range;

use medley_common::example::Example;
use medley_common::identity::RowId;
use medley_common::model::ModelConfig;

mod padding;

/// Tokens a block holds at most: the unit of sums over rows.
pub const BLOCK_TOKENS: usize = 32;

/// Packed sequences.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The lanes of the pass, contiguous, the empty ones included.
    pub lanes: Vec<LaneSpan>,
    /// The row of each sequence.
    pub rows: Vec<RowId>,
    /// The lane of the update that the loss of each sequence is reported of.
    pub loss_lanes: Vec<u32>,
    /// Where each sequence begins among the tokens, and the number of tokens: one more than there are sequences.
    pub offsets: Vec<usize>,
    /// The label of each sequence.
    pub labels: Vec<Option<u32>>,
    /// The id of each token.
    pub tokens: Vec<u32>,
    /// The place of each token in its sequence.
    pub positions: Vec<u32>,
    /// The segment of each token, 0 or 1.
    pub segments: Vec<u32>,
    /// The sequence of each token.
    pub sequences: Vec<u32>,
    /// Whether the last sequence only fills up the tokens: [`Batch::padded`].
    pub is_padded: bool,
    /// Runs of at most [`BLOCK_TOKENS`] tokens that tile the tokens; none crosses from one lane to another.
    pub blocks: Vec<Range<usize>>,
}

/// What a lane holds of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSpan {
    /// Index of the lane.
    pub lane: u32,
    /// Its sequences.
    pub sequences: Range<usize>,
    /// Its tokens.
    pub tokens: Range<usize>,
    /// Its blocks.
    pub blocks: Range<usize>,
}

impl LaneSpan {
    /// Whether the lane has no rows: it takes no part in any sum.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
}

/// Whether rows must have labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Every row needs one: the rows are trained on.
    Required,
    /// Rows may lack one: they are predicted.
    Optional,
}

/// Why a row cannot be computed; names the row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// There is no such row.
    #[error("row {row} does not exist: the split has {rows} rows")]
    Missing {
        /// The row.
        row: RowId,
        /// Rows of the split.
        rows: usize,
    },
    /// The row has no tokens.
    #[error("row {row} has no tokens; expected at least [CLS] and [SEP]")]
    Empty {
        /// The row.
        row: RowId,
    },
    /// The row is longer than the model's position embedding.
    #[error("row {row} has {tokens} tokens; the model has positions for {positions}: lower max_seq_length")]
    TooLong {
        /// The row.
        row: RowId,
        /// Its tokens.
        tokens: usize,
        /// Positions of the model.
        positions: u32,
    },
    /// A token id lies outside the vocabulary.
    #[error("row {row}: token id {token} at place {place}; the model's vocabulary has {vocabulary} words")]
    Token {
        /// The row.
        row: RowId,
        /// The token id.
        token: u32,
        /// Its place in the row.
        place: usize,
        /// Words of the model.
        vocabulary: u32,
    },
    /// A token's segment lies outside the token-type embedding.
    #[error("row {row}: {first_segment} of its {tokens} tokens are of segment 0; the model has {types} token types")]
    Segment {
        /// The row.
        row: RowId,
        /// Tokens of segment 0.
        first_segment: u32,
        /// Its tokens.
        tokens: usize,
        /// Token types of the model.
        types: u32,
    },
    /// A label lies outside the classifier.
    #[error("row {row}: label {label}; the model has {labels} labels")]
    Label {
        /// The row.
        row: RowId,
        /// Its label.
        label: u32,
        /// Labels of the model.
        labels: u32,
    },
    /// A row to train on has no label.
    #[error("row {row} has no label: it cannot be trained on")]
    Unlabelled {
        /// The row.
        row: RowId,
    },
}

/// The rows of one split, and the model that must be able to take them.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// All rows of the split, by row id.
    pub examples: &'a [Example],
    /// Whether labels are needed.
    pub labels: Labels,
}

impl Source<'_> {
    /// The example of `row`, if the model can compute it.
    ///
    /// # Errors
    /// The first thing about it that does not fit.
    pub fn example(&self, row: RowId) -> Result<&Example, RowError> {
        let rows = self.examples.len();
        let example = self.examples.get(row.0 as usize).ok_or(RowError::Missing { row, rows })?;
        let (model, tokens) = (self.model, example.len());
        if tokens == 0 {
            return Err(RowError::Empty { row });
        }
        if tokens > model.max_tokens() as usize {
            return Err(RowError::TooLong { row, tokens, positions: model.max_tokens() });
        }
        let vocabulary = model.vocab_size;
        if let Some(place) = example.tokens.iter().position(|token| *token >= vocabulary) {
            return Err(RowError::Token { row, token: example.tokens[place], place, vocabulary });
        }
        let (first_segment, types) = (example.first_segment, model.type_vocab_size);
        if first_segment as usize > tokens || (types < 2 && (first_segment as usize) < tokens) {
            return Err(RowError::Segment { row, first_segment, tokens, types });
        }
        match example.label {
            Some(label) if label >= model.num_labels => Err(RowError::Label { row, label, labels: model.num_labels }),
            None if self.labels == Labels::Required => Err(RowError::Unlabelled { row }),
            _ => Ok(example),
        }
    }
}

impl Batch {
    /// Packs `lanes`, the first of which is lane `first_lane`.
    ///
    /// # Errors
    /// The first row that the model cannot compute.
    pub fn pack<'r>(lanes: impl IntoIterator<Item = (u32, &'r [RowId])>, source: Source<'_>) -> Result<Self, RowError> {
        let mut batch = Self { offsets: vec![0], ..Self::default() };
        for (lane, rows) in lanes {
            let (sequence, token) = (batch.rows.len(), batch.tokens.len());
            for row in rows {
                batch.push(*row, source.example(*row)?);
            }
            batch.loss_lanes.resize(batch.rows.len(), lane);
            batch.push_lane(lane, sequence..batch.rows.len(), token..batch.tokens.len());
        }
        Ok(batch)
    }

    fn push(&mut self, row: RowId, example: &Example) {
        let sequence = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        for (position, token) in (0..).zip(&example.tokens) {
            self.tokens.push(*token);
            self.positions.push(position);
            self.segments.push(u32::from(position >= example.first_segment));
            self.sequences.push(sequence);
        }
        self.rows.push(row);
        self.labels.push(example.label);
        self.offsets.push(self.tokens.len());
    }

    /// The batch of each sequence's first token alone.
    ///
    /// A classifier reads nothing else of the last layer, so what that layer does to the other tokens need not be
    /// computed.
    #[must_use]
    pub fn first_tokens(&self) -> Self {
        let count = self.rows.len();
        let firsts = &self.offsets[..count];
        let mut batch = Self {
            rows: self.rows.clone(),
            loss_lanes: self.loss_lanes.clone(),
            offsets: (0..=count).collect(),
            labels: self.labels.clone(),
            tokens: firsts.iter().map(|token| self.tokens[*token]).collect(),
            positions: vec![0; count],
            segments: firsts.iter().map(|token| self.segments[*token]).collect(),
            sequences: firsts.iter().map(|token| self.sequences[*token]).collect(),
            is_padded: self.is_padded,
            ..Self::default()
        };
        for span in &self.lanes {
            batch.push_lane(span.lane, span.sequences.clone(), span.sequences.clone());
        }
        batch
    }

    fn push_lane(&mut self, lane: u32, sequences: Range<usize>, tokens: Range<usize>) {
        let first_block = self.blocks.len();
        let blocks = tokens.clone().step_by(BLOCK_TOKENS);
        self.blocks.extend(blocks.map(|block| block..(block + BLOCK_TOKENS).min(tokens.end)));
        self.lanes.push(LaneSpan { lane, sequences, tokens, blocks: first_block..self.blocks.len() });
    }

    /// The tokens of `sequence`.
    #[must_use]
    pub fn sequence(&self, sequence: usize) -> Range<usize> {
        self.offsets[sequence]..self.offsets[sequence + 1]
    }
}

#[cfg(test)]
mod tests {
    use medley_common::model::Family;

    use super::*;

    fn model() -> ModelConfig {
        ModelConfig {
            family: Family::Bert,
            vocab_size: 10,
            hidden_size: 4,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            intermediate_size: 4,
            max_position_embeddings: 40,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: 0.0,
            initializer_range: 0.02,
            num_labels: 3,
        }
    }

    fn example(tokens: usize) -> Example {
        Example { tokens: vec![1; tokens], first_segment: 1, label: Some(2) }
    }

    #[test]
    fn lanes_and_blocks_tile_the_tokens() {
        let examples = [example(40), example(3), example(5)];
        let source = Source { model: &model(), examples: &examples, labels: Labels::Required };
        let lanes = [vec![RowId(0), RowId(2)], vec![], vec![RowId(1)]];
        let lanes = (4..).zip(lanes.iter().map(Vec::as_slice));
        let batch = Batch::pack(lanes, source).unwrap();
        assert_eq!(batch.blocks, [0..32, 32..45, 45..48]);
        assert_eq!(batch.offsets, [0, 40, 45, 48]);
        let spans: Vec<_> = batch.lanes.iter().map(|span| (span.lane, span.tokens.clone())).collect();
        assert_eq!(spans, [(4, 0..45), (5, 45..45), (6, 45..48)]);
        assert!(batch.lanes[1].is_empty() && batch.lanes[1].blocks.is_empty());
        assert_eq!(batch.positions[40..46], [0, 1, 2, 3, 4, 0]);
        assert_eq!(batch.segments[40..46], [0, 1, 1, 1, 1, 0]);
        assert_eq!(batch.sequences[39..46], [0, 1, 1, 1, 1, 1, 2]);
        assert_eq!(batch.loss_lanes, [4, 4, 6]);

        let firsts = batch.first_tokens();
        assert_eq!((firsts.offsets, firsts.sequences), (vec![0, 1, 2, 3], vec![0, 1, 2]));
        assert_eq!((firsts.rows, firsts.positions), (batch.rows, vec![0; 3]));
        assert_eq!(firsts.loss_lanes, batch.loss_lanes);
        assert_eq!(firsts.blocks, [0..2, 2..3]);
        let spans: Vec<_> = firsts.lanes.iter().map(|span| (span.lane, span.tokens.clone())).collect();
        assert_eq!(spans, [(4, 0..2), (5, 2..2), (6, 2..3)]);
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let check = |change: &dyn Fn(&mut Example), labels| {
            let mut examples = [example(4)];
            change(&mut examples[0]);
            let source = Source { model: &model(), examples: &examples, labels };
            source.example(RowId(0)).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(check(&|_| (), Labels::Required), Ok(()));
        assert_eq!(check(&|row| row.label = None, Labels::Optional), Ok(()));
        for (change, problem) in [
            (&(|row: &mut Example| row.tokens[3] = 10) as &dyn Fn(&mut Example), "token id 10 at place 3"),
            (&|row| row.tokens.clear(), "row 0 has no tokens"),
            (&|row| row.tokens = vec![0; 41], "41 tokens; the model has positions for 40"),
            (&|row| row.first_segment = 5, "5 of its 4 tokens"),
            (&|row| row.label = Some(3), "label 3"),
            (&|row| row.label = None, "no label"),
        ] {
            let error = check(change, Labels::Required).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        let source = Source { model: &model(), examples: &[], labels: Labels::Optional };
        assert_eq!(source.example(RowId(7)), Err(RowError::Missing { row: RowId(7), rows: 0 }));
    }
}
