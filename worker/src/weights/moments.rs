//! The optimizer's state in a file, to the bit.

use std::collections::BTreeMap;

use medley_common::identity::Update;
use serde_json::json;

use super::placement::finite;
use super::safetensors_file::{metadata, open};
use super::state_file::StateFile;
use super::stored::{Element, StoredTensor};
use super::{Mismatch, WeightsError};
use crate::layout::Layout;

/// The name under which errors speak of the file.
const FILE_NAME: &str = "optimizer.safetensors";
const EXP_AVG: &str = "exp_avg.";
const EXP_AVG_SQ: &str = "exp_avg_sq.";
const UPDATE: &str = "update";

/// The optimizer's moments after an update, in the order of the layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// First moments.
    pub exp_avg: Vec<f32>,
    /// Second moments.
    pub exp_avg_sq: Vec<f32>,
    /// Updates done.
    pub update: Update,
}

/// `optimizer.safetensors`: tensors `exp_avg.<name>` and `exp_avg_sq.<name>`, the update's number in the metadata.
///
/// # Errors
/// A buffer has not the layout's length.
pub fn write_moments<'a>(
    exp_avg: &'a [f32],
    exp_avg_sq: &'a [f32],
    update: Update,
    layout: &Layout,
) -> Result<StateFile<'a>, WeightsError> {
    let metadata = json!({ "format": "pt", UPDATE: update.to_string() });
    StateFile::new(metadata, &[(EXP_AVG, exp_avg), (EXP_AVG_SQ, exp_avg_sq)], layout)
}

/// Reads what [`write_moments`] wrote.
///
/// # Errors
/// The file is damaged; the update's number is missing; tensors are missing, unknown or of another shape or type, all
/// of which are named in one error; a moment is not finite.
pub fn read_moments(bytes: &[u8], layout: &Layout) -> Result<Moments, WeightsError> {
    let unreadable = |problem| WeightsError::Unreadable { file_name: FILE_NAME.to_owned(), problem };
    let metadata = metadata(bytes).map_err(unreadable)?;
    let update = metadata.get(UPDATE).and_then(|text| text.parse().ok());
    let update = update.ok_or_else(|| unreadable(format!("its metadata have no number \"{UPDATE}\"")))?;
    let checkpoint = open(bytes).map_err(unreadable)?;
    let mut tensors: BTreeMap<&str, &StoredTensor<'_>> =
        checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut mismatches = Vec::new();
    let exp_avg = take(EXP_AVG, &mut tensors, layout, &mut mismatches);
    let exp_avg_sq = take(EXP_AVG_SQ, &mut tensors, layout, &mut mismatches);
    for (name, tensor) in tensors {
        mismatches.push(Mismatch::Unexpected { name: name.to_owned(), found: tensor.shape.clone() });
    }
    if !mismatches.is_empty() {
        return Err(WeightsError::Mismatch { file_name: FILE_NAME.to_owned(), mismatches });
    }
    for slot in layout.slots() {
        finite(FILE_NAME, &format!("{EXP_AVG}{}", slot.name), &exp_avg[slot.range.clone()])?;
        finite(FILE_NAME, &format!("{EXP_AVG_SQ}{}", slot.name), &exp_avg_sq[slot.range.clone()])?;
    }
    Ok(Moments { exp_avg, exp_avg_sq, update: Update(update) })
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
