//! A GPU, through candle's device.
//!
//! One thread owns it. All work goes to one stream, so memory that is freed in the stream's order outlives what was
//! enqueued before, and nothing needs the events by which cudarc would follow each buffer. What goes to the side stream
//! holds its memory until the one stream waits for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::cuda_backend::CudaDevice;
use cudarc::driver::sys::{CUfunction_attribute_enum as FunctionAttribute, CUmemPool_attribute_enum as PoolAttribute};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
    result as driver, sys as driver_sys,
};

use super::driver::{Argument, Driver, Element, Grid, Kernel, MODULES, Product};
use super::surroundings::Surroundings;
use crate::ops::{DeviceError, Shortage};

mod blas;
pub mod clocked;
mod gpus;

use blas::Blas;
pub use blas::cublas_version;
pub use gpus::{Description, visible};
use gpus::{check_driver, describe, surroundings};

/// The kernels, compiled for compute capability 8.0: newer devices translate them when they are loaded.
const SOURCES: [&str; MODULES.len()] = [
    include_str!(concat!(env!("OUT_DIR"), "/adamw.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/embedding.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/gelu.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/head.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/linear.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/matrix_attention.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/norm.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/reduce.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/sgd.ptx")),
];

/// What a block can share on every device of that capability and later.
const MOST_SHARED_BYTES: i32 = 99 * 1024;

/// A GPU; clones are the same one.
#[derive(Clone)]
pub struct Gpu {
    /// Its own stream is the side stream.
    device: CudaDevice,
    /// The stream that it was opened with, whose priority is the highest.
    computing: Arc<CudaStream>,
    stream: Arc<CudaStream>,
    functions: Rc<RefCell<BTreeMap<(Kernel, Element), CudaFunction>>>,
    blas: Rc<Blas>,
}

/// A CUDA graph that can be launched.
pub struct Graph(CudaGraph);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Graph").field(&self.0.cu_graph_exec()).finish()
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gpu").field(&self.device).finish()
    }
}

impl Gpu {
    /// Takes a GPU, for the calling thread, and loads the kernels.
    ///
    /// `tf32` lets products of `f32` matrices be rounded to 10 bits of fraction.
    ///
    /// # Errors
    /// The driver is missing or too old, the GPU is too old or does not exist, or it does not take the kernels.
    pub fn open(ordinal: usize, tf32: bool) -> Result<Self, DeviceError> {
        check_driver()?;
        describe(ordinal)?.check()?;
        let device = CudaDevice::new_with_stream(ordinal).map_err(candle("open the GPU"))?;
        // SAFETY: this thread alone enqueues, all on one stream; others wait for it, and it for them, by events of their own.
        unsafe { device.disable_event_tracking() };
        let context = device.cuda_stream().context().clone();
        let computing = urgent_stream(&context).map_err(failed("open the GPU"))?;
        keep_memory(&context).map_err(failed("set up the GPU's memory"))?;
        for (module, source) in MODULES.iter().zip(SOURCES) {
            // The names of a module's kernels begin differently; loading any of them loads the module.
            let first = source.lines().find_map(|line| line.trim().strip_prefix(".visible .entry "));
            let name = first.unwrap_or_default().trim_end_matches('(');
            device.get_or_load_custom_func(name, module, source).map_err(candle("load the kernels"))?;
        }
        let blas = Rc::new(Blas::new(&computing, tf32)?);
        Ok(Self { device, stream: computing.clone(), computing, functions: Rc::default(), blas })
    }

    /// The same GPU with another of its streams: what is enqueued there, and memory that is taken there, has the order of
    /// that stream alone. It multiplies no matrices: cuBLASLt's memory is this stream's.
    #[must_use]
    pub fn on(&self, stream: Arc<CudaStream>) -> Self {
        Self { stream, ..self.clone() }
    }

    /// A stream for what must not wait for computing, as exchanges are: of the same priority.
    ///
    /// # Errors
    /// The driver failed.
    pub fn new_stream(&self) -> Result<Arc<CudaStream>, DriverError> {
        urgent_stream(self.stream.context())
    }

    /// The stream that everything is enqueued on but what goes beside it.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// What CUDA tells of this GPU's place among those that this process sees.
    ///
    /// # Errors
    /// The driver failed.
    pub fn surroundings(&self) -> Result<Surroundings, DeviceError> {
        surroundings(self.stream.context().cu_device())
    }

    /// What there is of memory for `asked` bytes, that which this process holds unused counted as free.
    fn shortage(&self, asked: u64) -> Shortage {
        let known = driver::mem_get_info().ok();
        let unused = self.pool(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).and_then(|reserved| {
            Ok(reserved.saturating_sub(self.pool(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
        });
        let free = known.map(|(free, _)| free as u64 + unused.unwrap_or(0));
        Shortage { asked, free, total: known.map(|(_, total)| total as u64) }
    }

    /// A number of bytes of the memory pool.
    fn pool(&self, attribute: PoolAttribute) -> Result<u64, DriverError> {
        let mut bytes = 0_u64;
        // SAFETY: the attributes asked for are 64-bit numbers.
        unsafe {
            let pool = driver::device::get_default_mem_pool(self.stream.context().cu_device())?;
            driver::mem_pool::get_attribute(pool, attribute, std::ptr::from_mut(&mut bytes).cast())?;
        }
        Ok(bytes)
    }

    /// Gives memory of the pool that nothing is in back to the GPU, for who takes it by other ways: the next update takes it
    /// again.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn give_memory_back(&self) -> Result<(), DriverError> {
        // SAFETY: the pool is the device's own.
        unsafe {
            let pool = driver::device::get_default_mem_pool(self.stream.context().cu_device())?;
            driver::mem_pool::trim_to(pool, 0)
        }
    }

    /// A kernel's function, found once.
    fn function(&self, kernel: Kernel, element: Element) -> Result<CudaFunction, DeviceError> {
        if let Some(function) = self.functions.borrow().get(&(kernel, element)) {
            return Ok(function.clone());
        }
        let source =
            MODULES.iter().zip(SOURCES).find(|(module, _)| **module == kernel.module).map(|(_, source)| source);
        let name = format!("{}_{}", kernel.name, element.suffix());
        let function = self
            .device
            .get_or_load_custom_func(&name, kernel.module, source.unwrap_or_default())
            .map_err(candle("find a kernel"))?
            .into_cuda_function();
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, MOST_SHARED_BYTES).map_err(failed("set up a kernel"))?;
        self.functions.borrow_mut().insert((kernel, element), function.clone());
        Ok(function)
    }

    /// Enqueues a kernel on a stream.
    ///
    /// # Safety
    /// As for [`Driver::launch`], of that stream.
    unsafe fn launch_on(
        &self,
        stream: &CudaStream,
        (kernel, element): (Kernel, Element),
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let function = self.function(kernel, element)?;
        let mut builder = stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Address(value) => builder.arg(value),
                Argument::Int(value) => builder.arg(value),
                Argument::Long(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
                Argument::Dropout(words) => builder.arg(words),
                Argument::Coefficients(values) => builder.arg(values),
            };
        }
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let shape = LaunchConfig {
            grid_dim: (number(grid.blocks[0]), number(grid.blocks[1]), 1),
            block_dim: (number(grid.threads), 1, 1),
            shared_mem_bytes: number(grid.shared_bytes),
        };
        // SAFETY: the caller answers for the arguments.
        unsafe { builder.launch(shape) }.map_err(failed(kernel.name))?;
        Ok(())
    }
}

/// A stream of the highest priority: its kernels' blocks go before those of streams that were not given any.
fn urgent_stream(context: &Arc<CudaContext>) -> Result<Arc<CudaStream>, DriverError> {
    let (_, highest) = driver::stream::get_priority_range()?;
    context.new_stream_with_priority(highest)
}

/// Memory that is freed stays with the process: the next update takes it again. Streams wait for what another one is about
/// to free only where the GPU has no more, as the driver does of itself: to run out would be worse.
fn keep_memory(context: &CudaContext) -> Result<(), DriverError> {
    let mut threshold = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute is a 64-bit number.
    unsafe {
        let pool = driver::device::get_default_mem_pool(context.cu_device())?;
        let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        driver::mem_pool::set_attribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast())
    }
}

impl Driver for Gpu {
    type Memory = CudaSlice<u8>;
    type Event = CudaEvent;
    type Graph = Graph;

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>, DeviceError> {
        // SAFETY: the content is unspecified, as the trait says.
        unsafe { self.stream.alloc(bytes) }.map_err(|error| match error.0 {
            driver_sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                DeviceError::OutOfMemory { shortage: self.shortage(bytes as u64) }
            }
            _ => failed("take memory of the GPU")(error),
        })
    }

    fn peak_bytes(&self) -> Option<u64> {
        self.pool(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH).ok()
    }

    fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        use cudarc::driver::DevicePtr;
        let (address, _guard) = memory.device_ptr(&self.stream);
        address
    }

    fn clear(&self, memory: &mut CudaSlice<u8>) -> Result<(), DeviceError> {
        self.stream.memset_zeros(memory).map_err(failed("clear memory of the GPU"))
    }

    fn write(&self, memory: &mut CudaSlice<u8>, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.memcpy_htod(bytes, memory).map_err(failed("copy to the GPU"))
    }

    fn read(&self, memory: &CudaSlice<u8>, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.stream.clone_dtoh(&memory.slice(bytes)).map_err(failed("copy from the GPU"))?;
        self.stream.synchronize().map_err(failed("copy from the GPU"))?;
        Ok(values)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(failed("wait for the GPU"))
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.launch_on(&self.stream, (kernel, element), grid, arguments) }
    }

    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<CudaEvent, DeviceError> {
        let side = self.device.cuda_stream();
        side.join(&self.stream).map_err(failed(kernel.name))?;
        // SAFETY: as the caller says.
        unsafe { self.launch_on(&side, (kernel, element), grid, arguments) }?;
        side.record_event(None).map_err(failed(kernel.name))
    }

    fn follow(&self, event: &CudaEvent) -> Result<(), DeviceError> {
        self.stream.wait(event).map_err(failed("wait for the side stream"))
    }

    fn can_record(&self) -> bool {
        Arc::ptr_eq(&self.stream, &self.computing)
    }

    /// Other threads may do what they like in the meantime, as NCCL's do; this one does nothing that has an order.
    fn begin_graph(&self) -> Result<(), DeviceError> {
        let mode = driver_sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed("record a CUDA graph"))
    }

    fn end_graph(&self) -> Result<Graph, DeviceError> {
        // What has failed unseen, on whatever thread, would be told in place of the recording's end, which must come.
        let earlier = self.stream.context().check_err();
        let graph = self.stream.end_capture(driver_sys::CUgraphInstantiate_flags(0));
        let graph = earlier.and(graph).map_err(failed("make a CUDA graph"))?;
        let problem = "nothing was recorded".to_owned();
        graph.map(Graph).ok_or(DeviceError::Failed { doing: "make a CUDA graph", problem })
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        graph.0.launch().map_err(failed("launch a CUDA graph"))
    }

    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        if !Arc::ptr_eq(&self.stream, &self.computing) {
            let problem = "cuBLASLt has another stream".to_owned();
            return Err(DeviceError::Failed { doing: "multiply matrices", problem });
        }
        // SAFETY: the caller answers for the matrices.
        unsafe { self.blas.multiply(&self.stream, product) }
    }
}

fn failed(doing: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| match error.0 {
        driver_sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => full(),
        _ => DeviceError::Failed { doing, problem: text(error) },
    }
}

fn candle(doing: &'static str) -> impl Fn(candle_core::Error) -> DeviceError {
    // Of what the driver says it keeps the words alone.
    move |error| match error.to_string() {
        words if words.contains("CUDA_ERROR_OUT_OF_MEMORY") => full(),
        problem => DeviceError::Failed { doing, problem },
    }
}

/// No memory for what the driver takes by itself: a context, kernels, a stream.
fn full() -> DeviceError {
    let known = driver::mem_get_info().ok();
    let [free, total] = [known.map(|(free, _)| free as u64), known.map(|(_, total)| total as u64)];
    DeviceError::OutOfMemory { shortage: Shortage { asked: 0, free, total } }
}

/// The name of an error, and the driver's own words for it: a library that only stands in for the driver has none.
fn text(error: DriverError) -> String {
    let words = error.error_string().map(|words| words.to_string_lossy().into_owned());
    words.map_or_else(|_| format!("{:?}", error.0), |words| format!("{:?} ({words})", error.0))
}
