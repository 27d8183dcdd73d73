//! GPUs of a build without CUDA: none.

use medley_common::message::Failure;
use medley_common::spec::ComputeSpec;

use super::{Device, Place, Work, config};

/// The GPUs that a worker may take, a line for each.
///
/// # Errors
/// None in this build.
pub fn list() -> Result<Vec<String>, Failure> {
    Ok(Vec::new())
}

/// Chooses a device for a worker that is the `local_rank`-th of its machine.
pub(super) fn place(device: Device, _local_rank: Option<&str>) -> Result<Place, Failure> {
    match device {
        Device::Auto | Device::Cpu => Ok(Place::Cpu),
        Device::Cuda => Err(without_cuda()),
    }
}

pub(super) fn compute(_ordinal: usize, _compute: ComputeSpec, _work: impl Work) -> Result<(), Failure> {
    Err(without_cuda())
}

fn without_cuda() -> Failure {
    config(
        "--device cuda: this medley-worker is built without CUDA; build one with deploy/cuda/build, or use --device cpu"
            .to_owned(),
    )
}
