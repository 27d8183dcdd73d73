//! A device with little memory, in place of one that has more.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use super::driver::{Argument, Driver, Element, Grid, Kernel, Product};
use crate::ops::{DeviceError, Shortage};

/// What a graph takes.
const GRAPH_BYTES: u64 = 4096;

/// A driver of whose memory no more than a part may be used.
#[derive(Debug, Clone)]
pub(crate) struct Limited<D> {
    driver: D,
    total: u64,
    used: Rc<Cell<u64>>,
    most: Rc<Cell<u64>>,
}

/// Memory that counts.
#[derive(Debug)]
pub(crate) struct Counted<M> {
    memory: M,
    bytes: u64,
    used: Rc<Cell<u64>>,
}

impl<M> Drop for Counted<M> {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.bytes);
    }
}

impl<D> Limited<D> {
    pub(crate) fn new(driver: D, total: u64) -> Self {
        Self { driver, total, used: Rc::default(), most: Rc::default() }
    }

    /// What is made, if there are so many bytes left for it.
    fn count<M>(&self, asked: u64, make: impl FnOnce() -> Result<M, DeviceError>) -> Result<Counted<M>, DeviceError> {
        let free = self.total - self.used.get();
        if asked > free {
            let shortage = Shortage { asked, free: Some(free), total: Some(self.total) };
            return Err(DeviceError::OutOfMemory { shortage });
        }
        let memory = make()?;
        self.used.set(self.used.get() + asked);
        self.most.set(self.most.get().max(self.used.get()));
        Ok(Counted { memory, bytes: asked, used: self.used.clone() })
    }

    /// The bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.get()
    }

    /// The most bytes that were in use at a time.
    pub(crate) fn most(&self) -> u64 {
        self.most.get()
    }
}

impl<D: Driver> Driver for Limited<D> {
    type Memory = Counted<D::Memory>;
    type Event = D::Event;
    type Graph = Counted<D::Graph>;

    fn allocate(&self, bytes: usize) -> Result<Counted<D::Memory>, DeviceError> {
        self.count(bytes as u64, || self.driver.allocate(bytes))
    }

    fn address(&self, memory: &Counted<D::Memory>) -> u64 {
        self.driver.address(&memory.memory)
    }

    fn clear(&self, memory: &mut Counted<D::Memory>) -> Result<(), DeviceError> {
        self.driver.clear(&mut memory.memory)
    }

    fn write(&self, memory: &mut Counted<D::Memory>, bytes: &[u8]) -> Result<(), DeviceError> {
        self.driver.write(&mut memory.memory, bytes)
    }

    fn read(&self, memory: &Counted<D::Memory>, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        self.driver.read(&memory.memory, bytes)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.driver.wait()
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.driver.launch(kernel, element, grid, arguments) }
    }

    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<D::Event, DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.driver.launch_beside(kernel, element, grid, arguments) }
    }

    fn follow(&self, event: &D::Event) -> Result<(), DeviceError> {
        self.driver.follow(event)
    }

    fn can_record(&self) -> bool {
        self.driver.can_record()
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        self.driver.begin_graph()
    }

    fn end_graph(&self) -> Result<Counted<D::Graph>, DeviceError> {
        let graph = self.driver.end_graph()?;
        self.count(GRAPH_BYTES, || Ok(graph))
    }

    unsafe fn replay(&self, graph: &Counted<D::Graph>) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.driver.replay(&graph.memory) }
    }

    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.driver.product(product) }
    }
}
