//! ELECTRA's discriminator (Clark et al., 2020).

use medley_common::model::Family;

use super::FamilyFiles;
use crate::tokenizer::Vocabulary;

const WIDTH: &str = "embedding_size";

pub(super) static FILES: FamilyFiles = FamilyFiles {
    model_type: "electra",
    known_by: "ELECTRA discriminators, BioELECTRA, PubMedELECTRA",
    architecture: "ElectraForSequenceClassification",
    vocabulary: Vocabulary::WordPiece,
    read: |fields| Ok(Family::Electra { embedding_size: fields.size(WIDTH, 128, 1 << 16)? }),
    own_field: |family| match family {
        Family::Electra { embedding_size } => Some((WIDTH, embedding_size)),
        _ => None,
    },
};
