//! BERT (Devlin et al., 2018): `BertForSequenceClassification`.

use super::{Activation, Parts};

pub(super) static PARTS: Parts = Parts {
    encoder: "bert",
    unused: &[],
    dense: "bert.pooler.dense",
    output: "classifier",
    drops_input: false,
    activation: Activation::Tanh,
};
