//! Byte-level byte-pair encoding (Radford et al., 2019), the vocabulary of RoBERTa: tokens with their ids, and the merges that
//! make them, in their order.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use super::settings::TokenizerSettings;
use super::{TokenizerError, TokenizerWarning};

/// The tokens with their ids, a JSON object.
pub const TOKENS_FILE: &str = "vocab.json";
/// The merges, two symbols a line.
pub const MERGES_FILE: &str = "merges.txt";

/// The `tokenizer.json` of tokens and merges: what transformers' `RobertaConverter` makes of the two files.
pub(super) fn document(
    folder: &Path,
    (tokens, merges): (&Map<String, Value>, &str),
    settings: &TokenizerSettings,
) -> Result<Value, TokenizerError> {
    let special = &settings.special;
    let added = special.added(&folder.join(TOKENS_FILE), tokens)?;
    let merges = read_merges(&folder.join(MERGES_FILE), merges)?;
    let space = settings.add_prefix_space;
    let described = |token: &str| json!([token, tokens[token]]);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": described(&special.sep), "cls": described(&special.cls),
                           "trim_offsets": true, "add_prefix_space": space},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": tokens, "merges": merges},
    }))
}

fn read_merges<'t>(path: &Path, text: &'t str) -> Result<Vec<[&'t str; 2]>, TokenizerError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    lines
        .map(|(number, line)| match line.split(' ').collect::<Vec<_>>()[..] {
            [left, right] if !left.is_empty() && !right.is_empty() => Ok([left, right]),
            _ => {
                let found: String = line.chars().take(40).collect();
                let reason = format!("line {} is {found:?}; expected two symbols", number + 1);
                Err(TokenizerError::Invalid { path: path.into(), reason })
            }
        })
        .collect()
}

/// Puts the settings' space before the first word into a tokenizer, as `RobertaTokenizerFast` does on loading.
pub(super) fn adjust(inner: &mut Tokenizer, settings: &TokenizerSettings) -> Vec<TokenizerWarning> {
    let Some(PreTokenizerWrapper::ByteLevel(current)) = inner.get_pre_tokenizer() else { return Vec::new() };
    let added = settings.add_prefix_space;
    if current.add_prefix_space == added || !settings.rules_tokenizer {
        return Vec::new();
    }
    let wanted = ByteLevel::new(added, current.trim_offsets, current.use_regex);
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(wanted)));
    vec![TokenizerWarning::PrefixSpaceOverridden { added }]
}
