//! A device whose products add in an order that depends on their shape, as cuBLAS's do.

use std::ops::Range;

use medley_common::plan::mix;

use super::driver::{Argument, Driver, Element, Epilogue, Grid, Kernel, Matrix, Product};
use crate::ops::DeviceError;

/// A driver that rounds products here and there, by their shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choosy<D>(pub(crate) D);

impl<D: Driver> Driver for Choosy<D> {
    type Memory = D::Memory;
    type Event = D::Event;
    type Graph = D::Graph;

    fn allocate(&self, bytes: usize) -> Result<D::Memory, DeviceError> {
        self.0.allocate(bytes)
    }

    fn address(&self, memory: &D::Memory) -> u64 {
        self.0.address(memory)
    }

    fn clear(&self, memory: &mut D::Memory) -> Result<(), DeviceError> {
        self.0.clear(memory)
    }

    fn write(&self, memory: &mut D::Memory, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(memory, bytes)
    }

    fn read(&self, memory: &D::Memory, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        self.0.read(memory, bytes)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.0.wait()
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.0.launch(kernel, element, grid, arguments) }
    }

    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<D::Event, DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.0.launch_beside(kernel, element, grid, arguments) }
    }

    fn follow(&self, event: &D::Event) -> Result<(), DeviceError> {
        self.0.follow(event)
    }

    fn can_record(&self) -> bool {
        self.0.can_record()
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        self.0.begin_graph()
    }

    fn end_graph(&self) -> Result<D::Graph, DeviceError> {
        self.0.end_graph()
    }

    unsafe fn replay(&self, graph: &D::Graph) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { self.0.replay(graph) }
    }

    /// It has epilogues for every other shape.
    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        if product.epilogue.is_some() && shape(product) >> 32 & 1 == 1 {
            return Ok(false);
        }
        let [m, n, k] = product.size;
        // One cut, as aligned as cuBLAS likes it: what comes before it is rounded before the rest is added.
        let cut = match product.epilogue {
            // It is a sum over the whole.
            Some(Epilogue::BiasGradient(_)) => 0,
            Some(Epilogue::Bias(_)) | None => (shape(product) % k.max(1) as u64) as usize / 8 * 8,
        };
        let part = |terms: Range<usize>, (add, epilogue)| Product {
            size: [m, n, terms.len()],
            a: from_term(&product.a, terms.start, !product.a.transposed),
            b: from_term(&product.b, terms.start, product.b.transposed),
            c: product.c,
            add,
            epilogue,
        };
        // SAFETY: the parts' matrices are parts of the product's.
        unsafe {
            if cut == 0 {
                return self.0.product(product);
            }
            Ok(self.0.product(&part(0..cut, (product.add, product.epilogue)))?
                && self.0.product(&part(cut..k, (true, None)))?)
        }
    }
}

/// A number that a product's sizes give.
fn shape(product: &Product) -> u64 {
    product.size.iter().fold(0, |shape, size| mix(shape ^ *size as u64))
}

/// The matrix from a term of the inner dimension on, which goes from column to column, or from row to row.
fn from_term(matrix: &Matrix, term: usize, by_columns: bool) -> Matrix {
    let elements = if by_columns { term * matrix.leading } else { term };
    Matrix { address: matrix.address + (elements * matrix.element.bytes()) as u64, ..*matrix }
}
