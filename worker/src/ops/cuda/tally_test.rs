//! A device that computes nothing and counts what is asked of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::driver::{Argument, Driver, Element, Grid, Kernel, Product};
use crate::ops::DeviceError;

/// What was asked of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Launches of each kernel.
    pub(crate) kernels: BTreeMap<&'static str, usize>,
    /// How many of them go beside the stream.
    pub(crate) beside: usize,
    /// How often the stream waits for one of those.
    pub(crate) follows: usize,
    pub(crate) products: usize,
    /// Multiplications and additions of the products, as two operations each.
    pub(crate) operations: u64,
    pub(crate) allocations: usize,
    pub(crate) clears: usize,
    pub(crate) writes: usize,
    /// Recordings that were enqueued; what was recorded counts as launches when it is.
    pub(crate) replays: usize,
    /// How often the host waits for all that was asked.
    pub(crate) waits: usize,
    /// Bytes of each copy to the host, for which the host waits.
    pub(crate) reads: Vec<usize>,
}

impl Asked {
    pub(crate) fn launches(&self) -> usize {
        self.products + self.kernels.values().sum::<usize>()
    }
}

/// Counts; all that is read of it is 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    asked: Rc<RefCell<Asked>>,
    /// Bytes taken so far: memory lies where no other ever lay.
    taken: Rc<Cell<u64>>,
}

impl Tally {
    /// What was asked since the last time.
    pub(crate) fn take(&self) -> Asked {
        self.asked.take()
    }
}

impl Driver for Tally {
    /// Where it lies.
    type Memory = u64;
    type Event = ();
    type Graph = ();

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.asked.borrow_mut().allocations += 1;
        let address = self.taken.get() + 256;
        self.taken.set((address + bytes as u64).next_multiple_of(256));
        Ok(address)
    }

    fn address(&self, memory: &u64) -> u64 {
        *memory
    }

    fn clear(&self, _memory: &mut u64) -> Result<(), DeviceError> {
        self.asked.borrow_mut().clears += 1;
        Ok(())
    }

    fn write(&self, _memory: &mut u64, _bytes: &[u8]) -> Result<(), DeviceError> {
        self.asked.borrow_mut().writes += 1;
        Ok(())
    }

    fn read(&self, _memory: &u64, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        self.asked.borrow_mut().reads.push(bytes.len());
        Ok(vec![0; bytes.len()])
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.asked.borrow_mut().waits += 1;
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        _element: Element,
        _grid: Grid,
        _arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        *self.asked.borrow_mut().kernels.entry(kernel.name).or_default() += 1;
        Ok(())
    }

    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        self.asked.borrow_mut().beside += 1;
        // SAFETY: as the caller says.
        unsafe { self.launch(kernel, element, grid, arguments) }
    }

    fn follow(&self, (): &()) -> Result<(), DeviceError> {
        self.asked.borrow_mut().follows += 1;
        Ok(())
    }

    fn can_record(&self) -> bool {
        true
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn end_graph(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    unsafe fn replay(&self, (): &()) -> Result<(), DeviceError> {
        self.asked.borrow_mut().replays += 1;
        Ok(())
    }

    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        let mut asked = self.asked.borrow_mut();
        asked.products += 1;
        asked.operations += 2 * product.size.iter().map(|size| *size as u64).product::<u64>();
        Ok(true)
    }
}
