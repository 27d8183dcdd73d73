//! Compiles the `.proto` files in pure Rust: nothing to install.

use std::path::PathBuf;

const FILES: [&str; 3] = ["medley/v1/worker.proto", "medley/v1/status.proto", "medley/v1/operator.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=medley");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).open_files(FILES)?;
    // What reflection serves.
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("medley.v1.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    let files = compiler.include_source_info(true).file_descriptor_set();
    // Its own says less: whoever has a token can join the group.
    tonic_prost_build::configure().skip_debug([".medley.v1.Token"]).compile_fds(files)?;
    Ok(())
}
