//! The training engine: one worker process on one device.

pub mod collective;
pub mod layout;
pub mod weights;

// Parameters and gradients travel as the bytes they have in memory, which are little-endian in every file and frame.
#[cfg(target_endian = "big")]
compile_error!("tensor bytes are reinterpreted, never swapped: only little-endian targets are supported");
