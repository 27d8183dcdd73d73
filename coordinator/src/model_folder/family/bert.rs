//! BERT (Devlin et al., 2018).

use medley_common::model::Family;

use super::FamilyFiles;
use crate::tokenizer::Vocabulary;

pub(super) static FILES: FamilyFiles = FamilyFiles {
    model_type: "bert",
    known_by: "BioLinkBERT, PubMedBERT, BioBERT and other BERT encoders",
    architecture: "BertForSequenceClassification",
    vocabulary: Vocabulary::WordPiece,
    read: |_| Ok(Family::Bert),
    own_field: |_| None,
};
