//! Launches of `reduce.cu`.

use super::driver::{Argument, Driver, Element, Grid, Kernel};
use super::runs::Runs;
use super::{Buffer, Cuda, int, long};
use crate::collective::SparseRows;
use crate::ops::{DeviceError, Slice, SliceMut};

const ADD: Kernel = Kernel { module: "reduce", name: "add" };
const SQUARE_SUM: Kernel = Kernel { module: "reduce", name: "square_sum" };
const MERGE_ROWS: Kernel = Kernel { module: "reduce", name: "merge_rows" };
const NARROW: Kernel = Kernel { module: "reduce", name: "narrow" };
const WIDEN: Kernel = Kernel { module: "reduce", name: "widen" };
const SCATTER_ROWS: Kernel = Kernel { module: "reduce", name: "scatter_rows" };

const THREADS: usize = 256;
/// Enough blocks to fill any device; more would only wait.
const MOST_BLOCKS: usize = 4096;
/// Elements whose squares a block of threads sums; their sums are added on the host.
pub(super) const PIECE: usize = 16384;

/// A thread or more for each element.
fn element_grid(count: usize) -> Grid {
    Grid::new(count.div_ceil(THREADS).min(MOST_BLOCKS), THREADS)
}

pub(super) fn add<D: Driver>(
    cuda: &Cuda<D>,
    into: &SliceMut<'_, Buffer<D::Memory>>,
    from: &Slice<'_, Buffer<D::Memory>>,
) -> Result<(), DeviceError> {
    if into.range.len() != from.range.len() {
        let problem = format!("{} elements to {}", from.range.len(), into.range.len());
        return Err(DeviceError::Failed { doing: "add buffers", problem });
    }
    let count = into.range.len();
    let arguments = [cuda.wide_mut(into)?, cuda.wide_run(from)?, long(count)];
    cuda.enqueue(ADD, Element::F32, element_grid(count), &arguments)
}

pub(super) fn copy<D: Driver>(
    cuda: &Cuda<D>,
    into: &SliceMut<'_, Buffer<D::Memory>>,
    from: &Slice<'_, Buffer<D::Memory>>,
) -> Result<(), DeviceError> {
    if into.range.len() != from.range.len() {
        let problem = format!("{} elements to {}", from.range.len(), into.range.len());
        return Err(DeviceError::Failed { doing: "copy a buffer", problem });
    }
    let count = into.range.len();
    // To single precision, nothing is rounded.
    let arguments = [cuda.wide_run(from)?, cuda.wide_mut(into)?, long(count)];
    cuda.enqueue(NARROW, Element::F32, element_grid(count), &arguments)
}

pub(super) fn square_sums<D: Driver>(
    cuda: &Cuda<D>,
    runs: &[Slice<'_, Buffer<D::Memory>>],
) -> Result<Vec<Vec<f64>>, DeviceError> {
    let mut table = Runs::default();
    let pieces = |run: &Slice<'_, Buffer<D::Memory>>| run.range.len().div_ceil(PIECE);
    for run in runs.iter().filter(|run| !run.range.is_empty()) {
        table.push(cuda.address_of(run)?, run.range.len(), (pieces(run), PIECE as u64));
    }
    if table.blocks() == 0 {
        return Ok(vec![Vec::new(); runs.len()]);
    }
    let bytes = table.blocks() * size_of::<f64>();
    let (partial, places) = (cuda.take(bytes)?, cuda.scratch(table.bytes())?);
    let [places, sums] = [&places, &partial].map(|memory| Argument::Address(cuda.driver.address(memory)));
    let grid = Grid { blocks: [table.blocks(), 1], threads: THREADS, shared_bytes: THREADS * size_of::<f64>() };
    cuda.enqueue(SQUARE_SUM, Element::F32, grid, &[places, int(table.len()), sums])?;
    let bytes = cuda.driver.read(&partial, 0..bytes)?;
    let mut sums = bytes.chunks_exact(size_of::<f64>()).map(bytemuck::pod_read_unaligned::<f64>);
    Ok(runs.iter().map(|run| sums.by_ref().take(pieces(run)).collect()).collect())
}

pub(super) fn add_rows<D: Driver>(
    cuda: &Cuda<D>,
    left: &SparseRows<Buffer<D::Memory>>,
    right: &SparseRows<Buffer<D::Memory>>,
    width: usize,
) -> Result<SparseRows<Buffer<D::Memory>>, DeviceError> {
    let mut rows: Vec<u32> = left.rows.iter().chain(&right.rows).copied().collect();
    rows.sort_unstable();
    rows.dedup();
    let values = merge(cuda, [left, right], &rows, width)?;
    Ok(SparseRows { rows, values })
}

pub(super) fn spread_rows<D: Driver>(
    cuda: &Cuda<D>,
    from: &SparseRows<Buffer<D::Memory>>,
    rows: &[u32],
    width: usize,
) -> Result<Buffer<D::Memory>, DeviceError> {
    merge(cuda, [from, &SparseRows::default()], rows, width)
}

/// What both have of `rows`, added up; −0 where neither has a row.
fn merge<D: Driver>(
    cuda: &Cuda<D>,
    [left, right]: [&SparseRows<Buffer<D::Memory>>; 2],
    rows: &[u32],
    width: usize,
) -> Result<Buffer<D::Memory>, DeviceError> {
    let place = |of: &SparseRows<Buffer<D::Memory>>, row: &u32| of.rows.binary_search(row).map_or(-1, |at| at as i32);
    let places: Vec<i32> = rows.iter().flat_map(|row| [place(left, row), place(right, row)]).collect();
    let places = cuda.scratch(bytemuck::cast_slice(&places))?;
    let values = cuda.allocate(rows.len() * width, Element::F32)?;
    let arguments = [
        cuda.wide(&left.values, 0..left.rows.len() * width)?,
        cuda.wide(&right.values, 0..right.rows.len() * width)?,
        Argument::Address(cuda.driver.address(&places)),
        cuda.wide(&values, 0..rows.len() * width)?,
        int(width),
    ];
    cuda.enqueue(MERGE_ROWS, Element::F32, Grid::new(rows.len(), THREADS), &arguments)?;
    Ok(values)
}

impl<D: Driver> Cuda<D> {
    /// The first `count` elements in another precision.
    ///
    /// # Errors
    /// The device failed, or its memory is exhausted; so for all that follow.
    pub fn narrowed(
        &self,
        from: &Buffer<D::Memory>,
        count: usize,
        element: Element,
    ) -> Result<Buffer<D::Memory>, DeviceError> {
        let memory = self.take(count * element.bytes())?;
        let to = Argument::Address(self.driver.address(&memory));
        self.enqueue(NARROW, element, element_grid(count), &[self.wide(from, 0..count)?, to, long(count)])?;
        Ok(Buffer::new(count, element, memory))
    }

    /// The reverse of [`Cuda::narrowed`].
    ///
    /// # Errors
    /// As there.
    pub fn widen(
        &self,
        from: &Buffer<D::Memory>,
        to: &Buffer<D::Memory>,
        count: usize,
        element: Element,
    ) -> Result<(), DeviceError> {
        let arguments = [Argument::Address(self.address(from, count)?), self.wide(to, 0..count)?, long(count)];
        self.enqueue(WIDEN, element, element_grid(count), &arguments)
    }

    /// Where the first `count` elements of a buffer that is in one precision lie.
    ///
    /// # Errors
    /// The buffer has fewer.
    pub fn address(&self, buffer: &Buffer<D::Memory>, count: usize) -> Result<u64, DeviceError> {
        self.stored_at(buffer, 0..count)
    }

    /// Writes rows to their places in a matrix of rows of `width` elements.
    ///
    /// # Errors
    /// As for [`Cuda::narrowed`].
    pub fn scatter_rows(
        &self,
        from: &SparseRows<Buffer<D::Memory>>,
        to: &Buffer<D::Memory>,
        width: usize,
    ) -> Result<(), DeviceError> {
        let numbers: Vec<i32> = from.rows.iter().map(|row| *row as i32).collect();
        let rows = self.scratch(bytemuck::cast_slice(&numbers))?;
        let arguments = [
            self.wide(&from.values, 0..numbers.len() * width)?,
            Argument::Address(self.driver.address(&rows)),
            self.wide(to, 0..to.room)?,
            int(width),
        ];
        self.enqueue(SCATTER_ROWS, Element::F32, Grid::new(numbers.len(), THREADS), &arguments)
    }
}

/// Writes the half-precision copy of a buffer's `f32` elements anew, where there is one.
pub(super) fn refresh_narrow<D: Driver>(cuda: &Cuda<D>, buffer: &mut Buffer<D::Memory>) -> Result<(), DeviceError> {
    if cuda.element_of(buffer) == Element::F32 {
        return Ok(());
    }
    let count = buffer.room;
    let arguments = [cuda.wide(buffer, 0..count)?, cuda.stored(buffer, 0..count)?, long(count)];
    cuda.enqueue(NARROW, cuda.element, element_grid(count), &arguments)
}
