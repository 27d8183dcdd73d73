//! The control plane of Medley.
#![forbid(unsafe_code)]

pub mod bounded_file;
pub mod dataset;
pub mod hub;
pub mod model_folder;
pub mod run;
pub mod tokenizer;
