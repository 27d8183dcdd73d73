//! GPUs of a build without CUDA: those of the build with CUDA that lies beside it, if one does.
//!
//! That one is linked against NVIDIA's libraries, so the system's loader does not even start it where one is missing.
//! This one looks first, says what to install, and then becomes it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use medley_common::message::Failure;
use medley_common::spec::TrainSpec;

use super::{Device, Place, Work, config};
use crate::display::say;
use crate::nccl_log;

/// What NVIDIA's driver makes where there is a GPU.
const NVIDIA: &str = "/dev/nvidiactl";
/// The build with CUDA.
const CUDA_WORKER: &str = "medley-worker-cuda";

/// What has a library of this name, by how the name begins, and functions whose names begin like this; the longer of two
/// beginnings first. A package of this name is for CUDA 13.
const SOURCES: [(&str, &str, &str); 5] = [
    ("libcublas", "cublas", "pip install nvidia-cublas"),
    ("libcurand.", "curand", "pip install nvidia-curand"),
    ("libnccl.", "nccl", "pip install nvidia-nccl-cu13"),
    ("libcudart.", "cuda", "pip install nvidia-cuda-runtime"),
    ("libcuda.", "cu", "the NVIDIA driver, 580 or later (in a container: start it with --gpus all)"),
];

/// The GPUs that a worker may take, a line for each.
///
/// # Errors
/// The build with CUDA cannot start.
pub fn list() -> Result<Vec<String>, Failure> {
    match beside() {
        Some(worker) => Err(turn_into(&worker)),
        None => Ok(Vec::new()),
    }
}

/// Chooses a device for a worker that is the `local_rank`-th of its machine.
pub(super) fn place(device: Device, _local_rank: Option<u32>) -> Result<Place, Failure> {
    match (device, beside()) {
        (Device::Auto, None) if Path::new(NVIDIA).exists() => {
            say(
                "warning: this machine has an NVIDIA GPU, but there is no medley-worker-cuda beside this program: it computes \
                 on the CPU. Build one with deploy/cuda/build, or say --device cpu",
            );
            Ok(Place::Cpu)
        }
        (Device::Cpu, _) | (Device::Auto, None) => Ok(Place::Cpu),
        (Device::Auto | Device::Cuda, Some(worker)) => Err(turn_into(&worker)),
        (Device::Cuda, None) => Err(without_cuda()),
    }
}

/// No place of this build is a GPU.
pub(super) fn library() -> String {
    "no cuBLAS".to_owned()
}

pub(super) fn compute(_ordinal: usize, _spec: &TrainSpec, _work: impl Work) -> Result<(), Failure> {
    Err(without_cuda())
}

fn without_cuda() -> Failure {
    config(
        "--device cuda: this medley-worker is built without CUDA; build one with deploy/cuda/build, or use --device cpu"
            .to_owned(),
    )
}

fn beside() -> Option<PathBuf> {
    let worker = std::env::current_exe().ok()?.with_file_name(CUDA_WORKER);
    worker.is_file().then_some(worker)
}

/// Becomes the build with CUDA, with the same arguments; comes back only where that cannot be.
fn turn_into(worker: &Path) -> Failure {
    let name = worker.display();
    // Asks the loader what it would load, and which functions are not there; nothing of the program runs.
    let asked = ["LD_TRACE_LOADED_OBJECTS", "LD_WARN", "LD_BIND_NOW"].map(|variable| (variable, "1"));
    let [trace, warnings] = match Command::new(worker).envs(asked).output() {
        Ok(output) => [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => return config(format!("start {name}: {error}")),
    };
    let way_out = "name the folders of what is installed in LD_LIBRARY_PATH (deploy/cuda/README.md says how), or use \
                   --device cpu";
    let is_older = is_older(&trace);
    let missing: Vec<String> = missing(&trace).map(|library| advice(library, is_older)).collect();
    if !missing.is_empty() {
        return config(format!("{name} lacks {}; {way_out}", missing.join(", ")));
    }
    if let Some(function) = unknown(&warnings, &name.to_string()) {
        let (library, source) = owner(function, is_older);
        return config(format!("{name} finds {library} too old: it has no {function} ({source}); {way_out}"));
    }
    let mut command = Command::new(worker);
    command.args(std::env::args_os().skip(1));
    // The file is open until the program is another one.
    let log = nccl_log::offered();
    for (variable, value) in log.iter().flat_map(|(values, _)| nccl_log::VARIABLES.iter().zip(values)) {
        command.env(variable, value);
    }
    let error = command.exec();
    config(format!("start {name}: {error}"))
}

/// The libraries that the loader has not found.
fn missing(trace: &str) -> impl Iterator<Item = &str> {
    trace.lines().filter_map(|line| line.trim().strip_suffix(" => not found"))
}

fn advice(library: &str, is_older: bool) -> String {
    match SOURCES.iter().find(|(start, ..)| library.starts_with(start)) {
        Some((.., source)) => format!("{library} ({})", of_release(source, is_older)),
        None => library.to_owned(),
    }
}

/// Whether these are the libraries of CUDA 12, which have the number in their names.
fn is_older(trace: &str) -> bool {
    trace.lines().filter_map(|line| line.split_whitespace().next()).any(|library| library.ends_with(".so.12"))
}

/// The package of this release: those of CUDA 12 have the number in their names.
fn of_release(source: &str, is_older: bool) -> String {
    match source.strip_suffix("-cu13") {
        _ if !is_older || !source.starts_with("pip ") => source.to_owned(),
        Some(start) => format!("{start}-cu12"),
        None => format!("{source}-cu12"),
    }
}

/// A function that `program` calls and that no library has: what other libraries lack is their own affair.
fn unknown<'a>(warnings: &'a str, program: &str) -> Option<&'a str> {
    warnings.lines().find_map(|line| {
        let (function, user) = line.trim().strip_prefix("undefined symbol: ")?.split_once('\t')?;
        (user == format!("({program})")).then_some(function)
    })
}

/// The library that a function should be in, and what has it.
fn owner(function: &str, is_older: bool) -> (&'static str, String) {
    match SOURCES.iter().find(|(_, start, _)| function.starts_with(start)) {
        Some((library, _, source)) => (library.trim_end_matches('.'), of_release(source, is_older)),
        None => ("a library", "that this worker was built for".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_has_not_found_is_named_with_its_source() {
        let trace = "\tlinux-vdso.so.1 (0x7f)\n\tlibcuda.so.1 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                     \tlibnccl.so.2 => not found\n\tlibodd.so.3 => not found\n";
        let named: Vec<String> = missing(trace).map(|library| advice(library, false)).collect();
        assert!(named[0].starts_with("libcuda.so.1 (the NVIDIA driver"), "{named:?}");
        assert_eq!(named[1..], ["libnccl.so.2 (pip install nvidia-nccl-cu13)", "libodd.so.3"]);
        assert_eq!(advice("libcublasLt.so.13", false), "libcublasLt.so.13 (pip install nvidia-cublas)");
    }

    #[test]
    fn libraries_of_an_older_release_have_its_packages() {
        assert!(!is_older("\tlibcublas.so.13 => /lib/libcublas.so.13 (0x7f)\n\tlibnccl.so.2 => not found\n"));
        assert!(is_older("\tlibnccl.so.2 => not found\n\tlibcublas.so.12 => not found\n"));
        assert_eq!(advice("libcublas.so.12", true), "libcublas.so.12 (pip install nvidia-cublas-cu12)");
        assert_eq!(advice("libnccl.so.2", true), "libnccl.so.2 (pip install nvidia-nccl-cu12)");
        assert_eq!(owner("ncclNew", true), ("libnccl", "pip install nvidia-nccl-cu12".to_owned()));
    }

    #[test]
    fn what_an_old_library_has_not_is_told_from_what_others_lack() {
        let warnings =
            "undefined symbol: odd\t(/lib/libother.so)\nundefined symbol: cuNew_v3\t(/bin/medley-worker-cuda)\n";
        assert_eq!(unknown(warnings, "/bin/medley-worker-cuda"), Some("cuNew_v3"));
        assert_eq!(unknown(warnings, "/bin/other"), None);
        let owners = ["cuNew_v3", "cublasLtNew", "cudaNew", "ncclNew", "odd"].map(|function| owner(function, false).0);
        assert_eq!(owners, ["libcuda", "libcublas", "libcudart", "libnccl", "a library"]);
    }
}
