//! The operations on a CUDA device: products by cuBLASLt, everything else by the kernels in `kernels/`.
//!
//! Each file launches the kernels of the file of its name. Everything is enqueued on one stream but the optimizer's step,
//! which goes on beside it (`beside.rs`); only what [`Ops`](crate::ops::Ops) says waits for a result.

use std::rc::Rc;

use medley_common::model::ModelConfig;
use medley_common::spec::Precision;

use super::DeviceError;
use super::dropout::Dropout;

mod adamw;
mod attention;
mod beside;
mod buffer;
pub mod driver;
mod embedding;
mod gelu;
mod graphs;
mod head;
mod linear;
mod norm;
mod operations;
mod pack;
mod reduce;
mod runs;
mod sgd;
mod step;
pub mod surroundings;

#[cfg(test)]
mod attention_test;
#[cfg(test)]
mod beside_test;
#[cfg(test)]
pub(crate) mod choosy_test;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(test)]
pub(crate) mod drivers_test;
#[cfg(test)]
mod dropout_test;
#[cfg(test)]
pub(crate) mod emulator;
#[cfg(test)]
mod graphs_test;
#[cfg(test)]
mod kernels_test;
#[cfg(test)]
pub(crate) mod limited_test;
#[cfg(test)]
mod products_test;
#[cfg(test)]
mod reduce_test;
#[cfg(test)]
pub(crate) mod tally_test;

pub use buffer::Buffer;
pub use graphs::Graphs;
pub use pack::Pack;

use beside::Beside;
use driver::{Argument, Driver, Element, Grid, Kernel};
use graphs::Recording;
use pack::Shelf;

/// Elements that a kernel reads at once: widths are multiples of it.
const GROUP: usize = 8;
/// Elements of the widest head.
const WIDEST_HEAD: usize = 128;
/// Elements of the widest row that a warp normalises in shared memory.
const WIDEST_ROW: usize = 8192;

/// A CUDA device; clones are the same one.
#[derive(Debug)]
pub struct Cuda<D: Driver> {
    driver: D,
    element: Element,
    beside: Rc<Beside<D>>,
    /// Whether sections are recorded.
    records: bool,
    shelf: Shelf<D::Memory>,
    recording: Rc<Recording<D::Memory>>,
}

impl<D: Driver> Clone for Cuda<D> {
    fn clone(&self) -> Self {
        let Self { driver, element, beside, records, shelf, recording } = self;
        let (beside, shelf, recording) = (Rc::clone(beside), Rc::clone(shelf), Rc::clone(recording));
        Self { driver: driver.clone(), element: *element, beside, records: *records, shelf, recording }
    }
}

/// Why a model cannot be computed by the kernels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A width is no multiple of what is read at once.
    #[error("{name} is {value}; on a CUDA device it must be a multiple of {GROUP}: use --device cpu")]
    Group {
        /// The width.
        name: &'static str,
        /// Its value.
        value: usize,
    },
    /// A width is more than a block of threads can share.
    #[error("{name} is {value}; on a CUDA device it can be {most} at most: use --device cpu")]
    Wide {
        /// The width.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The widest.
        most: usize,
    },
}

/// Checks that the kernels can compute the model.
///
/// # Errors
/// The first width that they cannot.
pub fn check_shape(model: &ModelConfig) -> Result<(), ShapeError> {
    let (hidden, head) = (model.hidden_size as usize, model.head_size() as usize);
    let widths = [
        ("hidden_size", hidden, WIDEST_ROW),
        ("embedding_size", model.embedding_size() as usize, WIDEST_ROW),
        ("intermediate_size", model.intermediate_size as usize, usize::MAX),
        ("the size of a head (hidden_size / num_attention_heads)", head, WIDEST_HEAD),
    ];
    for (name, value, most) in widths {
        if !value.is_multiple_of(GROUP) {
            return Err(ShapeError::Group { name, value });
        }
        if value > most {
            return Err(ShapeError::Wide { name, value, most });
        }
    }
    Ok(())
}

impl<D: Driver> Cuda<D> {
    /// The operations of `driver`'s device, with products and activations in this precision.
    pub fn new(driver: D, precision: Precision) -> Self {
        let element = match precision {
            Precision::Float32 | Precision::Tf32 => Element::F32,
            Precision::Bfloat16 => Element::Bf16,
            Precision::Float16 => Element::F16,
        };
        Self::of_stream(driver, element)
    }

    /// Enqueues a kernel made for `element`.
    fn enqueue(&self, kernel: Kernel, element: Element, grid: Grid, arguments: &[Argument]) -> Result<(), DeviceError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        // SAFETY: the tests run every kernel with the arguments that the files beside this one give it. Addresses come
        // from buffers and batches that the operation has borrowed, checked to lie inside, and are told once the stream
        // follows the steps beside it that touch what lies there. Memory is freed in the stream's order.
        unsafe { self.driver.launch(kernel, element, grid, arguments) }
    }

    /// The same operations by another driver, as of another stream of the same device. What that stream is given of this
    /// one's it has by following this one, [settled](Self::settle) before.
    pub fn on(&self, driver: D) -> Self {
        Self::of_stream(driver, self.element)
    }

    fn of_stream(driver: D, element: Element) -> Self {
        let (records, shelf, recording) = (driver.can_record(), Rc::default(), Rc::default());
        Self { beside: Rc::new(Beside::new(driver.clone())), driver, element, records, shelf, recording }
    }

    /// The same operations, each of which is a launch of its own in every pass.
    #[must_use]
    pub fn without_graphs(self) -> Self {
        Self { records: false, ..self }
    }

    /// The device.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Memory for the time of an operation, with `bytes` in it.
    fn scratch(&self, bytes: &[u8]) -> Result<D::Memory, DeviceError> {
        let mut memory = self.take(bytes.len().max(1))?;
        self.driver.write(&mut memory, bytes)?;
        Ok(memory)
    }
}

/// The argument of a dropout: where the update's key lies in the batch's numbers, and what is the same in all updates.
fn dropout_argument<D: Driver>(
    cuda: &Cuda<D>,
    pack: &Pack<D::Memory>,
    dropout: Option<Dropout>,
) -> Result<Argument, DeviceError> {
    let Some((key, (site, threshold, scale))) = dropout.map(|dropout| dropout.parts()) else {
        return Ok(Argument::Dropout([0, 0, u64::from(1.0_f32.to_bits()) << 32]));
    };
    if key != pack.key {
        let problem = "the batch was loaded with the masks of another update".to_owned();
        return Err(DeviceError::Failed { doing: "find a dropout's key", problem });
    }
    let rest = u64::from(scale.to_bits()) << 32 | u64::from(threshold);
    Ok(Argument::Dropout([cuda.key_of(pack), site, rest]))
}

/// A number of rows or columns.
fn int(value: usize) -> Argument {
    Argument::Int(i32::try_from(value).unwrap_or(i32::MAX))
}

/// A number of elements.
fn long(value: usize) -> Argument {
    Argument::Long(i64::try_from(value).unwrap_or(i64::MAX))
}
