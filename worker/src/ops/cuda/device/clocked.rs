//! A GPU whose work is timed, kernel by kernel, on its own clock.
//!
//! An event stands before and after everything that is enqueued: what lies between two kernels counts for neither. The host
//! has twice as much to enqueue, so an update as a whole takes longer than without.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaSlice};

use super::{Gpu, Graph, failed};
use crate::ops::DeviceError;
use crate::ops::cuda::driver::{Argument, Driver, Element, Epilogue, Grid, Kernel, Product};

/// A GPU that says how long kernels and products take; clones are the same one.
#[derive(Debug, Clone)]
pub struct Clocked {
    gpu: Gpu,
    spans: Rc<RefCell<Vec<Span>>>,
}

/// From the beginning to the end of one thing enqueued.
#[derive(Debug)]
struct Span {
    name: String,
    begin: CudaEvent,
    end: CudaEvent,
}

/// What all launches of one kernel, or all products of one size, took.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Taken {
    /// How many there were.
    pub launches: u32,
    /// On the GPU, together.
    pub seconds: f64,
}

impl Clocked {
    /// Times what `gpu` is asked from now on.
    #[must_use]
    pub fn new(gpu: Gpu) -> Self {
        Self { gpu, spans: Rc::default() }
    }

    /// What was enqueued since the last time, by name, after it is done.
    ///
    /// # Errors
    /// The device failed.
    pub fn take(&self) -> Result<BTreeMap<String, Taken>, DeviceError> {
        let mut all: BTreeMap<String, Taken> = BTreeMap::new();
        for Span { name, begin, end } in self.spans.take() {
            let milliseconds = begin.elapsed_ms(&end).map_err(failed("read the GPU's clock"))?;
            let taken = all.entry(name).or_default();
            taken.launches += 1;
            taken.seconds += f64::from(milliseconds) / 1e3;
        }
        Ok(all)
    }

    fn time<T>(&self, name: String, enqueue: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        let event = || {
            let recorded = self.gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            recorded.map_err(failed("read the GPU's clock"))
        };
        let begin = event()?;
        let enqueued = enqueue()?;
        self.spans.borrow_mut().push(Span { name, begin, end: event()? });
        Ok(enqueued)
    }
}

impl Driver for Clocked {
    type Memory = CudaSlice<u8>;
    type Event = CudaEvent;
    type Graph = Graph;

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>, DeviceError> {
        self.gpu.allocate(bytes)
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.gpu.peak_bytes()
    }

    fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        self.gpu.address(memory)
    }

    fn clear(&self, memory: &mut CudaSlice<u8>) -> Result<(), DeviceError> {
        self.gpu.clear(memory)
    }

    fn write(&self, memory: &mut CudaSlice<u8>, bytes: &[u8]) -> Result<(), DeviceError> {
        self.gpu.write(memory, bytes)
    }

    fn read(&self, memory: &CudaSlice<u8>, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        self.gpu.read(memory, bytes)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.gpu.wait()
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let name = format!("{}_{}", kernel.name, element.suffix());
        // SAFETY: the caller answers for the arguments.
        self.time(name, || unsafe { self.gpu.launch(kernel, element, grid, arguments) })
    }

    /// On the stream itself: beside other work, a kernel has no time of its own.
    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<CudaEvent, DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.launch(kernel, element, grid, arguments) }?;
        self.gpu.stream.record_event(None).map_err(failed("end a step"))
    }

    fn follow(&self, event: &CudaEvent) -> Result<(), DeviceError> {
        self.gpu.follow(event)
    }

    /// What is recorded has no clock of its own.
    fn can_record(&self) -> bool {
        false
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        self.gpu.begin_graph()
    }

    fn end_graph(&self) -> Result<Graph, DeviceError> {
        self.gpu.end_graph()
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.gpu.replay(graph) }
    }

    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        // SAFETY: the caller answers for the matrices.
        self.time(name(product), || unsafe { self.gpu.product(product) })
    }
}

/// Its sizes, and what is done besides.
fn name(product: &Product) -> String {
    let [m, n, k] = product.size;
    let besides = match (product.epilogue, product.add) {
        (Some(Epilogue::Bias(_)), _) => " with a bias",
        (Some(Epilogue::BiasGradient(_)), _) => " with a bias's gradient",
        (None, true) => " added",
        (None, false) => "",
    };
    format!("product {m} x {n} x {k}{besides}")
}
