//! The safetensors format, written: a header of our own over the buffers as they are, so that nothing is copied.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::WeightsError;
use crate::layout::Layout;

/// A safetensors file that borrows its tensors.
///
/// The header lists the tensors in the order of the flat buffer, so that the file's data are the buffer's bytes.
#[derive(Debug, Clone)]
pub struct StateFile<'a> {
    /// The header's length and the header.
    header: Vec<u8>,
    buffers: Vec<&'a [f32]>,
}

impl<'a> StateFile<'a> {
    /// Bytes of the file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }

    /// Whether the file is empty; never so, for it has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole file in one buffer.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.parts().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// Some bytes of the file; fewer where it ends before.
    #[must_use]
    pub fn read(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        let mut start = 0;
        for part in self.parts() {
            let clamp = |place: usize| place.saturating_sub(start).min(part.len());
            bytes.extend_from_slice(&part[clamp(range.start)..clamp(range.end)]);
            start += part.len();
        }
        bytes
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&*self.header).chain(self.buffers.iter().map(|buffer| bytemuck::cast_slice::<f32, u8>(buffer)))
    }

    /// A file with `metadata` and, for each prefix and its buffer, all tensors of the layout with the prefix before
    /// their names.
    pub(super) fn new(metadata: Value, buffers: &[(String, &'a [f32])], layout: &Layout) -> Result<Self, WeightsError> {
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), metadata);
        for (place, (prefix, buffer)) in buffers.iter().enumerate() {
            if buffer.len() != layout.len() {
                return Err(WeightsError::Length { expected: layout.len(), found: buffer.len() });
            }
            for slot in layout.slots() {
                let offset = |element: usize| (place * layout.len() + element) * size_of::<f32>();
                let offsets = [offset(slot.range.start), offset(slot.range.end)];
                let entry = json!({ "dtype": "F32", "shape": slot.shape, "data_offsets": offsets });
                entries.insert(format!("{prefix}{}", slot.name), entry);
            }
        }
        let mut text = Value::Object(entries).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        Ok(Self { header, buffers: buffers.iter().map(|(_, buffer)| *buffer).collect() })
    }
}

/// `model.safetensors` as transformers reads it: Hugging Face names, metadata `{"format": "pt"}`.
///
/// # Errors
/// `parameters` has not the layout's length.
pub fn write_model<'a>(parameters: &'a [f32], layout: &Layout) -> Result<StateFile<'a>, WeightsError> {
    StateFile::new(json!({ "format": "pt" }), &[(String::new(), parameters)], layout)
}
