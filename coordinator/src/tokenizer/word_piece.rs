//! WordPiece, the vocabulary of BERT and ELECTRA: one token a line.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{Normalizer, NormalizerWrapper, Tokenizer};

use super::settings::{Casing, TokenizerSettings};
use super::{TokenizerError, TokenizerWarning};

/// The vocabulary, one token a line.
pub const VOCABULARY_FILE: &str = "vocab.txt";

/// Puts the settings into a tokenizer; tells what is odd about the result.
pub(super) fn adjust(inner: &mut Tokenizer, settings: &TokenizerSettings) -> Result<Vec<TokenizerWarning>, String> {
    let overridden = override_normalizer(inner, settings)?;
    let overridden = overridden.map(|casing| TokenizerWarning::NormalizerOverridden { casing });
    let unreachable = unreachable_tokens(inner).map(|tokens| TokenizerWarning::LowerCasedVocabulary { tokens });
    Ok(overridden.into_iter().chain(unreachable).collect())
}

/// The `tokenizer.json` of a vocabulary: what transformers' `BertConverter` makes of `vocab.txt`.
pub(super) fn document(path: &Path, lines: &[String], settings: &TokenizerSettings) -> Result<Value, TokenizerError> {
    // A repeated token takes the later line's id, as in Python's dictionary.
    let vocabulary: Map<String, Value> =
        lines.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = &settings.special;
    let added = special.added(path, &vocabulary)?;
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
    if same || !settings.rules_tokenizer {
        return Ok(None);
    }
    inner.with_normalizer(Some(NormalizerWrapper::BertNormalizer(wanted))).map_err(|error| error.to_string())?;
    Ok(Some(settings.casing))
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
