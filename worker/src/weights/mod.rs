//! The model's state in files: what Hugging Face and PyTorch write is read, and what they read is written.
//!
//! A file arrives as bytes and leaves as flat `f32` parameters in the order of the layout. Nothing in a file is ever
//! executed, and a damaged file gives an error, whatever the damage.

use medley_common::identity::Digest;
use medley_common::model::ModelConfig;
use sha2::{Digest as _, Sha256};

use crate::layout::Layout;
use crate::model::family;

mod archive;
mod conversion;
mod error;
mod initial;
mod optimizer_state;
mod pickle;
mod placement;
mod safetensors_file;
mod state_dict;
mod state_file;
mod stored;
mod stream;

pub use conversion::{Conversion, convert};
pub use error::{Mismatch, WeightsError};
pub use initial::initialise;
pub use optimizer_state::{OptimizerState, read_optimizer, write_optimizer};
pub use state_file::{StateFile, write_model};

/// Parameters read from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// All parameters, in the order of the layout.
    pub parameters: Vec<f32>,
    /// Tensors of the model that the file lacks and that were initialised: those of the classifier, a pooler included.
    pub initialised: Vec<String>,
    /// Entries of the file that the model has no use for, by their names there, ascending.
    pub ignored: Vec<String>,
}

/// Names of tensors that a note lists.
const SHOWN_NAMES: usize = 8;

impl Loaded {
    /// What a person should know of weights that are fit to start from.
    #[must_use]
    pub fn notes(&self, file_name: &str) -> Vec<String> {
        let listed = |names: &[String]| {
            let rest = names.len().saturating_sub(SHOWN_NAMES);
            let shown = names[..names.len() - rest].join(", ");
            if rest > 0 { format!("{shown} and {rest} more") } else { shown }
        };
        let new = (!self.initialised.is_empty()).then(|| {
            format!("warning: not in {file_name}, so drawn anew and to be trained: {}", listed(&self.initialised))
        });
        let ignored = (!self.ignored.is_empty())
            .then(|| format!("note: in {file_name}, but of no use here: {}", listed(&self.ignored)));
        new.into_iter().chain(ignored).collect()
    }
}

/// Reads parameters from the bytes of `model.safetensors` or `pytorch_model.bin`; the file's name tells which.
///
/// Takes safetensors, and both formats of `torch.save`: the zip archive and, from before torch 1.6, the stream of
/// pickles. Elements of 16, 32 or 64 bits become `f32`. Names may lack the encoder's prefix (`bert.`), and layer norms may
/// be called gamma and beta. A pooler or classifier that the file lacks is initialised from `seed`, the same on every
/// worker.
///
/// # Errors
/// The file is damaged or in another format; tensors are missing or of another shape, all of which are named in one
/// error; a parameter is not finite.
pub fn read(
    file_name: &str,
    bytes: Vec<u8>,
    layout: &Layout,
    config: &ModelConfig,
    seed: u64,
) -> Result<Loaded, WeightsError> {
    let checkpoint = open(file_name, &bytes)
        .map_err(|problem| WeightsError::Unreadable { file_name: file_name.to_owned(), problem })?;
    let target = placement::Target { layout, parts: family::parts(config.family) };
    placement::place(file_name, checkpoint, target, |slot, out| initial::initialise_slot(slot, config, seed, out))
}

/// SHA-256 over the parameters' little-endian bytes.
#[must_use]
pub fn digest(parameters: &[f32]) -> Digest {
    Digest(Sha256::digest(bytemuck::cast_slice::<f32, u8>(parameters)).into())
}

fn open<'a>(file_name: &str, bytes: &'a [u8]) -> Result<stored::Checkpoint<'a>, String> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err("is a Git LFS pointer, not the weights; fetch them with `git lfs pull`".to_owned());
    }
    match file_name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("safetensors") => safetensors_file::open(bytes),
        Some("bin" | "pt" | "pth") if bytes.starts_with(b"PK") => archive::open(bytes),
        Some("bin" | "pt" | "pth") if bytes.starts_with(&[pickle::PROTO]) => stream::open(bytes),
        Some("bin" | "pt" | "pth") => Err("is neither a zip archive nor a pickle stream of torch.save".to_owned()),
        _ => Err("cannot tell the format; expected a name ending in .safetensors or .bin".to_owned()),
    }
}

#[cfg(test)]
mod checkpoint_test;
#[cfg(test)]
mod weights_test;
