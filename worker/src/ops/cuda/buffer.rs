//! Elements in the device's memory.

use std::ops::Range;
use std::rc::Rc;

use super::Cuda;
use super::beside::Touched;
use super::driver::{Argument, Driver, Element};
use crate::ops::{DeviceError, Slice, SliceMut};

/// Elements in `f32`, in half precision, or in both.
///
/// Parameters are in both where products are computed in half precision: the masters and their copy. Activations and
/// their gradients are in the precision of products alone, everything else in `f32` alone. Where they lie is told by [`Cuda`],
/// which looks after what goes on beside the stream.
#[derive(Debug)]
pub struct Buffer<M> {
    pub(super) room: usize,
    wide: Option<Rc<M>>,
    narrow: Option<Rc<M>>,
}

impl<M> Default for Buffer<M> {
    fn default() -> Self {
        Self { room: 0, wide: None, narrow: None }
    }
}

impl<M> Buffer<M> {
    /// So many elements in one precision.
    pub(super) fn new(room: usize, element: Element, memory: M) -> Self {
        let memory = Some(Rc::new(memory));
        match element {
            Element::F32 => Self { room, wide: memory, narrow: None },
            Element::Bf16 | Element::F16 => Self { room, wide: None, narrow: memory },
        }
    }

    /// The same elements in `f32` and in half precision, of which `copy` is.
    pub(super) fn with_copy(self, copy: Self) -> Self {
        Self { narrow: copy.narrow, ..self }
    }
}

impl<D: Driver> Cuda<D> {
    /// Room for `length` elements of unspecified values.
    pub(super) fn allocate(&self, length: usize, element: Element) -> Result<Buffer<D::Memory>, DeviceError> {
        self.allocate_with(length, element, |_| Ok(()))
    }

    /// The same, with what `fill` writes to it.
    pub(super) fn allocate_with(
        &self,
        length: usize,
        element: Element,
        fill: impl FnOnce(&mut D::Memory) -> Result<(), DeviceError>,
    ) -> Result<Buffer<D::Memory>, DeviceError> {
        if length == 0 {
            return Ok(Buffer::default());
        }
        let mut memory = self.take(length * element.bytes())?;
        fill(&mut memory)?;
        Ok(Buffer::new(length, element, memory))
    }

    /// How the elements that products read of a buffer are stored.
    pub(super) fn element_of(&self, buffer: &Buffer<D::Memory>) -> Element {
        if buffer.narrow.is_some() { self.element } else { Element::F32 }
    }

    /// The bytes of a run on the host, and how its elements are stored: in `f32` where they are in both.
    pub(super) fn bytes_of(&self, run: &Slice<'_, Buffer<D::Memory>>) -> Result<(Element, Vec<u8>), DeviceError> {
        let (memory, element) = match &run.buffer.wide {
            Some(memory) => (Some(memory), Element::F32),
            None => (run.buffer.narrow.as_ref(), self.element),
        };
        self.place(run.buffer, memory, run.range.clone(), element)?;
        let bytes = run.range.start * element.bytes()..run.range.end * element.bytes();
        let read = memory.map(|memory| self.driver.read(memory, bytes)).transpose()?;
        Ok((element, read.unwrap_or_default()))
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

    /// Where the half-precision copy of elements lies; 0 where there is none, as in `f32`.
    pub(super) fn copy_of(&self, run: &SliceMut<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
        match &run.buffer.narrow {
            Some(_) => self.stored(run.buffer, run.range.clone()),
            None => Ok(Argument::Address(0)),
        }
    }

    /// Where the elements of a run lie in `f32`.
    pub(super) fn wide_run(&self, run: &Slice<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
        self.wide(run.buffer, run.range.clone())
    }

    /// The same as an address.
    ///
    /// # Errors
    /// The buffer does not have them, or the device failed.
    pub fn address_of(&self, run: &Slice<'_, Buffer<D::Memory>>) -> Result<u64, DeviceError> {
        self.place(run.buffer, run.buffer.wide.as_ref(), run.range.clone(), Element::F32)
    }

    /// Where the elements of a run to write lie in `f32`.
    pub(super) fn wide_mut(&self, run: &SliceMut<'_, Buffer<D::Memory>>) -> Result<Argument, DeviceError> {
        self.wide(run.buffer, run.range.clone())
    }

    /// Where elements lie for what is enqueued on the stream from now on. Every way there leads through this.
    fn place(
        &self,
        buffer: &Buffer<D::Memory>,
        memory: Option<&Rc<D::Memory>>,
        range: Range<usize>,
        element: Element,
    ) -> Result<u64, DeviceError> {
        let bytes = self.find(buffer, memory, range, element)?;
        self.settle_at(&bytes)?;
        if let Some(memory) = memory {
            self.note(memory, &bytes);
        }
        Ok(bytes.start)
    }

    /// Checks that the buffer has the elements: an address never leads outside.
    fn find(
        &self,
        buffer: &Buffer<D::Memory>,
        memory: Option<&Rc<D::Memory>>,
        range: Range<usize>,
        element: Element,
    ) -> Result<Range<u64>, DeviceError> {
        if range.start > range.end || range.end > buffer.room {
            let problem = format!("elements {range:?} of a buffer of {}", buffer.room);
            return Err(DeviceError::Failed { doing: "find a buffer's elements", problem });
        }
        match memory {
            Some(memory) => {
                let at = |place: usize| self.driver.address(memory) + (place * element.bytes()) as u64;
                Ok(at(range.start)..at(range.end))
            }
            None if range.is_empty() => Ok(0..0),
            None => {
                let problem = format!("elements {range:?} are not there in {}", element.suffix());
                Err(DeviceError::Failed { doing: "find a buffer's elements", problem })
            }
        }
    }

    /// Where the buffer's memory lies, which no other one's does at the time; 0 for one without elements.
    pub(super) fn place_of(&self, buffer: &Buffer<D::Memory>) -> u64 {
        buffer.wide.as_ref().or(buffer.narrow.as_ref()).map_or(0, |memory| self.driver.address(memory))
    }

    /// Elements for what is enqueued beside the stream: in `f32`, and their half-precision copy where there is one.
    pub(super) fn touch(
        &self,
        buffer: &Buffer<D::Memory>,
        range: &Range<usize>,
    ) -> Result<[Option<Touched<D::Memory>>; 2], DeviceError> {
        let touch = |(memory, element): (&Option<Rc<D::Memory>>, Element)| {
            let touched = |memory: &Rc<D::Memory>| {
                let bytes = self.find(buffer, Some(memory), range.clone(), element)?;
                Ok(Touched::new(memory, bytes))
            };
            memory.as_ref().map(touched).transpose()
        };
        Ok([touch((&buffer.wide, Element::F32))?, touch((&buffer.narrow, self.element))?])
    }
}
