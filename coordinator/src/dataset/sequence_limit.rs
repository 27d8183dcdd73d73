//! How many tokens a row may have.

use crate::tokenizer::PairTokenizer;

/// Most tokens of an example, special tokens included; room for those of a pair and one token of each sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SequenceLimit(u32);

/// Why no row fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SequenceLimitError {
    /// There is no room for a pair.
    #[error("max_seq_length is {tokens}; expected at least {least}")]
    TooShort {
        /// The limit that results.
        tokens: u32,
        /// The special tokens and one token of each sentence.
        least: u32,
    },
}

impl SequenceLimit {
    /// The limit that was asked for, as far as the tokenizer and the model's positions allow: run_glue's rule.
    ///
    /// A caller that wants to tell the user compares [`tokens`](Self::tokens) with what was asked for.
    ///
    /// # Errors
    /// Less remains than a sentence pair can be cut to without losing a sentence.
    pub fn new(asked_tokens: u32, tokenizer: &PairTokenizer, max_tokens: u32) -> Result<Self, SequenceLimitError> {
        let allowed = tokenizer.model_max_length().unwrap_or(u32::MAX).min(max_tokens);
        let (tokens, least) = (asked_tokens.min(allowed), tokenizer.vocabulary().special_tokens(true) + 2);
        if tokens < least {
            return Err(SequenceLimitError::TooShort { tokens, least });
        }
        Ok(Self(tokens))
    }

    /// The limit in tokens.
    #[must_use]
    pub fn tokens(self) -> u32 {
        self.0
    }
}
