//! One training run as a pure state machine.

pub mod report;
