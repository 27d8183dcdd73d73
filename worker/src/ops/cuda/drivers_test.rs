//! What the tests of the kernels run on: the host, or a GPU.

use super::driver::Driver;
use super::emulator::Emulator;

/// Names a GPU, by its number, for the tests to run on in place of the host.
#[cfg(feature = "cuda")]
const GPU: &str = "MEDLEY_TEST_GPU";

/// A test that runs on any driver.
pub(crate) trait DriverTest {
    fn run<D: Driver + Clone>(&self, driver: D);
}

/// Runs `test` on the host, with the threads of a block in both orders, or on the GPU that the environment names.
pub(crate) fn on_each_driver(test: &impl DriverTest) {
    #[cfg(feature = "cuda")]
    if let Ok(ordinal) = std::env::var(GPU) {
        return test.run(super::device::Gpu::open(ordinal.parse().unwrap(), false).unwrap());
    }
    Emulator::both().into_iter().for_each(|emulator| test.run(emulator));
}
