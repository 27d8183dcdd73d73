//! Compiles the `.proto` files without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["medley/v1/session.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(files)?;
    println!("cargo::rerun-if-changed=medley");
    Ok(())
}
