//! Why a file of the model's state is refused.

use std::fmt;
use std::path::PathBuf;

/// Why weights or moments cannot be read or written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// The file is damaged or in a format that is not read.
    #[error("{file_name}: {problem}")]
    Unreadable {
        /// The file.
        file_name: String,
        /// What is wrong.
        problem: String,
    },
    /// The file's tensors are not the model's.
    #[error("{file_name}: {} tensors do not fit the model: {}", mismatches.len(), join(mismatches))]
    Mismatch {
        /// The file.
        file_name: String,
        /// Every tensor that does not fit.
        mismatches: Vec<Mismatch>,
    },
    /// An element is infinite or not a number.
    #[error("{file_name}: {name}: element {index} is {value}; expected finite numbers")]
    NotFinite {
        /// The file.
        file_name: String,
        /// The tensor.
        name: String,
        /// The first such element, counted in row-major order.
        index: usize,
        /// What it is as an `f32`.
        value: f32,
    },
    /// A file cannot be written.
    #[error("write {}: {problem}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A buffer to be written has not the layout's length.
    #[error("{found} elements do not fill the model's {expected}")]
    Length {
        /// Parameters of the layout.
        expected: usize,
        /// Elements of the buffer.
        found: usize,
    },
}

/// One tensor that does not fit the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The model has it, the file does not.
    Missing {
        /// Its name in the model.
        name: String,
        /// Its shape in the model.
        shape: Vec<usize>,
    },
    /// Its shapes differ.
    Shape {
        /// Its name in the model.
        name: String,
        /// Its shape in the model.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// Its elements are no floating-point numbers that are read.
    Element {
        /// Its name in the model.
        name: String,
    },
    /// The file has it inside the encoder, the model does not: the file holds another architecture.
    Unexpected {
        /// Its name in the model's terms.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// Two of the file's tensors mean the same tensor of the model.
    Twice {
        /// Its name in the model.
        name: String,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, shape } => write!(f, "{name} {shape:?} is missing"),
            Self::Shape { name, expected, found } => {
                write!(f, "{name} is {found:?}, expected {expected:?}")?;
                match setting(name) {
                    Some(setting) => write!(f, " (check {setting} of config.json)"),
                    None => Ok(()),
                }
            }
            Self::Element { name } => write!(f, "{name} is of no type that is read (F16, BF16, F32, F64)"),
            Self::Unexpected { name, found } => write!(f, "{name} {found:?} is not part of the model"),
            Self::Twice { name } => write!(f, "{name} is there twice, under two names"),
        }
    }
}

/// The field of `config.json` that decides the number of rows of tensor `name`.
fn setting(name: &str) -> Option<&'static str> {
    let settings = [
        ("word_embeddings", "vocab_size"),
        ("position_embeddings", "max_position_embeddings"),
        ("token_type_embeddings", "type_vocab_size"),
        ("embeddings_project", "embedding_size"),
        ("classifier.dense", "hidden_size"),
        ("classifier", "num_labels"),
        ("intermediate", "intermediate_size"),
    ];
    settings.into_iter().find(|(part, _)| name.contains(part)).map(|(_, setting)| setting)
}

fn join(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(Mismatch::to_string).collect::<Vec<_>>().join("; ")
}
