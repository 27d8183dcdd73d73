//! Compiles the `.proto` files in pure Rust: nothing to install.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=medley");
    let files = protox::compile(["medley/v1/worker.proto", "medley/v1/status.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
