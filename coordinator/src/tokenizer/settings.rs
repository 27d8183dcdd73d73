//! What `tokenizer_config.json` says, with Hugging Face's defaults for what it does not.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{TokenizerError, Vocabulary};
use crate::bounded_file::read_object_if_present;

/// The settings' file.
pub const SETTINGS_FILE: &str = "tokenizer_config.json";
/// The older place of the special tokens' names.
pub const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

/// Above this, `model_max_length` is one of the placeholders that mean "no limit" (Hugging Face writes 1e30).
const MODEL_MAX_LENGTH_BOUND: u64 = 1 << 20;

/// What happens to letters before they are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Casing {
    /// They are lower-cased.
    Lower,
    /// They stay as they are.
    Keep,
}

/// How a tokenizer treats text. Each kind of vocabulary heeds its own settings.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerSettings {
    /// Whether text is lower-cased.
    pub casing: Casing,
    /// Whether accents are dropped; `None` drops them where text is lower-cased.
    pub strip_accents: Option<bool>,
    /// Whether every CJK ideograph is a word of its own.
    pub tokenize_chinese_chars: bool,
    /// Whether a space is put before a sentence, so that its first word is spelt like any other; byte pairs alone.
    pub add_prefix_space: bool,
    /// Names of the special tokens.
    pub special: SpecialTokens,
    /// Longest sequence in tokens, where the file says a sensible one.
    pub model_max_length: Option<u32>,
    /// Whether these settings go before those of `tokenizer.json`: the tokenizer's class is the family's own.
    pub(super) rules_tokenizer: bool,
    /// The file as it was, for an export that keeps what it does not know.
    pub(super) raw: Map<String, Value>,
}

/// Names of the special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Fills a batch up.
    pub pad: String,
    /// Stands for a word that the vocabulary cannot spell.
    pub unk: String,
    /// Opens an example.
    pub cls: String,
    /// Closes a sentence.
    pub sep: String,
    /// Hides a word in pre-training; a classifier never uses it.
    pub mask: String,
}

impl SpecialTokens {
    /// Those without which no example can be made.
    #[must_use]
    pub fn needed(&self) -> [&str; 4] {
        [&self.pad, &self.unk, &self.cls, &self.sep]
    }

    /// All of them, in the usual order of their ids.
    #[must_use]
    pub fn all(&self) -> [&str; 5] {
        [&self.pad, &self.unk, &self.cls, &self.sep, &self.mask]
    }

    /// Their entries in a `tokenizer.json`, by their ids in `vocabulary`.
    pub(super) fn added(&self, path: &Path, vocabulary: &Map<String, Value>) -> Result<Vec<Value>, TokenizerError> {
        let missing: Vec<String> =
            self.needed().into_iter().filter(|token| !vocabulary.contains_key(*token)).map(str::to_owned).collect();
        if !missing.is_empty() {
            return Err(TokenizerError::SpecialTokens { path: path.into(), tokens: missing });
        }
        let known = self.all().into_iter().filter_map(|token| vocabulary.get(token).map(|id| (token, id)));
        let entry = |(token, id): (&str, &Value)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        Ok(known.map(entry).collect())
    }
}

impl Default for TokenizerSettings {
    /// `BertTokenizer`'s own: lower-casing, `[PAD] [UNK] [CLS] [SEP] [MASK]`.
    fn default() -> Self {
        let [pad, unk, cls, sep, mask] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
        Self {
            casing: Casing::Lower,
            strip_accents: None,
            tokenize_chinese_chars: true,
            add_prefix_space: false,
            special: SpecialTokens { pad, unk, cls, sep, mask },
            model_max_length: None,
            rules_tokenizer: true,
            raw: Map::new(),
        }
    }
}

impl TokenizerSettings {
    /// Those of a kind of vocabulary, where a folder says nothing.
    #[must_use]
    pub fn of(vocabulary: Vocabulary) -> Self {
        match vocabulary {
            Vocabulary::WordPiece => Self::default(),
            Vocabulary::BytePairs => {
                let [pad, unk, cls, sep, mask] = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"].map(str::to_owned);
                let special = SpecialTokens { pad, unk, cls, sep, mask };
                Self { casing: Casing::Keep, special, ..Self::default() }
            }
        }
    }

    /// Reads a folder's settings; a folder without them has the defaults.
    ///
    /// # Errors
    /// A file cannot be read or a known field has an unknown kind of value.
    pub fn load(folder: &Path, vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let (path, names_path) = (folder.join(SETTINGS_FILE), folder.join(SPECIAL_TOKENS_FILE));
        let raw = read_object_if_present(&path)?.unwrap_or_default();
        let names = read_object_if_present(&names_path)?.unwrap_or_default();
        let defaults = Self::of(vocabulary);
        let name = |field, default: String| match token_name(&path, &raw, field)? {
            Some(name) => Ok(name),
            None => Ok::<_, TokenizerError>(token_name(&names_path, &names, field)?.unwrap_or(default)),
        };
        let lower = switch(&path, &raw, "do_lower_case")?.unwrap_or(defaults.casing == Casing::Lower);
        let class = raw.get("tokenizer_class").and_then(Value::as_str);
        let own_classes: &[&str] = match vocabulary {
            Vocabulary::WordPiece => &["BertTokenizer", "ElectraTokenizer"],
            Vocabulary::BytePairs => &["RobertaTokenizer"],
        };
        Ok(Self {
            casing: if lower { Casing::Lower } else { Casing::Keep },
            strip_accents: switch(&path, &raw, "strip_accents")?,
            tokenize_chinese_chars: switch(&path, &raw, "tokenize_chinese_chars")?
                .unwrap_or(defaults.tokenize_chinese_chars),
            add_prefix_space: switch(&path, &raw, "add_prefix_space")?.unwrap_or(defaults.add_prefix_space),
            special: SpecialTokens {
                pad: name("pad_token", defaults.special.pad)?,
                unk: name("unk_token", defaults.special.unk)?,
                cls: name("cls_token", defaults.special.cls)?,
                sep: name("sep_token", defaults.special.sep)?,
                mask: name("mask_token", defaults.special.mask)?,
            },
            model_max_length: raw
                .get("model_max_length")
                .and_then(Value::as_u64)
                .filter(|tokens| (1..=MODEL_MAX_LENGTH_BOUND).contains(tokens))
                .and_then(|tokens| u32::try_from(tokens).ok()),
            rules_tokenizer: class.is_none_or(|class| own_classes.iter().any(|own| class.starts_with(own))),
            raw,
        })
    }

    pub(super) fn force_casing(&mut self, casing: Casing) {
        self.casing = casing;
        self.rules_tokenizer = true;
    }
}

impl fmt::Display for Casing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lower => "on",
            Self::Keep => "off",
        })
    }
}

fn switch(path: &Path, raw: &Map<String, Value>, field: &'static str) -> Result<Option<bool>, TokenizerError> {
    match raw.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(*on)),
        Some(other) => Err(wrong(path, field, other, "true or false")),
    }
}

/// A token's name: a string, or an object with its `content`.
fn token_name(path: &Path, raw: &Map<String, Value>, field: &'static str) -> Result<Option<String>, TokenizerError> {
    let value = match raw.get(field) {
        Some(Value::Object(token)) => token.get("content"),
        value => value,
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if !name.is_empty() => Ok(Some(name.clone())),
        Some(other) => Err(wrong(path, field, other, "a token's name")),
    }
}

fn wrong(path: &Path, field: &'static str, found: &Value, expected: &'static str) -> TokenizerError {
    let found = found.to_string().chars().take(40).collect();
    TokenizerError::Setting { path: path.into(), field, found, expected }
}
