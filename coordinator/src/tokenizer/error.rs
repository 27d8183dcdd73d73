//! Why a tokenizer cannot be used, and what is odd about one that can.

use std::path::PathBuf;

use super::settings::Casing;
use crate::bounded_file::FileError;

/// What a user should know about a tokenizer that works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerWarning {
    /// Text is lower-cased, though the vocabulary has upper-case entries.
    #[error(
        "text is lower-cased, but {tokens} tokens of the vocabulary have upper-case letters and can never occur; \
         a cased model needs \"do_lower_case\": false in tokenizer_config.json"
    )]
    LowerCasedVocabulary {
        /// How many such tokens there are.
        tokens: usize,
    },
    /// `tokenizer_config.json`, or its defaults, change what `tokenizer.json` says; Hugging Face does the same.
    #[error("tokenizer_config.json overrides the normaliser of tokenizer.json (lower-casing: {casing})")]
    NormalizerOverridden {
        /// What happens to letters now.
        casing: Casing,
    },
    /// The same of a space before the first word.
    #[error("tokenizer_config.json overrides add_prefix_space of tokenizer.json: it is {added} now")]
    PrefixSpaceOverridden {
        /// Whether a space is put before a sentence.
        added: bool,
    },
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no tokenizer.
    #[error("{} has neither tokenizer.json nor {files}; copy them from the model's repository", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The files that would do as well.
        files: String,
    },
    /// The tokenizers crate refuses the file.
    #[error("{} is not a tokenizer: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its reason.
        reason: String,
    },
    /// Not the tokenizer of the model's family.
    #[error("{} holds a {found} model; expected {expected}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What the family has.
        expected: &'static str,
    },
    /// Special tokens are not in the vocabulary.
    #[error("the vocabulary of {} lacks {}", path.display(), tokens.join(", "))]
    SpecialTokens {
        /// The file.
        path: PathBuf,
        /// The missing tokens.
        tokens: Vec<String>,
    },
    /// Pairs would not come out as the model expects them.
    #[error("{} does not frame a pair as {expected}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// How it should.
        expected: &'static str,
    },
    /// Ids would lie outside the word embedding.
    #[error(
        "the tokenizer has ids up to {highest}, but the model's vocab_size is {vocab_size}; they do not belong together"
    )]
    VocabularySize {
        /// The highest id.
        highest: u32,
        /// Rows of the word embedding.
        vocab_size: u32,
    },
    /// A setting cannot be understood.
    #[error("{}: {field} is {found}; expected {expected}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value, cut.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A sentence cannot be split. The sentence is not shown.
    #[error("the row of line {line} cannot be tokenised")]
    Row {
        /// The line in its file.
        line: u64,
    },
    /// A vocabulary cannot be as small as asked for.
    #[error("a vocabulary of {size} tokens cannot hold the {least} special tokens and characters of these texts")]
    TooSmall {
        /// What was asked for.
        size: u32,
        /// What is needed before a single word.
        least: usize,
    },
    /// There is nothing to learn from.
    #[error("the texts hold no word; expected sentences to learn a vocabulary from")]
    NoWords,
    /// A file cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}
