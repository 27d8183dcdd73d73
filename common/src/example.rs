//! One row of a data set, tokenised.

/// The token ids of one sentence or sentence pair, special tokens included, never padded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Example {
    /// Token ids, `[CLS] sentence1 [SEP] sentence2 [SEP]` or `[CLS] sentence [SEP]`.
    pub tokens: Vec<u32>,
    /// How many of `tokens` belong to segment 0; the rest are segment 1.
    pub first_segment: u32,
    /// The index of the label; `None` where the file has none.
    pub label: Option<u32>,
}

impl Example {
    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token at all; a valid example has at least `[CLS]` and `[SEP]`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
