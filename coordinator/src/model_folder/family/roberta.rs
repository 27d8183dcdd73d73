//! RoBERTa (Liu et al., 2019).

use medley_common::model::Family;

use super::FamilyFiles;
use crate::tokenizer::Vocabulary;

const PADDING: &str = "pad_token_id";

pub(super) static FILES: FamilyFiles = FamilyFiles {
    model_type: "roberta",
    known_by: "RoBERTa, BioMed-RoBERTa",
    architecture: "RobertaForSequenceClassification",
    vocabulary: Vocabulary::BytePairs,
    read: |fields| Ok(Family::Roberta { pad_token_id: fields.number(PADDING, 1, 0..=1 << 24)? }),
    own_field: |family| match family {
        Family::Roberta { pad_token_id } => Some((PADDING, pad_token_id)),
        _ => None,
    },
};
