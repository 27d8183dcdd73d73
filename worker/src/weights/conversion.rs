//! Weights of a pickle as safetensors: every tensor under its own name, in its own type, with all of its elements.
//!
//! Nothing is left out and nothing is guessed: a pickle that holds, or merely names, anything but tensors is refused.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::{Dtype, View};

use super::stored::{Checkpoint, Element, StoredTensor};
use super::{WeightsError, open};

/// How much larger than the pickle its tensors may be in all: those that share memory are written one by one.
const LARGEST_GROWTH: usize = 16;

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// Tensors that were written.
    pub tensors: usize,
    /// Groups of tensors that lay in the same memory, by name: each has a copy of its own now.
    pub shared: Vec<Vec<String>>,
}

/// Writes the tensors of a `pytorch_model.bin` to a safetensors file `to`, which is replaced in one step. Blocks.
///
/// # Errors
/// The file is damaged, or holds something else than tensors, which is named; `to` cannot be written.
pub fn convert(file_name: &str, bytes: &[u8], to: &Path) -> Result<Conversion, WeightsError> {
    let unreadable = |problem| WeightsError::Unreadable { file_name: file_name.to_owned(), problem };
    let checkpoint = open(file_name, bytes).map_err(unreadable)?;
    let tensors = tensors(&checkpoint, bytes.len()).map_err(unreadable)?;
    let shared = shared(&checkpoint.tensors);
    let (count, metadata) = (tensors.len(), HashMap::from([("format".to_owned(), "pt".to_owned())]));
    safetensors::serialize_to_file(tensors, Some(metadata), to)
        .map_err(|error| WeightsError::Unwritable { path: to.to_owned(), problem: error.to_string() })?;
    Ok(Conversion { tensors: count, shared })
}

/// The tensors by name; refuses whatever else there is, and tensors that are written out far larger than the whole file.
fn tensors<'t, 'a>(
    checkpoint: &'t Checkpoint<'a>,
    file_bytes: usize,
) -> Result<BTreeMap<&'t str, Written<'t, 'a>>, String> {
    if !checkpoint.foreign.is_empty() {
        return Err(format!(
            "names {}, of which no tensor is made; save `model.state_dict()` alone, from where the file is trusted",
            checkpoint.foreign.join(", ")
        ));
    }
    if !checkpoint.others.is_empty() {
        return Err(format!(
            "holds {}, which is no tensor; save `model.state_dict()` alone",
            checkpoint.others.join(", ")
        ));
    }
    let (mut tensors, mut room) = (BTreeMap::new(), file_bytes.saturating_mul(LARGEST_GROWTH));
    for tensor in &checkpoint.tensors {
        let name = tensor.name.as_str();
        let Some(dtype) = dtype(tensor.element) else {
            return Err(format!("{name}: elements of its type have no place in a safetensors file"));
        };
        let left = tensor.row_major_bytes().and_then(|bytes| room.checked_sub(bytes));
        room = left.ok_or_else(|| {
            format!("{name} would take more than {LARGEST_GROWTH} times the whole file, as its elements are repeated")
        })?;
        if tensors.insert(name, Written { tensor, dtype }).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    if tensors.is_empty() {
        return Err("holds no tensor".to_owned());
    }
    Ok(tensors)
}

fn dtype(element: Element) -> Option<Dtype> {
    Some(match element {
        Element::F16 => Dtype::F16,
        Element::Bf16 => Dtype::BF16,
        Element::F32 => Dtype::F32,
        Element::F64 => Dtype::F64,
        Element::I64 => Dtype::I64,
        Element::I32 => Dtype::I32,
        Element::I16 => Dtype::I16,
        Element::I8 => Dtype::I8,
        Element::U8 => Dtype::U8,
        Element::Bool => Dtype::BOOL,
        Element::Other { .. } => return None,
    })
}

/// The names of tensors that lie in the same memory, in the order of the file.
fn shared(tensors: &[StoredTensor<'_>]) -> Vec<Vec<String>> {
    let mut groups: Vec<(std::ops::Range<usize>, Vec<String>)> = Vec::new();
    for tensor in tensors {
        let memory = tensor.memory();
        let overlaps = |known: &std::ops::Range<usize>| known.start < memory.end && memory.start < known.end;
        match groups.iter_mut().find(|(known, _)| overlaps(known)) {
            Some((known, names)) => {
                *known = known.start.min(memory.start)..known.end.max(memory.end);
                names.push(tensor.name.clone());
            }
            None => groups.push((memory, vec![tensor.name.clone()])),
        }
    }
    groups.into_iter().map(|(_, names)| names).filter(|names| names.len() > 1).collect()
}

/// A tensor, as the format's own library asks for it.
struct Written<'t, 'a> {
    tensor: &'t StoredTensor<'a>,
    dtype: Dtype,
}

impl View for Written<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.row_major()
    }

    fn data_len(&self) -> usize {
        // Checked before.
        self.tensor.row_major_bytes().unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "conversion_test.rs"]
mod tests;
