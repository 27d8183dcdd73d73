//! The optimizer's state in a file, to the bit.

use std::collections::BTreeMap;

use medley_common::identity::Update;
use medley_common::spec::OptimizerKind;
use serde_json::json;

use super::placement::finite;
use super::safetensors_file::{metadata, open};
use super::state_file::StateFile;
use super::stored::{Element, StoredTensor};
use super::{Mismatch, WeightsError};
use crate::layout::Layout;
use crate::optim::loss_scale::LossScale;

/// The name under which errors speak of the file.
const FILE_NAME: &str = "optimizer.safetensors";
const UPDATE: &str = "update";
/// Scale, good updates and skipped updates, with spaces between.
const LOSS_SCALE: &str = "loss_scale";

/// What the optimizer remembers after an update.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// What it remembers of the parameters, in the order of [`OptimizerKind::memory`], each in the order of the layout.
    pub memory: Vec<Vec<f32>>,
    /// Updates done.
    pub update: Update,
    /// The loss scale, where there is one.
    pub loss_scale: Option<LossScale>,
}

/// `optimizer.safetensors`: for each of [`OptimizerKind::memory`] a tensor `<memory>.<name>` of each parameter, as
/// `exp_avg.<name>`; the update's number and the loss scale in the metadata.
///
/// # Errors
/// There are not as many buffers as the optimizer has, or one has not the layout's length.
pub fn write_optimizer<'a>(
    kind: &OptimizerKind,
    memory: &[&'a [f32]],
    (update, loss_scale): (Update, Option<LossScale>),
    layout: &Layout,
) -> Result<StateFile<'a>, WeightsError> {
    let names = kind.memory();
    if memory.len() != names.len() {
        let expected = names.len() * layout.len();
        return Err(WeightsError::Length { expected, found: memory.iter().map(|buffer| buffer.len()).sum() });
    }
    let mut metadata = json!({ "format": "pt", UPDATE: update.to_string() });
    if let Some(LossScale { scale, good_updates, skipped_updates }) = loss_scale {
        // Powers of two, so their decimals are exact.
        metadata[LOSS_SCALE] = format!("{scale} {good_updates} {skipped_updates}").into();
    }
    let buffers: Vec<(String, &[f32])> = names.iter().map(|name| prefix(name)).zip(memory.iter().copied()).collect();
    StateFile::new(metadata, &buffers, layout)
}

/// What stands before a parameter's name.
fn prefix(name: &str) -> String {
    format!("{name}.")
}

/// Reads what [`write_optimizer`] wrote of an optimizer of this kind.
///
/// # Errors
/// The file is damaged; the update's number is missing; tensors are missing, unknown or of another shape or type, all
/// of which are named in one error; a number is not finite.
pub fn read_optimizer(bytes: &[u8], kind: &OptimizerKind, layout: &Layout) -> Result<OptimizerState, WeightsError> {
    let unreadable = |problem| WeightsError::Unreadable { file_name: FILE_NAME.to_owned(), problem };
    let metadata = metadata(bytes).map_err(unreadable)?;
    let update = metadata.get(UPDATE).and_then(|text| text.parse().ok());
    let update = update.ok_or_else(|| unreadable(format!("its metadata have no number \"{UPDATE}\"")))?;
    let loss_scale = metadata.get(LOSS_SCALE).map(|text| {
        read_loss_scale(text).ok_or_else(|| unreadable(format!("its metadata have \"{LOSS_SCALE}\" {text}")))
    });
    let loss_scale = loss_scale.transpose()?;
    let checkpoint = open(bytes).map_err(unreadable)?;
    let mut tensors: BTreeMap<&str, &StoredTensor<'_>> =
        checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut mismatches = Vec::new();
    let prefixes = kind.memory().iter().map(|name| prefix(name));
    let memory: Vec<(String, Vec<f32>)> = prefixes
        .map(|prefix| {
            let buffer = take(&prefix, &mut tensors, layout, &mut mismatches);
            (prefix, buffer)
        })
        .collect();
    for (name, tensor) in tensors {
        mismatches.push(Mismatch::Unexpected { name: name.to_owned(), found: tensor.shape.clone() });
    }
    if !mismatches.is_empty() {
        return Err(WeightsError::Mismatch { file_name: FILE_NAME.to_owned(), mismatches });
    }
    for (slot, (prefix, buffer)) in layout.slots().iter().flat_map(|slot| memory.iter().map(move |part| (slot, part))) {
        finite(FILE_NAME, &format!("{prefix}{}", slot.name), &buffer[slot.range.clone()])?;
    }
    let memory = memory.into_iter().map(|(_, buffer)| buffer).collect();
    Ok(OptimizerState { memory, update: Update(update), loss_scale })
}

/// The scale, the good updates since it changed, and the updates skipped.
fn read_loss_scale(text: &str) -> Option<LossScale> {
    let mut words = text.split(' ');
    let scale: f64 = words.next()?.parse().ok()?;
    let (good_updates, skipped_updates) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let is_whole = words.next().is_none() && scale.is_finite() && scale > 0.0;
    is_whole.then_some(LossScale { scale, good_updates, skipped_updates })
}

/// Takes the tensors with `prefix` out of `tensors` and into a flat buffer.
fn take(
    prefix: &str,
    tensors: &mut BTreeMap<&str, &StoredTensor<'_>>,
    layout: &Layout,
    mismatches: &mut Vec<Mismatch>,
) -> Vec<f32> {
    let mut buffer = vec![0.0; layout.len()];
    for slot in layout.slots() {
        let name = format!("{prefix}{}", slot.name);
        match tensors.remove(name.as_str()) {
            None => mismatches.push(Mismatch::Missing { name, shape: slot.shape.clone() }),
            Some(tensor) if tensor.shape != slot.shape => {
                let (expected, found) = (slot.shape.clone(), tensor.shape.clone());
                mismatches.push(Mismatch::Shape { name, expected, found });
            }
            // Any other type would not bring back the same bits.
            Some(tensor) if tensor.element != Element::F32 => mismatches.push(Mismatch::Element { name }),
            Some(tensor) => tensor.copy_to(&mut buffer[slot.range.clone()]),
        }
    }
    buffer
}
