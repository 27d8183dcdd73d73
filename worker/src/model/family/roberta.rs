//! RoBERTa (Liu et al., 2019): `RobertaForSequenceClassification`. Published encoders have a pooler that was never trained.

use super::{Activation, Parts};

pub(super) static PARTS: Parts = Parts {
    encoder: "roberta",
    unused: &["roberta.pooler."],
    dense: "classifier.dense",
    output: "classifier.out_proj",
    drops_input: true,
    activation: Activation::Tanh,
};
