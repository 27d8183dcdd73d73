//! What the files of a family of models mean: a file each.

use medley_common::model::Family;

use super::{Fields, ModelFolderError};
use crate::tokenizer::Vocabulary;

mod bert;
mod electra;
mod roberta;

/// How a family's folders look.
#[derive(Debug)]
pub(super) struct FamilyFiles {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// What a person may know it by.
    pub known_by: &'static str,
    /// What transformers calls it with a classifier.
    pub architecture: &'static str,
    /// The kind of its tokenizer's vocabulary.
    pub vocabulary: Vocabulary,
    /// Reads what it alone has.
    pub read: fn(&Fields<'_>) -> Result<Family, ModelFolderError>,
    /// The field of that, with its number.
    pub own_field: fn(Family) -> Option<(&'static str, u32)>,
}

/// All families; the first is that of a `config.json` that does not say.
static ALL: [&FamilyFiles; 3] = [&bert::FILES, &roberta::FILES, &electra::FILES];

impl FamilyFiles {
    /// The family of a `config.json`.
    pub(super) fn of(fields: &Fields<'_>) -> Result<&'static Self, ModelFolderError> {
        const FIELD: &str = "model_type";
        let Some(value) = fields.get(FIELD) else { return Ok(ALL[0]) };
        ALL.into_iter().find(|family| value == family.model_type).ok_or_else(|| {
            let known = ALL.map(|family| format!("{} ({})", family.model_type, family.known_by));
            fields.wrong(FIELD, value, &known.join(", "))
        })
    }
}
