//! A WordPiece tokenizer's files, as transformers' `AutoTokenizer` reads them.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::settings::{Casing, SETTINGS_FILE, SPECIAL_TOKENS_FILE};
use super::{PairTokenizer, TOKENIZER_FILE, TokenizerError, VOCABULARY_FILE};

/// Fields of the machine that saved the file last.
const LOCAL_FIELDS: [&str; 4] = ["name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file"];

impl PairTokenizer {
    /// Writes `tokenizer.json`, `vocab.txt`, `tokenizer_config.json` and `special_tokens_map.json` of a WordPiece vocabulary
    /// into `folder`, which exists; `model_max_length` is the model's, in tokens.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path, model_max_length: u32) -> Result<(), TokenizerError> {
        let names = &self.settings.special;
        let special = json!({
            "pad_token": names.pad, "unk_token": names.unk, "cls_token": names.cls, "sep_token": names.sep,
            "mask_token": names.mask,
        });
        let mut settings = self.settings.raw.clone();
        LOCAL_FIELDS.iter().for_each(|field| drop(settings.remove(*field)));
        settings.extend(special.as_object().cloned().unwrap_or_default());
        settings.extend(Map::from_iter([
            // Without the class AutoTokenizer would look for it in the model's config.json.
            ("tokenizer_class".to_owned(), json!("BertTokenizer")),
            ("do_lower_case".to_owned(), json!(self.settings.casing == Casing::Lower)),
            ("strip_accents".to_owned(), json!(self.settings.strip_accents)),
            ("tokenize_chinese_chars".to_owned(), json!(self.settings.tokenize_chinese_chars)),
            ("model_max_length".to_owned(), json!(model_max_length)),
        ]));
        let tokenizer = self
            .inner
            .to_string(true)
            .map_err(|error| TokenizerError::Write { path: folder.join(TOKENIZER_FILE), reason: error.to_string() })?;
        write(folder, TOKENIZER_FILE, &tokenizer)?;
        write(folder, VOCABULARY_FILE, &self.vocabulary_lines())?;
        write(folder, SETTINGS_FILE, &format!("{:#}\n", Value::Object(settings)))?;
        write(folder, SPECIAL_TOKENS_FILE, &format!("{special:#}\n"))
    }

    /// One token a line, by id; an id without a token gets a name that no text can contain.
    fn vocabulary_lines(&self) -> String {
        let token = |id| self.inner.id_to_token(id).unwrap_or_else(|| format!("[unused id {id}]"));
        (0..self.tokens).map(|id| token(id) + "\n").collect()
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), TokenizerError> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(|error| TokenizerError::Write { path, reason: error.to_string() })
}
