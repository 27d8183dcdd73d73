//! The control plane of Medley.
#![forbid(unsafe_code)]

pub mod archive;
pub mod bounded_file;
pub mod cli;
pub mod dataset;
pub mod display;
pub mod hub;
pub mod launch;
pub mod meter;
pub mod model_folder;
pub mod run;
pub mod spec;
pub mod status_view;
pub mod tokenizer;
