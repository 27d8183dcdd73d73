//! The training engine: one worker process on one device.

pub mod agent;
pub mod agent_error;
pub mod batch;
pub mod collective;
pub mod crew;
pub mod device;
pub mod display;
pub mod engine;
pub mod holding;
pub mod joining;
pub mod layout;
pub mod memory;
pub mod model;
pub(crate) mod nccl_log;
pub(crate) mod nccl_settings;
pub mod node_list;
pub mod ops;
pub mod optim;
pub mod process_clock;
pub mod program;
pub mod session;
pub mod state_copy;
pub mod surroundings;
pub mod trainer;
pub mod uploads;
pub mod weights;

// Parameters and gradients travel as the bytes they have in memory, which are little-endian in every file and frame.
#[cfg(target_endian = "big")]
compile_error!("tensor bytes are reinterpreted, never swapped: only little-endian targets are supported");
