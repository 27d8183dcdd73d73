//! What the operations need of CUDA: memory, kernels and products, enqueued on a stream in the order called, and a side
//! stream for what goes on beside it.
//!
//! It is a trait so that the same operations, with the same launches and arguments, run on a GPU ([`super::device`]) and,
//! in tests, on the host, where the kernels are compiled by the C++ compiler.

use std::fmt::Debug;
use std::ops::Range;

use crate::ops::DeviceError;

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// `bfloat16`.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Element {
    /// Its size in memory.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The end of the names of the kernels made for it.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A kernel, made for each kind of element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// The source file in `kernels/`.
    pub module: &'static str,
    /// Its name there, without the element's suffix.
    pub name: &'static str,
}

/// The source files of all kernels.
pub const MODULES: [&str; 10] =
    ["adamw", "attention", "embedding", "gelu", "head", "linear", "matrix_attention", "norm", "reduce", "sgd"];

/// How many threads run a kernel, and what a block of them shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in `x` and `y`.
    pub blocks: [usize; 2],
    /// Threads of a block: a multiple of 32, at most 1024.
    pub threads: usize,
    /// Memory that a block shares.
    pub shared_bytes: usize,
}

impl Grid {
    /// `blocks` blocks of `threads` threads that share nothing.
    #[must_use]
    pub fn new(blocks: usize, threads: usize) -> Self {
        Self { blocks: [blocks, 1], threads, shared_bytes: 0 }
    }
}

/// What a kernel is called with, in the order of its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A place in the device's memory; 0 is none.
    Address(u64),
    /// An `int`.
    Int(i32),
    /// A `long long`.
    Long(i64),
    /// A `float`.
    Float(f32),
    /// A dropout: the structure `Drop`, in words of eight bytes.
    Dropout([u64; 3]),
    /// The coefficients of AdamW, in the order of the structure of that name.
    Coefficients([f32; 10]),
}

/// A column-major matrix in the device's memory, as BLAS takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Its first element.
    pub address: u64,
    /// Elements from a column to the next.
    pub leading: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
    /// How its elements are stored.
    pub element: Element,
}

/// What a product does in the same launch, with a vector at this address, whose elements are stored as those of `c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Adds the vector, of `m` elements, to each column of `c`, which is then rounded once. It replaces what `c` was.
    Bias(u64),
    /// Sums up the rows of `b`, in `f32`, to the vector, of `n` elements.
    BiasGradient(u64),
}

/// `c = a b`, or `c += a b`; summed in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Rows of `c`, columns of `c`, and the inner dimension.
    pub size: [usize; 3],
    /// `[m, k]`.
    pub a: Matrix,
    /// `[k, n]`, stored as `a` is.
    pub b: Matrix,
    /// `[m, n]`; not transposed.
    pub c: Matrix,
    /// Whether the product is added to `c`.
    pub add: bool,
    /// What else is done.
    pub epilogue: Option<Epilogue>,
}

/// One CUDA device with a stream, and a side stream whose kernels give way to those of the other; clones are the same one.
pub trait Driver: Debug + Clone {
    /// Memory of the device, freed in the stream's order when dropped.
    type Memory: Debug;
    /// A point of the side stream.
    type Event: Debug;
    /// What was recorded of the stream: a CUDA graph.
    type Graph: Debug;

    /// Takes `bytes` bytes of memory of unspecified content, aligned for any access.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or the device failed; so for all that follow.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// The most bytes that were in use at a time, where the device counts them.
    fn peak_bytes(&self) -> Option<u64> {
        None
    }

    /// Where memory lies.
    fn address(&self, memory: &Self::Memory) -> u64;

    /// Sets memory to zeros.
    ///
    /// # Errors
    /// The device failed.
    fn clear(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

    /// Copies bytes to the beginning of memory that has room for them.
    ///
    /// # Errors
    /// The device failed.
    fn write(&self, memory: &mut Self::Memory, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies bytes to the host, after everything enqueued before.
    ///
    /// # Errors
    /// The device failed, now or at something enqueued before.
    fn read(&self, memory: &Self::Memory, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError>;

    /// Waits until all that is enqueued on the stream has been done.
    ///
    /// # Errors
    /// The device failed.
    fn wait(&self) -> Result<(), DeviceError>;

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel's parameters, and what their addresses mean stays allocated until the stream
    /// has come past the kernel.
    ///
    /// # Errors
    /// The device failed.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError>;

    /// Enqueues a kernel on the side stream, after all that has been enqueued on both, and returns its end.
    ///
    /// # Safety
    /// As for [`launch`](Self::launch); but what the addresses mean stays allocated until the stream
    /// [follows](Self::follow) the end. Nothing that is enqueued before that writes it, or reads what the kernel writes.
    ///
    /// # Errors
    /// The device failed.
    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<Self::Event, DeviceError>;

    /// Has all that is enqueued on the stream from now on come after a point of the side stream. The host does not wait.
    ///
    /// # Errors
    /// The device failed.
    fn follow(&self, event: &Self::Event) -> Result<(), DeviceError>;

    /// Whether it can record.
    fn can_record(&self) -> bool;

    /// From now on kernels and products are recorded in place of being enqueued on the stream, and nothing else may be asked
    /// for that concerns the stream.
    ///
    /// # Errors
    /// The device failed.
    fn begin_graph(&self) -> Result<(), DeviceError>;

    /// Ends the recording.
    ///
    /// # Errors
    /// Something was asked for that cannot be recorded, or the device failed.
    fn end_graph(&self) -> Result<Self::Graph, DeviceError>;

    /// Enqueues all that was recorded, in its order.
    ///
    /// # Safety
    /// What addresses in it mean is allocated as it was then, until the stream has come past it.
    ///
    /// # Errors
    /// The device failed.
    unsafe fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError>;

    /// Enqueues a product of matrices of no size 0; or says false, and does nothing, where the device does not have its
    /// epilogue for them. That depends on sizes, on kinds of elements, and on how what is there is aligned, alone.
    ///
    /// # Safety
    /// The matrices lie in memory that stays allocated until the stream has come past the product.
    ///
    /// # Errors
    /// The device failed, or it cannot compute a product without an epilogue.
    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError>;
}
