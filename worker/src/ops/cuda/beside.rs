//! What goes on beside the stream: an optimizer's steps, each until something is enqueued that its end matters to.
//!
//! A step is bound by memory, and the forward pass after it by products. So it goes on the side stream, segment by segment
//! in the order of the layout, which is that in which forward comes to them. Nobody has to remember it: whoever enqueues
//! something asks the [`Cuda`] where elements lie, and is told once the stream follows the last step that touches them.
//! What a step touches is held until then, whoever drops it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::Cuda;
use super::driver::{Argument, Driver, Grid, Kernel};
use crate::ops::DeviceError;

/// The steps beside the stream that it does not follow yet, in their order.
#[derive(Debug)]
pub(super) struct Beside<D: Driver> {
    driver: D,
    steps: RefCell<VecDeque<Step<D>>>,
}

#[derive(Debug)]
struct Step<D: Driver> {
    touched: Vec<Touched<D::Memory>>,
    end: D::Event,
}

/// Bytes that a step reads or writes, by their addresses, and the memory that they are part of.
#[derive(Debug)]
pub(super) struct Touched<M> {
    pub(super) bytes: Range<u64>,
    _held: Rc<M>,
}

impl<M> Touched<M> {
    pub(super) fn new(memory: &Rc<M>, bytes: Range<u64>) -> Self {
        Self { bytes, _held: Rc::clone(memory) }
    }
}

impl<D: Driver> Beside<D> {
    pub(super) fn new(driver: D) -> Self {
        Self { driver, steps: RefCell::default() }
    }

    /// Has the stream follow the last step that `is_meant`, and thereby all before it.
    fn settle(&self, is_meant: impl Fn(&Step<D>) -> bool) -> Result<(), DeviceError> {
        let mut steps = self.steps.borrow_mut();
        if let Some(last) = steps.iter().rposition(is_meant) {
            self.driver.follow(&steps[last].end)?;
            // What is freed by this is so in the stream's order, and comes after them.
            steps.drain(..=last);
        }
        Ok(())
    }
}

impl<D: Driver> Drop for Beside<D> {
    fn drop(&mut self) {
        // A device that fails in this fails in all that follows, and says so.
        self.settle(|_| true).ok();
    }
}

impl<D: Driver> Cuda<D> {
    /// Enqueues a kernel made for this device's element beside the stream, after all that has been enqueued so far; it
    /// reads and writes what is `touched`, and nothing else.
    pub(super) fn enqueue_beside(
        &self,
        kernel: Kernel,
        grid: Grid,
        arguments: &[Argument],
        touched: Vec<Touched<D::Memory>>,
    ) -> Result<(), DeviceError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        // SAFETY: as for `enqueue`. What is touched is held, and its place told to nobody, until the stream follows the end.
        let end = unsafe { self.driver.launch_beside(kernel, self.element, grid, arguments) }?;
        self.beside.steps.borrow_mut().push_back(Step { touched, end });
        Ok(())
    }

    /// Has the stream follow the steps beside it that touch any of the bytes at these addresses.
    pub(super) fn settle_at(&self, bytes: &Range<u64>) -> Result<(), DeviceError> {
        let overlaps = |other: &Range<u64>| other.start < bytes.end && bytes.start < other.end;
        self.beside.settle(|step| step.touched.iter().any(|touched| overlaps(&touched.bytes)))
    }

    /// Has the stream follow all that goes on beside it: for other streams, which follow this one.
    ///
    /// # Errors
    /// The device failed.
    pub fn settle(&self) -> Result<(), DeviceError> {
        self.beside.settle(|_| true)
    }

    /// Memory of unspecified content. Where there is no more, the stream follows the steps beside it first: they may hold
    /// what nobody else does.
    pub(super) fn take(&self, bytes: usize) -> Result<D::Memory, DeviceError> {
        if self.recording.borrow().is_some() {
            let problem = "memory cannot be taken in the course of it".to_owned();
            return Err(DeviceError::Failed { doing: "record a CUDA graph", problem });
        }
        match self.driver.allocate(bytes) {
            Err(DeviceError::OutOfMemory { .. }) if !self.beside.steps.borrow().is_empty() => {
                self.settle()?;
                self.driver.allocate(bytes)
            }
            taken => taken,
        }
    }
}
