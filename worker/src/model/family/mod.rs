//! What one family of encoders has of its own, in terms of what all are made of: a file each.

use medley_common::model::Family;

mod bert;
mod electra;
mod roberta;

/// Names of a family's tensors, and what its classifier does.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    /// What the names of the encoder's tensors begin with, without the dot.
    pub encoder: &'static str,
    /// Parts of a pretrained encoder that a classifier has no use for, by the beginnings of their names.
    pub unused: &'static [&'static str],
    /// The classifier's first layer, `[H, H]` and a bias.
    pub dense: &'static str,
    /// The classifier's last layer, `[labels, H]` and a bias.
    pub output: &'static str,
    /// Whether the first token's hidden state is dropped out before the first layer.
    pub drops_input: bool,
    /// What lies between the two layers, before its dropout.
    pub activation: Activation,
}

/// The activation of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The hyperbolic tangent.
    Tanh,
    /// The exact erf-GELU.
    Gelu,
}

/// The parts of a family.
#[must_use]
pub fn parts(family: Family) -> &'static Parts {
    match family {
        Family::Bert => &bert::PARTS,
        Family::Roberta { .. } => &roberta::PARTS,
        Family::Electra { .. } => &electra::PARTS,
    }
}
