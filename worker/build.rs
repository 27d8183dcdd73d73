//! Compiles the kernels to PTX, for the feature `cuda` alone.

use std::path::{Path, PathBuf};
use std::process::Command;

type Failure = Box<dyn std::error::Error>;

/// Runs on devices of this compute capability and all later ones, which translate it when it is loaded.
const ARCHITECTURE: &str = "-arch=compute_80";

/// Kernels whose products and sums are rounded one by one, as on the CPU, and not contracted to `fma` wherever the compiler
/// likes: see `kernels/step.cuh`.
const AS_WRITTEN: [&str; 2] = ["adamw.cu", "sgd.cu"];

fn main() -> Result<(), Failure> {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let (compiler, out) = (compiler(), PathBuf::from(std::env::var("OUT_DIR")?));
    for entry in std::fs::read_dir("kernels")? {
        let source = entry?.path();
        if source.extension().is_some_and(|extension| extension == "cu") {
            compile(&compiler, &source, &out)?;
        }
    }
    println!("cargo::rustc-env=MEDLEY_CUDA_VERSION={}", version(&compiler)?);
    Ok(())
}

/// `NVCC`, else the toolkit in `CUDA_HOME`, else whatever `PATH` has.
fn compiler() -> PathBuf {
    let toolkit = || Some(Path::new(&std::env::var_os("CUDA_HOME")?).join("bin/nvcc"));
    std::env::var_os("NVCC").map(PathBuf::from).or_else(toolkit).unwrap_or_else(|| "nvcc".into())
}

fn compile(compiler: &Path, source: &Path, out: &Path) -> Result<(), Failure> {
    let target = out.join(source.file_stem().unwrap_or_default()).with_extension("ptx");
    let mut command = Command::new(compiler);
    command.args(["--ptx", ARCHITECTURE, "-O3", "-std=c++17", "-o"]).arg(&target).arg(source);
    if source.file_name().is_some_and(|name| AS_WRITTEN.iter().any(|known| name == *known)) {
        command.arg("-fmad=false");
    }
    let output = command.output().map_err(|error| format!("{}: {error}: see deploy/cuda", compiler.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr)).into())
}

/// The toolkit's version as the driver counts, 13000 for 13.0: a driver must support it to load the kernels.
fn version(compiler: &Path) -> Result<u32, Failure> {
    let output = Command::new(compiler).arg("--version").output()?;
    let text = String::from_utf8(output.stdout)?;
    let release =
        text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).ok_or("nvcc tells no version")?;
    let (major, minor) = release.split_once('.').ok_or("nvcc tells no version")?;
    Ok(1000 * major.parse::<u32>()? + 10 * minor.parse::<u32>()?)
}
