//! The training engine: one worker process on one device.

pub mod batch;
pub mod collective;
pub mod layout;
pub mod model;
pub mod ops;
pub mod optim;
pub mod trainer;
