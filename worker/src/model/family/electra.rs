//! ELECTRA's discriminator (Clark et al., 2020): `ElectraForSequenceClassification`.

use super::{Activation, Parts};

pub(super) static PARTS: Parts = Parts {
    encoder: "electra",
    unused: &[],
    dense: "classifier.dense",
    output: "classifier.out_proj",
    drops_input: true,
    activation: Activation::Gelu,
};
