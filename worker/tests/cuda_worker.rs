//! The worker for GPUs beside the one for the CPU: what is missing is said, and else the one becomes the other.
#![cfg(not(feature = "cuda"))]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a copy of the worker in `folder`.
fn worker(folder: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    let copy = folder.join("medley-worker");
    if !copy.exists() {
        fs::copy(env!("CARGO_BIN_EXE_medley-worker"), &copy)?;
    }
    Command::new(copy).args(arguments).output()
}

/// Compiles C with arguments, in `folder`.
fn compile(folder: &Path, source: &str, arguments: &[&str]) -> std::io::Result<()> {
    fs::write(folder.join("source.c"), source)?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler).arg("source.c").args(arguments).current_dir(folder).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_library_that_is_missing_or_too_old_is_named_with_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    compile(
        folder.path(),
        "void cuStart(void) {}",
        &["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so"],
    )
    .unwrap();
    let program = "void cuStart(void); int main(void) { cuStart(); return 3; }";
    compile(folder.path(), program, &["-L.", "-lcuda", "-o", "medley-worker-cuda"]).unwrap();
    for arguments in
        [&["--list-devices"][..], &["--coordinator", "127.0.0.1:1"], &["--device", "cuda", "--coordinator", "x:1"]]
    {
        let output = worker(folder.path(), arguments).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("lacks libcuda.so.1 (the NVIDIA driver") && said.contains("--device cpu"), "{said}");
    }
    // The CPU needs none of it: here it is the coordinator that is missing.
    let arguments = ["--device", "cpu", "--coordinator", "127.0.0.1:1", "--connect_timeout", "0"];
    let said = worker(folder.path(), &arguments).unwrap();
    assert!(!String::from_utf8_lossy(&said.stderr).contains("libcuda"));

    let as_the_other = |arguments: &[&str]| {
        let worker = Command::new(folder.path().join("medley-worker"))
            .args(arguments)
            .env("LD_LIBRARY_PATH", folder.path())
            .output();
        worker.unwrap()
    };
    // A driver that is there, and has not what a later one has.
    let older = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1"];
    compile(folder.path(), "void cuOther(void) {}", &older).unwrap();
    let output = as_the_other(&["--device", "cuda", "--coordinator", "127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("finds libcuda too old: it has no cuStart (the NVIDIA driver"), "{said}");

    fs::rename(folder.path().join("libcuda.so"), folder.path().join("libcuda.so.1")).unwrap();
    assert_eq!(as_the_other(&["--list-devices"]).status.code(), Some(3), "it has become the other program");
}

#[test]
fn a_build_without_cuda_has_no_devices() {
    let folder = tempfile::tempdir().unwrap();
    let output = worker(folder.path(), &["--list-devices"]).unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let output = worker(folder.path(), &["--device", "cuda", "--coordinator", "127.0.0.1:1"]).unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("built without CUDA"));
}
