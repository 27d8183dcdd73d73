//! Tensors as a file holds them: any floating-point type, any strides.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

/// What a file holds, whatever its format.
#[derive(Debug, Default)]
pub(super) struct Checkpoint<'a> {
    /// Its tensors, in the order of the file.
    pub tensors: Vec<StoredTensor<'a>>,
    /// Names of entries that are no tensors.
    pub others: Vec<String>,
    /// What a pickle names, as `module.name`, that no tensor is made of: nothing of it was called.
    pub foreign: Vec<String>,
}

/// The type of a tensor's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Whatever else no parameter is made of.
    Other {
        bytes: usize,
    },
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Other { bytes } => bytes,
        }
    }

    /// Whether parameters are made of it.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

/// A tensor inside the bytes of a file.
#[derive(Debug)]
pub(super) struct StoredTensor<'a> {
    pub name: String,
    pub element: Element,
    pub shape: Vec<usize>,
    /// Distance, in elements, between neighbours along each dimension.
    strides: Vec<usize>,
    /// The bytes from the first element on.
    bytes: &'a [u8],
}

/// Where a tensor's elements lie in a storage, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strided {
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Strided {
    pub(super) fn contiguous(shape: Vec<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = strides[dimension].saturating_mul(shape[dimension]);
        }
        Self { offset: 0, shape, strides }
    }

    /// The elements that the tensor may touch, `None` where they cannot be counted.
    fn reach(&self) -> Option<Range<usize>> {
        if self.shape.contains(&0) {
            return Some(self.offset..self.offset);
        }
        let last = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?))?;
        Some(self.offset..last.checked_add(1)?)
    }
}

impl<'a> StoredTensor<'a> {
    /// A tensor in `storage`; refused where it reaches beyond.
    pub(super) fn new(name: String, element: Element, place: Strided, storage: &'a [u8]) -> Result<Self, String> {
        let bytes = place
            .reach()
            .filter(|_| place.shape.len() == place.strides.len())
            .and_then(|reach| {
                let start = reach.start.checked_mul(element.bytes())?;
                storage.get(start..reach.end.checked_mul(element.bytes())?)
            })
            .ok_or_else(|| format!("{name}: its elements reach beyond its storage of {} bytes", storage.len()))?;
        Ok(Self { name, element, shape: place.shape, strides: place.strides, bytes })
    }

    /// Writes the elements in row-major order. `out` has as many elements as the shape says; the element type is a
    /// floating-point type.
    pub(super) fn copy_to(&self, out: &mut [f32]) {
        match self.element {
            Element::F32 if self.is_contiguous() && self.bytes.len() == size_of_val(out) => {
                bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(self.bytes);
            }
            Element::F32 => self.gather(out, f32::from_le_bytes),
            Element::F64 => self.gather(out, |bytes| f64::from_le_bytes(bytes) as f32),
            Element::F16 => self.gather(out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Element::Bf16 => self.gather(out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            _ => out.fill(f32::NAN),
        }
    }

    /// How many bytes its elements take in row-major order; `None` where they cannot be counted.
    pub(super) fn row_major_bytes(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.element.bytes(), |bytes, size| bytes.checked_mul(*size))
    }

    /// The bytes of all elements in row-major order, as they are; the element type is none of [`Element::Other`], and
    /// there is room for [`Self::row_major_bytes`].
    pub(super) fn row_major(&self) -> Cow<'a, [u8]> {
        let bytes = self.row_major_bytes().unwrap_or(0);
        if self.is_contiguous() && self.bytes.len() == bytes {
            return Cow::Borrowed(self.bytes);
        }
        let elements = bytes / self.element.bytes().max(1);
        match self.element.bytes() {
            1 => Cow::Owned(self.gathered::<1>(elements)),
            2 => Cow::Owned(self.gathered::<2>(elements)),
            4 => Cow::Owned(self.gathered::<4>(elements)),
            _ => Cow::Owned(self.gathered::<8>(elements)),
        }
    }

    fn gathered<const N: usize>(&self, elements: usize) -> Vec<u8> {
        let mut out = vec![[0; N]; elements];
        self.gather(&mut out, |bytes| bytes);
        out.into_flattened()
    }

    /// Where its bytes lie in the file that was read, by address; empty where it has none.
    pub(super) fn memory(&self) -> Range<usize> {
        let range = self.bytes.as_ptr_range();
        range.start as usize..range.end as usize
    }

    fn is_contiguous(&self) -> bool {
        Strided::contiguous(self.shape.clone()).strides == self.strides
    }

    fn gather<const N: usize, T>(&self, out: &mut [T], decode: impl Fn([u8; N]) -> T) {
        let (columns, stride) = match (self.shape.last(), self.strides.last()) {
            (Some(columns), Some(stride)) => (*columns, *stride),
            _ => (1, 1),
        };
        let (elements, _) = self.bytes.as_chunks::<N>();
        for (row, out) in out.chunks_mut(columns.max(1)).enumerate() {
            let start = self.row_start(row);
            for (column, out) in out.iter_mut().enumerate() {
                *out = decode(elements[start + column * stride]);
            }
        }
    }

    /// The place of the first element of a row, the dimensions before the last counted in row-major order.
    fn row_start(&self, mut row: usize) -> usize {
        let mut start = 0;
        for dimension in (0..self.shape.len().saturating_sub(1)).rev() {
            start += row % self.shape[dimension] * self.strides[dimension];
            row /= self.shape[dimension];
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn read(place: Strided, storage: &[u8]) -> Vec<f32> {
        let count = place.shape.iter().product();
        let mut out = vec![-1.0; count];
        StoredTensor::new("t".to_owned(), Element::F32, place, storage).unwrap().copy_to(&mut out);
        out
    }

    #[test]
    fn slices_transposes_and_broadcasts_are_read_in_row_major_order() {
        let bytes = storage((0..12).map(|value| value as f32));
        let all = Strided::contiguous(vec![3, 4]);
        assert_eq!(read(all, &bytes)[..5], [0.0, 1.0, 2.0, 3.0, 4.0]);
        let transposed = Strided { offset: 0, shape: vec![4, 3], strides: vec![1, 4] };
        assert_eq!(read(transposed, &bytes)[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        let block = Strided { offset: 5, shape: vec![2, 2], strides: vec![4, 1] };
        assert_eq!(read(block, &bytes), [5.0, 6.0, 9.0, 10.0]);
        let expanded = Strided { offset: 2, shape: vec![2, 2], strides: vec![0, 1] };
        assert_eq!(read(expanded, &bytes), [2.0, 3.0, 2.0, 3.0]);
        let cube = Strided { offset: 0, shape: vec![2, 3, 2], strides: vec![1, 4, 2] };
        assert_eq!(read(cube, &bytes), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
        let scalar = Strided { offset: 11, shape: vec![], strides: vec![] };
        assert_eq!(read(scalar, &bytes), [11.0]);
    }

    #[test]
    fn a_tensor_may_not_leave_its_storage() {
        let bytes = storage([0.0; 12]);
        let refused = |offset, shape: &[usize], strides: &[usize]| {
            let place = Strided { offset, shape: shape.to_vec(), strides: strides.to_vec() };
            StoredTensor::new("t".to_owned(), Element::F32, place, &bytes).is_err()
        };
        assert!(!refused(0, &[3, 4], &[4, 1]));
        assert!(refused(1, &[3, 4], &[4, 1]));
        assert!(refused(0, &[3, 4], &[5, 1]));
        assert!(refused(0, &[3, 4], &[4]));
        assert!(refused(usize::MAX, &[1], &[1]));
        assert!(refused(0, &[usize::MAX, usize::MAX], &[usize::MAX, 1]));
        assert!(refused(13, &[0], &[1]), "even an empty tensor starts inside");
    }
}
