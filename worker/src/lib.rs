//! The training engine: one worker process on one device.

pub mod collective;
pub mod layout;
