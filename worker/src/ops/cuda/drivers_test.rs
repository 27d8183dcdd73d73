//! What the tests of the kernels run on: the host, or a GPU.

use super::driver::Driver;
use super::emulator::Emulator;

#[cfg(feature = "cuda")]
use super::device::Gpu;

/// Names a GPU, by its number, for the tests to run on in place of the host.
#[cfg(feature = "cuda")]
const GPU: &str = "MEDLEY_TEST_GPU";
/// Lets that GPU round the factors of products of `f32` (TF32).
#[cfg(feature = "cuda")]
const TF32: &str = "MEDLEY_TEST_TF32";
/// Where the GPU is the host after all: `deploy/cuda/rehearse`.
#[cfg(feature = "cuda")]
const REHEARSAL: &str = "MEDLEY_REHEARSAL";

/// A test that runs on any driver.
pub(crate) trait DriverTest {
    fn run<D: Driver + Clone>(&self, driver: D);
}

/// Runs `test` on the host, with the threads of a block in both orders, or on the GPU that the environment names.
pub(crate) fn on_each_driver(test: &impl DriverTest) {
    #[cfg(feature = "cuda")]
    if let Ok(ordinal) = std::env::var(GPU) {
        return on_gpu(test, ordinal.parse().unwrap());
    }
    Emulator::both().into_iter().for_each(|emulator| test.run(emulator));
}

/// Whether tests run on a GPU, which computes in no time what the host takes minutes for.
pub(crate) fn is_fast() -> bool {
    #[cfg(feature = "cuda")]
    let is_fast = has_gpu() && std::env::var_os(REHEARSAL).is_none();
    #[cfg(not(feature = "cuda"))]
    let is_fast = false;
    is_fast
}

/// Whether tests run on a GPU, or on what stands in for one.
pub(crate) fn has_gpu() -> bool {
    #[cfg(feature = "cuda")]
    let has_gpu = std::env::var_os(GPU).is_some();
    #[cfg(not(feature = "cuda"))]
    let has_gpu = false;
    has_gpu
}

/// Whether the GPU that tests run on rounds the factors of products of `f32`.
pub(crate) fn is_tf32() -> bool {
    #[cfg(feature = "cuda")]
    let is_tf32 = has_gpu() && std::env::var_os(TF32).is_some();
    #[cfg(not(feature = "cuda"))]
    let is_tf32 = false;
    is_tf32
}

/// The largest difference, as a part of the largest expected value; what is not a number is the largest of all.
pub(crate) fn distance(got: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
    let parts = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs() / scale);
    parts.fold(0.0, |most, part| if part.is_nan() || part > most { part } else { most })
}

/// Says how near a result has come: a row of the table that `deploy/cuda/check` prints, of which the largest is kept.
pub(crate) fn checked(what: &str, bound: f64, measured: f64, place: &str) {
    println!("\nchecked: {what} | {bound:.1e} | {measured:.1e} | {place}");
}

/// The host, for tests that the GPU has no part in; none without a C++ compiler, and where the environment names a GPU: its
/// time is not for the host's work.
pub(crate) fn host() -> Option<Emulator> {
    #[cfg(feature = "cuda")]
    if std::env::var_os(GPU).is_some() {
        return None;
    }
    Emulator::both().into_iter().next()
}

/// A GPU that goes from one test's thread to the next's: opening it takes longer than most tests.
#[cfg(feature = "cuda")]
struct Handed(Gpu);

#[cfg(feature = "cuda")]
// SAFETY: whoever holds the lock around it is the only one that uses it; a test that passes has dropped all of its clones.
// What is enqueued is bound to the context, which each test's first allocation makes its thread's own.
unsafe impl Send for Handed {}

#[cfg(feature = "cuda")]
fn on_gpu(test: &impl DriverTest, ordinal: usize) {
    use std::sync::{Mutex, PoisonError};
    static OPENED: Mutex<Option<Handed>> = Mutex::new(None);
    // A test that fails may leave anything behind: the next one begins anew.
    let mut opened = OPENED.lock().unwrap_or_else(|poisoned| {
        std::mem::forget(poisoned.into_inner().take());
        OPENED.clear_poison();
        OPENED.lock().unwrap_or_else(PoisonError::into_inner)
    });
    let gpu = opened.get_or_insert_with(|| Handed(Gpu::open(ordinal, std::env::var_os(TF32).is_some()).unwrap()));
    test.run(gpu.0.clone());
}
