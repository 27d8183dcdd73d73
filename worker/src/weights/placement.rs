//! The tensors of a file in the places of the layout.

use std::collections::BTreeMap;
use std::ops::Range;

use super::stored::{Checkpoint, StoredTensor};
use super::{Loaded, Mismatch, WeightsError};
use crate::layout::{Layout, Segment, Slot};
use crate::model::family::Parts;

/// What a file's tensors are to become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'l> {
    /// The model's tensors.
    pub layout: &'l Layout,
    /// What its family calls them.
    pub parts: &'static Parts,
}

/// Copies every tensor of the layout from the checkpoint into its place; `initialise` fills those of the pooler and
/// the classifier that are missing.
pub(super) fn place(
    file_name: &str,
    checkpoint: Checkpoint<'_>,
    target: Target<'_>,
    initialise: impl Fn(&Slot, &mut [f32]),
) -> Result<Loaded, WeightsError> {
    let layout = target.layout;
    let head = layout.range(Segment::Head);
    let mut sorted = Sorted::new(&checkpoint.tensors, target);
    let misfit = |slot| mismatch(slot, &sorted.tensors, &head);
    sorted.mismatches.extend(layout.slots().iter().filter_map(misfit));
    if !sorted.mismatches.is_empty() {
        return Err(WeightsError::Mismatch { file_name: file_name.to_owned(), mismatches: sorted.mismatches });
    }
    let mut parameters = vec![0.0; layout.len()];
    let mut initialised = Vec::new();
    for slot in layout.slots() {
        let out = &mut parameters[slot.range.clone()];
        match sorted.tensors.get(&slot.name) {
            Some(tensor) => {
                tensor.copy_to(out);
                finite(file_name, &slot.name, out)?;
            }
            None => {
                initialise(slot, out);
                initialised.push(slot.name.clone());
            }
        }
    }
    let mut ignored = sorted.ignored;
    ignored.extend(checkpoint.others);
    ignored.sort_unstable();
    Ok(Loaded { parameters, initialised, ignored })
}

/// Refuses an infinite or undefined element.
pub(super) fn finite(file_name: &str, name: &str, elements: &[f32]) -> Result<(), WeightsError> {
    match elements.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(WeightsError::NotFinite {
            file_name: file_name.to_owned(),
            name: name.to_owned(),
            index,
            value: elements[index],
        }),
    }
}

/// The file's tensors, sorted by what they are to the model.
struct Sorted<'t, 'a> {
    /// By the layout's names.
    tensors: BTreeMap<String, &'t StoredTensor<'a>>,
    ignored: Vec<String>,
    mismatches: Vec<Mismatch>,
}

impl<'t, 'a> Sorted<'t, 'a> {
    fn new(tensors: &'t [StoredTensor<'a>], target: Target<'_>) -> Self {
        let Target { layout, parts } = target;
        let known: BTreeMap<&str, &Slot> = layout.slots().iter().map(|slot| (slot.name.as_str(), slot)).collect();
        let of_encoder = |name: &str| name.strip_prefix(parts.encoder).is_some_and(|rest| rest.starts_with('.'));
        let unused = |name: &str| parts.unused.iter().any(|part| name.starts_with(part)) || is_buffer(name);
        let mut sorted = Self { tensors: BTreeMap::new(), ignored: Vec::new(), mismatches: Vec::new() };
        for tensor in tensors {
            let name = canonical(&tensor.name, parts.encoder);
            if known.contains_key(name.as_str()) {
                if sorted.tensors.insert(name.clone(), tensor).is_some() {
                    sorted.mismatches.push(Mismatch::Twice { name });
                }
            } else if of_encoder(&name) && !unused(&name) {
                // One more layer, or a projection: to leave it out would compute another model than the file's.
                sorted.mismatches.push(Mismatch::Unexpected { name, found: tensor.shape.clone() });
            } else {
                sorted.ignored.push(tensor.name.clone());
            }
        }
        sorted
    }
}

/// `head` has the tensors that a pretrained model may lack: fine-tuning starts with new ones.
fn mismatch(slot: &Slot, tensors: &BTreeMap<String, &StoredTensor<'_>>, head: &Range<usize>) -> Option<Mismatch> {
    let name = slot.name.clone();
    match tensors.get(&slot.name) {
        None if head.contains(&slot.range.start) => None,
        None => Some(Mismatch::Missing { name, shape: slot.shape.clone() }),
        Some(tensor) if tensor.shape != slot.shape => {
            Some(Mismatch::Shape { name, expected: slot.shape.clone(), found: tensor.shape.clone() })
        }
        Some(tensor) if !tensor.element.is_float() => Some(Mismatch::Element { name }),
        Some(_) => None,
    }
}

/// The layout's name for a tensor: with the prefix, which a bare encoder (`BertModel`) lacks, and with today's names for
/// the layer norms' gamma and beta.
fn canonical(name: &str, encoder: &str) -> String {
    let parts = ["embeddings.", "embeddings_project.", "encoder.", "pooler."];
    let bare = parts.into_iter().any(|part| name.starts_with(part));
    let prefix = if bare { format!("{encoder}.") } else { String::new() };
    match (name.strip_suffix(".gamma"), name.strip_suffix(".beta")) {
        (Some(stem), _) => format!("{prefix}{stem}.weight"),
        (_, Some(stem)) => format!("{prefix}{stem}.bias"),
        _ => format!("{prefix}{name}"),
    }
}

/// Constants that older versions of transformers saved along with the parameters.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".embeddings.position_ids") || name.ends_with(".embeddings.token_type_ids")
}
