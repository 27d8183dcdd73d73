//! The control plane of Medley.
#![forbid(unsafe_code)]

pub mod archive;
pub mod run;
