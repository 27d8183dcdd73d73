//! The safetensors format, read.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};

use super::stored::{Checkpoint, Element, StoredTensor, Strided};

/// Reads the header and finds every tensor in `bytes`.
pub(super) fn open(bytes: &[u8]) -> Result<Checkpoint<'_>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("damaged safetensors file: {error}"))?;
    // In the order of names: the crate keeps tensors in a hash map.
    let views: BTreeMap<String, _> = file.tensors().into_iter().collect();
    let mut tensors = Vec::with_capacity(views.len());
    for (name, view) in views {
        let place = Strided::contiguous(view.shape().to_vec());
        let tensor = match element(view.dtype()) {
            Some(element) => StoredTensor::new(name, element, place, view.data())?,
            // Types of less than a byte have no strides in bytes; no parameter is made of them.
            None => StoredTensor::new(name, Element::Other { bytes: 0 }, place, view.data())?,
        };
        tensors.push(tensor);
    }
    Ok(Checkpoint { tensors, ..Checkpoint::default() })
}

/// The metadata of the file's header.
pub(super) fn metadata(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|error| format!("damaged safetensors file: {error}"))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(metadata.into_iter().collect())
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::Bf16,
        Dtype::F32 => Element::F32,
        Dtype::F64 => Element::F64,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        Dtype::U64 => Element::Other { bytes: 8 },
        Dtype::U32 => Element::Other { bytes: 4 },
        Dtype::U16 => Element::Other { bytes: 2 },
        _ => return None,
    })
}
