//! Runs the kernels on the host: their sources, compiled by the machine's C++ compiler behind `kernels/emulator.h`.
//!
//! Memory is NaN until it is written and stands between two walls of NaN: what a kernel reads and should not shows in its
//! result, and what it writes outside is found when the memory is read or freed.

use std::alloc::{Layout, alloc};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use libloading::Library;

use super::driver::{Argument, Driver, Element, Epilogue, Grid, Kernel, MODULES, Matrix, Product};
use crate::ops::DeviceError;

mod recording;
mod side_stream;

pub(crate) use recording::{Recorded, replays};
pub(crate) use side_stream::held;

/// A kernel's arguments, its grid, its block, its shared bytes, and whether threads run from the last to the first.
type Run = unsafe extern "C" fn(*mut *mut c_void, *const u32, *const u32, u32, i32) -> i32;

/// Bytes of a wall; what lies between two begins at a multiple of this.
const WALL: usize = 256;
const UNWRITTEN: u8 = 0xff;

/// A GPU in place of which the host computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Emulator {
    /// Whether the threads of a block run from the last to the first.
    pub(crate) descending: bool,
    /// Whether what is enqueued on the side stream is held back until somebody waits for it, or done at once.
    pub(crate) late: bool,
}

/// The compiled kernels; `None` where no C++ compiler is found.
fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(compile).as_ref()
}

fn compile() -> Option<Library> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("kernels are not tested: there is no C++ compiler ({})", compiler.display());
        return None;
    }
    // As it is when the test runs: it may have been built elsewhere.
    let worker = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let kernels = Path::new(&worker).join("kernels");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libkernels.so");
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-include"]);
    command.arg(kernels.join("emulator.h")).arg("-o").arg(&file).args(["-x", "c++"]);
    command.args(MODULES.map(|module| kernels.join(module).with_extension("cu")));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library holds the kernels and nothing that runs when it is loaded but the making of one empty value.
    Some(unsafe { Library::new(&file) }.unwrap())
}

impl Emulator {
    /// One whose threads run in ascending order and one with the other, so that a missing barrier shows; the side stream of the
    /// first is late, so that a missing wait shows. None without a C++ compiler.
    pub(crate) fn both() -> Vec<Self> {
        let orders = [false, true].map(|descending| Self { descending, late: !descending });
        if library().is_some() { orders.to_vec() } else { Vec::new() }
    }
}

/// Bytes between two walls.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    bytes: usize,
}

impl Memory {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + 2 * WALL, WALL).unwrap()
    }

    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the size is not zero, and all of it is written before it is read.
        let start = unsafe {
            let start = alloc(layout);
            assert!(!start.is_null(), "the host's memory is exhausted");
            start.write_bytes(UNWRITTEN, layout.size());
            start
        };
        Self { start, bytes }
    }

    fn inside(&self) -> *mut u8 {
        self.start.wrapping_add(WALL)
    }

    fn check_walls(&self) {
        for wall in [self.start, self.inside().wrapping_add(self.bytes)] {
            // SAFETY: both walls are part of the allocation.
            let wall = unsafe { std::slice::from_raw_parts(wall, WALL) };
            assert!(wall.iter().all(|byte| *byte == UNWRITTEN), "a kernel wrote outside of {} bytes", self.bytes);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_walls();
        }
        // SAFETY: allocated with the same layout.
        unsafe { side_stream::free(self.start, Self::layout(self.bytes)) };
    }
}

impl Driver for Emulator {
    type Memory = Memory;
    type Event = u64;
    type Graph = Vec<Recorded>;

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        recording::assert_none("memory");
        Ok(Memory::new(bytes))
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.inside() as u64
    }

    fn clear(&self, memory: &mut Memory) -> Result<(), DeviceError> {
        recording::assert_none("a clear");
        // SAFETY: all of it lies between the walls.
        unsafe { memory.inside().write_bytes(0, memory.bytes) };
        Ok(())
    }

    fn write(&self, memory: &mut Memory, bytes: &[u8]) -> Result<(), DeviceError> {
        recording::assert_none("a copy to the device");
        assert!(bytes.len() <= memory.bytes, "{} bytes into {}", bytes.len(), memory.bytes);
        // SAFETY: there is room, and the host's bytes lie elsewhere.
        unsafe { memory.inside().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read(&self, memory: &Memory, bytes: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        recording::assert_none("a copy to the host");
        assert!(bytes.end <= memory.bytes, "{bytes:?} of {}", memory.bytes);
        memory.check_walls();
        // SAFETY: the bytes lie between the walls and have been written, at least when the memory was taken.
        Ok(unsafe { std::slice::from_raw_parts(memory.inside().wrapping_add(bytes.start), bytes.len()) }.to_vec())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        recording::assert_none("a wait");
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        if recording::takes(|| Recorded::Launch { kernel, element, grid, arguments: arguments.to_vec() }) {
            return Ok(());
        }
        // The emulator has one block at a time.
        static ONE_AT_A_TIME: Mutex<BTreeMap<(Kernel, Element), usize>> = Mutex::new(BTreeMap::new());
        let mut launches = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *launches.entry((kernel, element)).or_default() += 1;
        let name = format!("{}_{}_run\0", kernel.name, element.suffix());
        assert!(grid.threads.is_multiple_of(32) && grid.shared_bytes <= 99 * 1024, "{kernel:?}: {grid:?}");
        // What CUDA takes: the addresses of the arguments.
        let mut addresses: Vec<*mut c_void> = arguments.iter().map(address_of).collect();
        let [blocks, threads] = [[grid.blocks[0] as u32, grid.blocks[1] as u32, 1], [grid.threads as u32, 1, 1]];
        // SAFETY: the symbol has this type by the macro `KERNEL`; the caller answers for the arguments.
        let code = unsafe {
            let run = library().unwrap().get::<Run>(name.as_bytes()).unwrap();
            let shared_bytes = grid.shared_bytes as u32;
            run(addresses.as_mut_ptr(), blocks.as_ptr(), threads.as_ptr(), shared_bytes, self.descending.into())
        };
        assert_eq!(code, 0, "{kernel:?} for {element:?}: {}", fault());
        Ok(())
    }

    unsafe fn launch_beside(
        &self,
        kernel: Kernel,
        element: Element,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<u64, DeviceError> {
        recording::assert_none("a launch beside");
        let (emulator, arguments) = (*self, arguments.to_vec());
        // SAFETY: the caller answers for the arguments until somebody waits for this, and nobody can for anything else.
        let end = side_stream::hold(move || unsafe { emulator.launch(kernel, element, grid, &arguments) }.unwrap());
        if !self.late {
            side_stream::come_to(end);
        }
        Ok(end)
    }

    fn follow(&self, event: &u64) -> Result<(), DeviceError> {
        recording::assert_none("a wait for the side stream");
        side_stream::come_to(*event);
        Ok(())
    }

    fn can_record(&self) -> bool {
        true
    }

    fn begin_graph(&self) -> Result<(), DeviceError> {
        recording::begin();
        Ok(())
    }

    fn end_graph(&self) -> Result<Vec<Recorded>, DeviceError> {
        Ok(recording::end())
    }

    unsafe fn replay(&self, graph: &Vec<Recorded>) -> Result<(), DeviceError> {
        // SAFETY: as the caller says.
        unsafe { recording::run(*self, graph) };
        Ok(())
    }

    unsafe fn product(&self, product: &Product) -> Result<bool, DeviceError> {
        if recording::takes(|| Recorded::Product(*product)) {
            return Ok(true);
        }
        let [m, n, k] = product.size;
        // A column, in the place of the epilogue's vector.
        let vector = |address| Matrix { address, leading: m.max(n), transposed: false, element: product.c.element };
        assert!(!(product.add && matches!(product.epilogue, Some(Epilogue::Bias(_)))), "{product:?}");
        // SAFETY: the caller answers for the matrices.
        unsafe {
            for column in 0..n {
                if let Some(Epilogue::BiasGradient(address)) = product.epilogue {
                    let sum = (0..k).map(|i| f64::from(load(&product.b, i, column))).sum::<f64>() as f32;
                    store(&vector(address), column, 0, sum);
                }
                for row in 0..m {
                    let term = |i| load(&product.a, row, i) * load(&product.b, i, column);
                    let before = match product.epilogue {
                        Some(Epilogue::Bias(address)) => load(&vector(address), row, 0),
                        _ if product.add => load(&product.c, row, column),
                        _ => 0.0,
                    };
                    let sum = (0..k).map(|i| f64::from(term(i))).sum::<f64>() as f32;
                    store(&product.c, row, column, sum + before);
                }
            }
        }
        Ok(true)
    }
}

/// What the last launch was ended for: nothing where its arguments were not taken.
fn fault() -> String {
    // SAFETY: the function returns a text that stays until the next launch, and the caller holds the lock on launches.
    let text = unsafe {
        let fault = library().unwrap().get::<unsafe extern "C" fn() -> *const c_char>(b"emulator_fault\0").unwrap();
        CStr::from_ptr(fault())
    };
    text.to_string_lossy().into_owned()
}

fn address_of(argument: &Argument) -> *mut c_void {
    match argument {
        Argument::Address(value) => std::ptr::from_ref(value).cast_mut().cast(),
        Argument::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
        Argument::Long(value) => std::ptr::from_ref(value).cast_mut().cast(),
        Argument::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
        Argument::Dropout(words) => words.as_ptr().cast_mut().cast(),
        Argument::Coefficients(values) => values.as_ptr().cast_mut().cast(),
    }
}

/// An element of a matrix as it is meant: of its transpose, where that is.
fn element_at(matrix: &Matrix, row: usize, column: usize) -> u64 {
    let [row, column] = if matrix.transposed { [column, row] } else { [row, column] };
    matrix.address + ((column * matrix.leading + row) * matrix.element.bytes()) as u64
}

unsafe fn load(matrix: &Matrix, row: usize, column: usize) -> f32 {
    let at = element_at(matrix, row, column);
    // SAFETY: the caller answers for the matrix.
    unsafe {
        match matrix.element {
            Element::F32 => *(at as *const f32),
            Element::Bf16 => (*(at as *const half::bf16)).to_f32(),
            Element::F16 => (*(at as *const half::f16)).to_f32(),
        }
    }
}

unsafe fn store(matrix: &Matrix, row: usize, column: usize, value: f32) {
    let at = element_at(matrix, row, column);
    // SAFETY: the caller answers for the matrix.
    unsafe {
        match matrix.element {
            Element::F32 => *(at as *mut f32) = value,
            Element::Bf16 => *(at as *mut half::bf16) = half::bf16::from_f32(value),
            Element::F16 => *(at as *mut half::f16) = half::f16::from_f32(value),
        }
    }
}
