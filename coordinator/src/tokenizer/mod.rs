//! A model's tokenizer, as its folder carries it.
//!
//! The splitting is the tokenizers crate's; this module decides what a folder's files mean, as Hugging Face's
//! `BertTokenizerFast` and `RobertaTokenizerFast` do, and checks that they fit a sentence-pair model. What kinds of
//! vocabularies there are is in [`vocabulary`], a file each.

mod byte_pairs;
mod error;
pub mod export;
pub mod learning;
pub mod settings;
pub mod vocabulary;
mod word_piece;

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::bounded_file::read_text;
use settings::{Casing, SETTINGS_FILE, SPECIAL_TOKENS_FILE, TokenizerSettings};

pub use byte_pairs::{MERGES_FILE, TOKENS_FILE};
pub use error::{TokenizerError, TokenizerWarning};
pub use vocabulary::Vocabulary;
pub use word_piece::VOCABULARY_FILE;

/// The most bytes a vocabulary or `tokenizer.json` may have.
const VOCABULARY_LIMIT_BYTES: u64 = 128 << 20;

/// The self-contained form.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// All files of tokenizers that are read.
pub const FILES: [&str; 6] =
    [TOKENIZER_FILE, SETTINGS_FILE, VOCABULARY_FILE, TOKENS_FILE, MERGES_FILE, SPECIAL_TOKENS_FILE];

/// A tokenizer of sentence pairs, without truncation or padding of its own.
#[derive(Debug, Clone)]
pub struct PairTokenizer {
    inner: Tokenizer,
    vocabulary: Vocabulary,
    settings: TokenizerSettings,
    special: SpecialIds,
    tokens: u32,
    warnings: Vec<TokenizerWarning>,
}

/// The ids of the special tokens that examples are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// Fills a batch up.
    pub pad: u32,
    /// Stands for a word that the vocabulary cannot spell.
    pub unk: u32,
    /// Opens an example.
    pub cls: u32,
    /// Closes a sentence.
    pub sep: u32,
}

impl PairTokenizer {
    /// Loads the tokenizer of a model folder: `tokenizer.json`, else the files of the `vocabulary`, with
    /// `tokenizer_config.json` if there is one. `casing` overrides what the files say about lower-casing.
    ///
    /// # Errors
    /// The files are missing, malformed, or not those of a tokenizer of this kind.
    pub fn load(folder: &Path, vocabulary: Vocabulary, casing: Option<Casing>) -> Result<Self, TokenizerError> {
        let mut settings = TokenizerSettings::load(folder, vocabulary)?;
        if let Some(casing) = casing {
            settings.force_casing(casing);
        }
        let (json, files) = (folder.join(TOKENIZER_FILE), vocabulary.files());
        if json.exists() {
            let text = read_text(&json, VOCABULARY_LIMIT_BYTES)?;
            Self::from_json(&json, &text, (vocabulary, settings))
        } else if files.iter().all(|file| folder.join(file).exists()) {
            let document = vocabulary.document(folder, &settings)?;
            Self::from_json(&folder.join(files[0]), &document.to_string(), (vocabulary, settings))
        } else {
            Err(TokenizerError::Missing { folder: folder.into(), files: files.join(" and ") })
        }
    }

    /// The tokenizer of a WordPiece vocabulary, token `i` on line `i`, under `settings`.
    ///
    /// # Errors
    /// Special tokens are missing.
    pub fn from_word_pieces(lines: &[String], settings: TokenizerSettings) -> Result<Self, TokenizerError> {
        let path = Path::new(VOCABULARY_FILE);
        let document = word_piece::document(path, lines, &settings)?;
        Self::from_json(path, &document.to_string(), (Vocabulary::WordPiece, settings))
    }

    /// The kind of its vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> Vocabulary {
        self.vocabulary
    }

    /// The ids of the special tokens.
    #[must_use]
    pub fn special_ids(&self) -> SpecialIds {
        self.special
    }

    /// The highest id plus one.
    #[must_use]
    pub fn token_count(&self) -> u32 {
        self.tokens
    }

    /// The longest sequence that the tokenizer's settings allow, where they say a sensible number of tokens.
    #[must_use]
    pub fn model_max_length(&self) -> Option<u32> {
        self.settings.model_max_length
    }

    /// What the user should know.
    #[must_use]
    pub fn warnings(&self) -> &[TokenizerWarning] {
        &self.warnings
    }

    /// Checks that every id has a row in the model's word embedding; the embedding may have more rows.
    ///
    /// # Errors
    /// Ids of `vocab_size` or more.
    pub fn check_fits(&self, vocab_size: u32) -> Result<(), TokenizerError> {
        match self.tokens.checked_sub(1) {
            Some(highest) if highest >= vocab_size => Err(TokenizerError::VocabularySize { highest, vocab_size }),
            _ => Ok(()),
        }
    }

    /// The token ids of one sentence, uncut and without special tokens; `line` is only for the error.
    ///
    /// # Errors
    /// The tokenizers crate fails, which it never does with a checked vocabulary.
    pub fn pieces(&self, sentence: &str, line: u64) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(sentence, false).map_err(|_| TokenizerError::Row { line })?;
        Ok(encoding.get_ids().to_vec())
    }

    fn from_json(
        path: &Path,
        text: &str,
        (vocabulary, settings): (Vocabulary, TokenizerSettings),
    ) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { path: path.into(), reason };
        let mut inner = Tokenizer::from_bytes(text.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        // Published files carry the state of their last use.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        let warnings = vocabulary.adjust(path, &mut inner, &settings)?;
        let special = special_ids(path, &inner, &settings)?;
        if let Some(token) = undefined_token(text) {
            return Err(invalid(format!("its template has {token:?}, which its special_tokens lack")));
        }
        vocabulary.check_template(path, &inner, special)?;
        let tokens = inner.get_vocab(true).into_values().max().map_or(0, |highest| highest.saturating_add(1));
        Ok(Self { inner, vocabulary, settings, special, tokens, warnings })
    }
}

fn special_ids(path: &Path, inner: &Tokenizer, settings: &TokenizerSettings) -> Result<SpecialIds, TokenizerError> {
    let lookup = |token: &str| inner.token_to_id(token);
    let names = &settings.special;
    match (lookup(&names.pad), lookup(&names.unk), lookup(&names.cls), lookup(&names.sep)) {
        (Some(pad), Some(unk), Some(cls), Some(sep)) => Ok(SpecialIds { pad, unk, cls, sep }),
        _ => {
            let missing = names.needed().into_iter().filter(|token| lookup(token).is_none());
            Err(TokenizerError::SpecialTokens { path: path.into(), tokens: missing.map(str::to_owned).collect() })
        }
    }
}

/// A token of the template that the file does not define: the tokenizers crate would panic over it.
fn undefined_token(text: &str) -> Option<String> {
    fn of(processor: &Value) -> Option<String> {
        if let Some(processors) = processor["processors"].as_array() {
            return processors.iter().find_map(of);
        }
        let is_defined = |id: &&str| processor["special_tokens"].get(id).is_some();
        let pieces = ["single", "pair"].into_iter().filter_map(|name| processor[name].as_array()).flatten();
        let mut named = pieces.filter_map(|piece| piece["SpecialToken"]["id"].as_str());
        named.find(|id| !is_defined(id)).map(str::to_owned)
    }
    of(&serde_json::from_str::<Value>(text).ok()?["post_processor"])
}

#[cfg(test)]
#[path = "tokenizer_test.rs"]
mod tests;

#[cfg(test)]
mod garbage_test;
