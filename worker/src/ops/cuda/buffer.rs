//! Elements in the device's memory.

use std::ops::Range;

use super::Cuda;
use super::driver::{Argument, Driver, Element};
use crate::ops::{DeviceError, Slice, SliceMut};

/// Elements in `f32`, in half precision, or in both.
///
/// Parameters are in both where products are computed in half precision: the masters and their copy. Activations and
/// their gradients are in the precision of products alone, everything else in `f32` alone.
#[derive(Debug)]
pub struct Buffer<M> {
    pub(super) room: usize,
    pub(super) wide: Option<M>,
    pub(super) narrow: Option<M>,
}

impl<M> Default for Buffer<M> {
    fn default() -> Self {
        Self { room: 0, wide: None, narrow: None }
    }
}

impl<D: Driver> Cuda<D> {
    /// Room for `length` elements of unspecified values.
    pub(super) fn allocate(&self, length: usize, element: Element) -> Result<Buffer<D::Memory>, DeviceError> {
        if length == 0 {
            return Ok(Buffer::default());
        }
        let memory = Some(self.driver.allocate(length * element.bytes())?);
        Ok(match element {
            Element::F32 => Buffer { room: length, wide: memory, narrow: None },
            Element::Bf16 | Element::F16 => Buffer { room: length, wide: None, narrow: memory },
        })
    }

    /// How the elements that products read of a buffer are stored.
    pub(super) fn element_of(&self, buffer: &Buffer<D::Memory>) -> Element {
        if buffer.narrow.is_some() { self.element } else { Element::F32 }
    }

    /// Where elements lie in `f32`.
    pub(super) fn wide(&self, buffer: &Buffer<D::Memory>, range: Range<usize>) -> Result<Argument, DeviceError> {
        self.place(buffer, buffer.wide.as_ref(), range, Element::F32).map(Argument::Address)
    }

    /// Where elements lie in the precision of products.
    pub(super) fn stored(&self, buffer: &Buffer<D::Memory>, range: Range<usize>) -> Result<Argument, DeviceError> {
        self.stored_at(buffer, range).map(Argument::Address)
    }

    /// The same as an address.
    pub(super) fn stored_at(&self, buffer: &Buffer<D::Memory>, range: Range<usize>) -> Result<u64, DeviceError> {
        let memory = buffer.narrow.as_ref().or(buffer.wide.as_ref());
        self.place(buffer, memory, range, self.element_of(buffer))
    }

    /// Where the first elements of a run lie in this form; none where they are not kept in it.
    pub(super) fn stored_as(
        &self,
        run: &Slice<'_, Buffer<D::Memory>>,
        count: usize,
        element: Element,
    ) -> Result<Option<u64>, DeviceError> {
        let memory = match element {
            Element::F32 => run.buffer.wide.as_ref(),
            Element::Bf16 | Element::F16 => run.buffer.narrow.as_ref().filter(|_| element == self.element),
        };
        let range = run.range.start..run.range.start + count;
        memory.map(|memory| self.place(run.buffer, Some(memory), range, element)).transpose()
    }

    /// Where the elements of a run lie in `f32`.
    pub(super) fn wide_run(&self, run: &Slice<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
        self.wide(run.buffer, run.range.clone())
    }

    /// The same as an address.
    ///
    /// # Errors
    /// The buffer does not have them.
    pub fn address_of(&self, run: &Slice<'_, Buffer<D::Memory>>) -> Result<u64, DeviceError> {
        self.place(run.buffer, run.buffer.wide.as_ref(), run.range.clone(), Element::F32)
    }

    /// Where the elements of a run to write lie in `f32`.
    pub(super) fn wide_mut(&self, run: &SliceMut<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
        self.wide(run.buffer, run.range.clone())
    }

    /// Checks that the buffer has the elements: an address never leads outside.
    pub(super) fn place(
        &self,
        buffer: &Buffer<D::Memory>,
        memory: Option<&D::Memory>,
        range: Range<usize>,
        element: Element,
    ) -> Result<u64, DeviceError> {
        if range.start > range.end || range.end > buffer.room {
            let problem = format!("elements {range:?} of a buffer of {}", buffer.room);
            return Err(DeviceError::Failed { doing: "find a buffer's elements", problem });
        }
        match memory {
            Some(memory) => Ok(self.driver.address(memory) + (range.start * element.bytes()) as u64),
            None if range.is_empty() => Ok(0),
            None => {
                let problem = format!("elements {range:?} are not there in {}", element.suffix());
                Err(DeviceError::Failed { doing: "find a buffer's elements", problem })
            }
        }
    }
}
