//! A device that computes nothing and counts what is asked of it.

use std::cell::RefCell;
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
    pub(crate) products: usize,
    /// Multiplications and additions of the products, as two operations each.
    pub(crate) operations: u64,
    pub(crate) allocations: usize,
    pub(crate) clears: usize,
    pub(crate) writes: usize,
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
pub(crate) struct Tally(Rc<RefCell<Asked>>);

impl Tally {
    /// What was asked since the last time.
    pub(crate) fn take(&self) -> Asked {
        self.0.take()
    }
}

impl Driver for Tally {
    type Memory = usize;

    fn allocate(&self, bytes: usize) -> Result<usize, DeviceError> {
        self.0.borrow_mut().allocations += 1;
        Ok(bytes)
    }

    fn address(&self, _memory: &usize) -> u64 {
        256
    }

    fn clear(&self, _memory: &mut usize) -> Result<(), DeviceError> {
        self.0.borrow_mut().clears += 1;
        Ok(())
    }

    fn write(&self, _memory: &mut usize, _bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.borrow_mut().writes += 1;
        Ok(())
    }

    fn read(&self, _memory: &usize, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        self.0.borrow_mut().reads.push(bytes.len());
        Ok(vec![0; bytes.len()])
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.0.borrow_mut().waits += 1;
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        _element: Element,
        _grid: Grid,
        _arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        *self.0.borrow_mut().kernels.entry(kernel.name).or_default() += 1;
        Ok(())
    }

    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        let mut asked = self.0.borrow_mut();
        asked.products += 1;
        asked.operations += 2 * product.size.iter().map(|size| *size as u64).product::<u64>();
        Ok(true)
    }
}
