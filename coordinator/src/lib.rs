//! The control plane of Medley.
#![forbid(unsafe_code)]

pub mod cli;
pub mod run;
pub mod spec;
