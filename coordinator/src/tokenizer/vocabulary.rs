//! Kinds of vocabularies, and how each frames a pair: what a family of models has, whatever file it lies in.

use std::path::Path;

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

use super::byte_pairs::{self, MERGES_FILE, TOKENS_FILE};
use super::settings::TokenizerSettings;
use super::word_piece::{self, VOCABULARY_FILE};
use super::{SpecialIds, TOKENIZER_FILE, TokenizerError, TokenizerWarning, VOCABULARY_LIMIT_BYTES};
use crate::bounded_file::{read_object, read_text};

/// A kind of vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary {
    /// `[CLS] A [SEP] B [SEP]`, in two segments.
    WordPiece,
    /// `<s> A </s></s> B </s>`, in one segment.
    BytePairs,
}

impl Vocabulary {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::WordPiece, Self::BytePairs];

    /// The files that hold it where there is no `tokenizer.json`.
    #[must_use]
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::WordPiece => &[VOCABULARY_FILE],
            Self::BytePairs => &[TOKENS_FILE, MERGES_FILE],
        }
    }

    /// Whether a place that `has` some files has a tokenizer of this kind.
    pub fn is_among(self, has: impl Fn(&str) -> bool) -> bool {
        has(TOKENIZER_FILE) || self.files().iter().all(|file| has(file))
    }

    /// Segments that a pair is cut into: the token types that a model needs.
    #[must_use]
    pub fn segments(self) -> u32 {
        match self {
            Self::WordPiece => 2,
            Self::BytePairs => 1,
        }
    }

    /// Special tokens between the two sentences.
    fn separators(self) -> u32 {
        match self {
            Self::WordPiece => 1,
            Self::BytePairs => 2,
        }
    }

    /// Special tokens of an example: of a pair, or of a single sentence.
    #[must_use]
    pub fn special_tokens(self, is_pair: bool) -> u32 {
        if is_pair { 2 + self.separators() } else { 2 }
    }

    /// The tokens of an example of one or two sentences, and how many of them are of the first segment.
    #[must_use]
    pub fn frame(self, special: SpecialIds, first: &[u32], second: Option<&[u32]>) -> (Vec<u32>, u32) {
        let texts = first.len() + second.map_or(0, <[u32]>::len);
        let mut tokens = Vec::with_capacity(texts + self.special_tokens(second.is_some()) as usize);
        tokens.push(special.cls);
        tokens.extend(first);
        tokens.push(special.sep);
        let mut first_segment = tokens.len();
        if let Some(second) = second {
            tokens.extend((1..self.separators()).map(|_| special.sep));
            tokens.extend(second);
            tokens.push(special.sep);
            first_segment = if self.segments() == 1 { tokens.len() } else { first_segment };
        }
        (tokens, u32::try_from(first_segment).unwrap_or(u32::MAX))
    }

    /// The `tokenizer.json` of the files that hold it in `folder`.
    pub(super) fn document(self, folder: &Path, settings: &TokenizerSettings) -> Result<Value, TokenizerError> {
        let text = |file| read_text(&folder.join(file), VOCABULARY_LIMIT_BYTES);
        match self {
            Self::WordPiece => {
                let lines: Vec<String> = text(VOCABULARY_FILE)?.lines().map(str::to_owned).collect();
                word_piece::document(&folder.join(VOCABULARY_FILE), &lines, settings)
            }
            Self::BytePairs => {
                let tokens = read_object(&folder.join(TOKENS_FILE))?;
                byte_pairs::document(folder, (&tokens, &text(MERGES_FILE)?), settings)
            }
        }
    }

    /// Checks that a tokenizer is of this kind and puts the settings into it; tells what is odd about the result.
    pub(super) fn adjust(
        self,
        path: &Path,
        inner: &mut Tokenizer,
        settings: &TokenizerSettings,
    ) -> Result<Vec<TokenizerWarning>, TokenizerError> {
        let (found, expected) = (model_name(inner), self.model());
        if found != expected {
            return Err(TokenizerError::OtherModel { path: path.into(), found, expected });
        }
        match self {
            Self::WordPiece => word_piece::adjust(inner, settings)
                .map_err(|reason| TokenizerError::Invalid { path: path.into(), reason }),
            Self::BytePairs => Ok(byte_pairs::adjust(inner, settings)),
        }
    }

    fn model(self) -> &'static str {
        match self {
            Self::WordPiece => "WordPiece",
            Self::BytePairs => "BPE",
        }
    }

    /// Examples are framed by this crate; the file must agree, or the model was trained otherwise.
    pub(super) fn check_template(
        self,
        path: &Path,
        inner: &Tokenizer,
        special: SpecialIds,
    ) -> Result<(), TokenizerError> {
        let (tokens, first_segment) = self.frame(special, &[], Some(&[]));
        let segments: Vec<u32> = (0..).take(tokens.len()).map(|place| u32::from(place >= first_segment)).collect();
        let pair = inner.encode(("", ""), true).ok();
        if pair.is_some_and(|pair| pair.get_ids() == tokens && pair.get_type_ids() == segments) {
            return Ok(());
        }
        let expected = match self {
            Self::WordPiece => "[CLS] A [SEP] B [SEP] with segments 0 and 1",
            Self::BytePairs => "<s> A </s></s> B </s> with segment 0 alone",
        };
        Err(TokenizerError::Template { path: path.into(), expected })
    }
}

fn model_name(inner: &Tokenizer) -> &'static str {
    match inner.get_model() {
        ModelWrapper::WordPiece(_) => "WordPiece",
        ModelWrapper::BPE(_) => "BPE",
        ModelWrapper::Unigram(_) => "Unigram",
        ModelWrapper::WordLevel(_) => "WordLevel",
    }
}
