//! GPUs of a build with CUDA.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use medley_common::message::Failure;
use medley_common::spec::{Precision, TrainSpec};

use super::ordinal::ordinal;
use super::{Device, Place, Work, config, parts};
use crate::collective::nccl;
use crate::nccl_settings;
use crate::ops::DeviceError;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::device::{Description, Gpu, cublas_version, visible};

/// Whether calls of NCCL wait until they are done. The worker asks for calls that return at once: one that waits for a peer
/// could neither be ended when the peer dies nor have a deadline.
const BLOCKING: &str = "NCCL_COMM_BLOCKING";

/// The GPUs that a worker may take, a line for each.
///
/// # Errors
/// There is no driver, or it is too old for this worker's kernels.
pub fn list() -> Result<Vec<String>, Failure> {
    let named = std::env::var(parts::VISIBLE).unwrap_or_default();
    let named = parts::named(&named);
    if !named.is_empty() {
        return named.into_iter().enumerate().map(|(ordinal, part)| list_part(ordinal, part)).collect();
    }
    Ok(usable()?.into_iter().map(|gpu| format!("cuda:{} {}", gpu.ordinal, description(&gpu))).collect())
}

/// The GPUs that this process sees and whose kernels this worker has: one that is too old is none that it could take.
fn usable() -> Result<Vec<Description>, Failure> {
    let seen = visible().map_err(|error| config(format!("--device cuda: {error}")))?;
    let (usable, older): (Vec<_>, Vec<_>) = seen.into_iter().partition(|gpu| gpu.check().is_ok());
    match older.first().and_then(|gpu| Some((gpu.ordinal, gpu.check().err()?))) {
        Some((ordinal, error)) if usable.is_empty() => Err(config(format!("--device cuda: cuda:{ordinal}: {error}"))),
        _ => Ok(usable),
    }
}

fn description(gpu: &Description) -> String {
    let Description { name, uuid, bytes, capability: (major, minor), .. } = gpu;
    format!("{name} {uuid} {} GiB compute capability {major}.{minor}", bytes >> 30)
}

/// The line of a part of a GPU, of which another process is shown nothing else.
fn list_part(ordinal: usize, part: &str) -> Result<String, Failure> {
    let failed = |problem: String| config(format!("{}={part}: {problem}", parts::VISIBLE));
    let output =
        again((parts::VISIBLE, part), ["--list-devices".into()]).output().map_err(|error| failed(error.to_string()))?;
    let line = String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("cuda:0 ").map(str::to_owned));
    match line {
        Some(line) => Ok(format!("cuda:{ordinal} {line}")),
        None => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed(if said.is_empty() {
                "there is no such part of a GPU; nvidia-smi -L lists them".to_owned()
            } else {
                said
            }))
        }
    }
}

/// This program, with a variable that the driver or NCCL reads but once.
fn again((variable, value): (&str, &str), arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_default());
    command.args(arguments).env(variable, value);
    command
}

/// Becomes this program with another environment; comes back only where that cannot be.
fn start_again(variable: (&str, &str)) -> Failure {
    let error = again(variable, std::env::args_os().skip(1)).exec();
    config(format!("--device cuda: start again with {}={}: {error}", variable.0, variable.1))
}

/// Chooses a GPU for a worker that is the `local_rank`-th of its machine.
pub(super) fn place(_device: Device, local_rank: Option<u32>) -> Result<Place, Failure> {
    let named = std::env::var(parts::VISIBLE).unwrap_or_default();
    if let Some(part) = parts::own(&named, local_rank)? {
        return Err(start_again((parts::VISIBLE, part)));
    }
    let gpus = usable()?;
    let place = ordinal(gpus.len(), local_rank)?;
    let gpu = gpus.into_iter().nth(place).ok_or_else(|| config(format!("cuda:{place} is gone")))?;
    if nccl_settings::value(BLOCKING).is_some_and(|value| value != "0") {
        return Err(start_again((BLOCKING, "0")));
    }
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if let Some(host) = parts::host(&gpu.uuid, is_set) {
        return Err(start_again((parts::HOST, host)));
    }
    Ok(Place::Cuda { ordinal: gpu.ordinal, name: gpu.name, uuid: gpu.uuid })
}

/// What multiplies matrices there.
pub(super) fn library() -> String {
    cublas_version().map_or_else(|| "cuBLAS of an unknown version".to_owned(), |version| format!("cuBLAS {version}"))
}

/// `off`, to have every operation of every pass launched by the host: what comes of it is the same.
const GRAPHS: &str = "MEDLEY_CUDA_GRAPHS";

pub(super) fn compute(ordinal: usize, spec: &TrainSpec, work: impl Work) -> Result<(), Failure> {
    let compute = spec.compute;
    let opened = Gpu::open(ordinal, compute.precision == Precision::Tf32);
    let gpu = opened.map_err(|error| match error {
        DeviceError::OutOfMemory { .. } => config(format!("cuda:{ordinal}: {error}; nvidia-smi says who has it")),
        DeviceError::Failed { .. } => config(format!("cuda:{ordinal}: {error}")),
    })?;
    let mut cuda = Cuda::new(gpu, compute.precision);
    if std::env::var_os(GRAPHS).is_some_and(|value| value == "off") {
        cuda = cuda.without_graphs();
    }
    let connect = nccl::by_nccl(cuda.clone(), spec.lanes, compute);
    let connect = connect.map_err(|error| config(format!("cuda:{ordinal}: {error}")))?;
    let result = work.run(cuda.clone(), connect);
    if result.is_err() {
        // cuBLAS's handle panics where it cannot be given back, as on a device that has failed, and with it goes the reason.
        std::mem::forget(cuda);
    }
    result
}
