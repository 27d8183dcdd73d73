//! BERT's WordPiece tokenizer, as a model folder carries it.
//!
//! The splitting is the tokenizers crate's; this module decides what a folder's files mean, as Hugging Face's
//! `BertTokenizerFast` does, and checks that they fit a sentence-pair model.

pub mod export;
pub mod learning;
pub mod settings;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{ModelWrapper, Normalizer, NormalizerWrapper, Tokenizer};

use crate::bounded_file::{FileError, read_text};
use settings::{Casing, TokenizerSettings};

/// The most bytes a vocabulary or `tokenizer.json` may have.
const VOCABULARY_LIMIT_BYTES: u64 = 128 << 20;

/// The self-contained form.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The vocabulary, one token a line.
pub const VOCABULARY_FILE: &str = "vocab.txt";

/// A WordPiece tokenizer without truncation or padding of its own.
#[derive(Debug, Clone)]
pub struct WordPieceTokenizer {
    inner: Tokenizer,
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
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no tokenizer.
    #[error("{} has neither tokenizer.json nor vocab.txt; copy them from the model's repository", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// The tokenizers crate refuses the file.
    #[error("{} is not a tokenizer: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its reason.
        reason: String,
    },
    /// Not a BERT tokenizer.
    #[error("{} holds a {found} model; expected WordPiece", path.display())]
    NotWordPiece {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Special tokens are not in the vocabulary.
    #[error("the vocabulary of {} lacks {}", path.display(), tokens.join(", "))]
    SpecialTokens {
        /// The file.
        path: PathBuf,
        /// The missing tokens.
        tokens: Vec<String>,
    },
    /// Pairs would not come out as BERT expects them.
    #[error("{} does not frame a pair as [CLS] A [SEP] B [SEP] with segments 0 and 1", path.display())]
    Template {
        /// The file.
        path: PathBuf,
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

impl WordPieceTokenizer {
    /// Loads the tokenizer of a model folder: `tokenizer.json`, else `vocab.txt`, with `tokenizer_config.json` if
    /// there is one. `casing` overrides what the files say about lower-casing.
    ///
    /// # Errors
    /// The files are missing, malformed, or not those of a BERT tokenizer.
    pub fn load(folder: &Path, casing: Option<Casing>) -> Result<Self, TokenizerError> {
        let mut settings = TokenizerSettings::load(folder)?;
        if let Some(casing) = casing {
            settings.force_casing(casing);
        }
        let (json, vocabulary) = (folder.join(TOKENIZER_FILE), folder.join(VOCABULARY_FILE));
        if json.exists() {
            let text = read_text(&json, VOCABULARY_LIMIT_BYTES)?;
            Self::from_json(&json, &text, settings)
        } else if vocabulary.exists() {
            let text = read_text(&vocabulary, VOCABULARY_LIMIT_BYTES)?;
            let lines = text.lines().map(str::to_owned).collect::<Vec<_>>();
            Self::build(&vocabulary, &lines, settings)
        } else {
            Err(TokenizerError::Missing { folder: folder.into() })
        }
    }

    /// The tokenizer of a vocabulary, token `i` on line `i`, under `settings`.
    ///
    /// # Errors
    /// Special tokens are missing.
    pub fn from_vocabulary(lines: &[String], settings: TokenizerSettings) -> Result<Self, TokenizerError> {
        Self::build(Path::new(VOCABULARY_FILE), lines, settings)
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

    fn build(path: &Path, lines: &[String], settings: TokenizerSettings) -> Result<Self, TokenizerError> {
        let document = vocabulary_document(path, lines, &settings)?;
        Self::from_json(path, &document.to_string(), settings)
    }

    fn from_json(path: &Path, text: &str, settings: TokenizerSettings) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { path: path.into(), reason };
        let mut inner = Tokenizer::from_bytes(text.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        let found = match inner.get_model() {
            ModelWrapper::WordPiece(_) => None,
            ModelWrapper::BPE(_) => Some("BPE"),
            ModelWrapper::Unigram(_) => Some("Unigram"),
            ModelWrapper::WordLevel(_) => Some("WordLevel"),
        };
        if let Some(found) = found {
            return Err(TokenizerError::NotWordPiece { path: path.into(), found });
        }
        // Published files carry the state of their last use.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        let special = special_ids(path, &inner, &settings)?;
        let mut warnings = Vec::new();
        if let Some(casing) = override_normalizer(&mut inner, &settings).map_err(invalid)? {
            warnings.push(TokenizerWarning::NormalizerOverridden { casing });
        }
        if let Some(token) = undefined_token(text) {
            return Err(invalid(format!("its template has {token:?}, which its special_tokens lack")));
        }
        check_template(path, &inner, special)?;
        if let Some(tokens) = unreachable_tokens(&inner) {
            warnings.push(TokenizerWarning::LowerCasedVocabulary { tokens });
        }
        let tokens = inner.get_vocab(true).into_values().max().map_or(0, |highest| highest.saturating_add(1));
        Ok(Self { inner, settings, special, tokens, warnings })
    }
}

/// The `tokenizer.json` of a vocabulary: what transformers' `BertConverter` makes of `vocab.txt`.
fn vocabulary_document(path: &Path, lines: &[String], settings: &TokenizerSettings) -> Result<Value, TokenizerError> {
    // A repeated token takes the later line's id, as in Python's dictionary.
    let vocabulary: Map<String, Value> =
        lines.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = &settings.special;
    let missing: Vec<String> =
        special.needed().into_iter().filter(|token| !vocabulary.contains_key(*token)).map(str::to_owned).collect();
    if !missing.is_empty() {
        return Err(TokenizerError::SpecialTokens { path: path.into(), tokens: missing });
    }
    let added: Vec<Value> = special
        .all()
        .into_iter()
        .filter_map(|token| vocabulary.get(token).map(|id| (token, id)))
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let piece = |token: &str, segment: u32| json!({"SpecialToken": {"id": token, "type_id": segment}});
    let sentence = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let (cls, sep) = (special.cls.as_str(), special.sep.as_str());
    let described = |token: &str| json!({"id": token, "ids": [vocabulary[token]], "tokens": [token]});
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "strip_accents": settings.strip_accents,
                       "handle_chinese_chars": settings.tokenize_chinese_chars,
                       "lowercase": settings.casing == Casing::Lower},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [piece(cls, 0), sentence("A", 0), piece(sep, 0)],
            "pair": [piece(cls, 0), sentence("A", 0), piece(sep, 0), sentence("B", 1), piece(sep, 1)],
            "special_tokens": {cls: described(cls), sep: described(sep)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": special.unk, "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    }))
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

/// Puts the settings' casing into a BERT normaliser, as `BertTokenizerFast` does on loading; tells what changed.
fn override_normalizer(inner: &mut Tokenizer, settings: &TokenizerSettings) -> Result<Option<Casing>, String> {
    let Some(NormalizerWrapper::BertNormalizer(current)) = inner.get_normalizer() else {
        return Ok(None);
    };
    let mut wanted = *current;
    wanted.lowercase = settings.casing == Casing::Lower;
    wanted.strip_accents = settings.strip_accents;
    wanted.handle_chinese_chars = settings.tokenize_chinese_chars;
    let same = wanted.lowercase == current.lowercase
        && wanted.strip_accents == current.strip_accents
        && wanted.handle_chinese_chars == current.handle_chinese_chars;
    if same || !settings.rules_normalizer {
        return Ok(None);
    }
    inner.with_normalizer(Some(NormalizerWrapper::BertNormalizer(wanted))).map_err(|error| error.to_string())?;
    Ok(Some(settings.casing))
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

/// Examples are framed by this crate; the file must agree, or the model was trained otherwise.
fn check_template(path: &Path, inner: &Tokenizer, special: SpecialIds) -> Result<(), TokenizerError> {
    let framed = inner.encode(("", ""), true).ok().is_some_and(|pair| {
        pair.get_ids() == [special.cls, special.sep, special.sep] && pair.get_type_ids() == [0, 0, 1]
    });
    if framed { Ok(()) } else { Err(TokenizerError::Template { path: path.into() }) }
}

/// Tokens with letters that the normaliser never leaves, special tokens aside; `None` if there are none.
fn unreachable_tokens(inner: &Tokenizer) -> Option<usize> {
    let normalizer = inner.get_normalizer()?;
    let mut probe = tokenizers::NormalizedString::from("A");
    normalizer.normalize(&mut probe).ok()?;
    if probe.get() != "a" {
        return None;
    }
    let added = inner.get_added_vocabulary();
    let bracketed = |token: &str| token.starts_with('[') && token.ends_with(']');
    let upper = |token: &String| {
        let ordinary = !bracketed(token) && !added.is_special_token(token);
        ordinary && token.to_lowercase() != *token
    };
    Some(inner.get_vocab(false).into_keys().filter(upper).count()).filter(|count| *count > 0)
}

#[cfg(test)]
#[path = "tokenizer_test.rs"]
mod tests;

#[cfg(test)]
mod garbage_test;
