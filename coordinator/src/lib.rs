//! The control plane of Medley.
#![forbid(unsafe_code)]

pub mod access;
pub mod archive;
pub mod assembly;
pub mod bounded_file;
pub mod chronicle;
pub mod cli;
pub mod client;
pub mod coordinate;
pub mod counts;
pub mod dataset;
pub mod display;
pub mod driver;
pub mod http;
pub mod hub;
pub mod injector;
pub mod inputs;
pub mod launch;
pub mod meter;
pub mod metrics;
pub mod model_folder;
pub mod orders_client;
pub mod origin;
pub mod profile;
pub mod quickstart;
pub mod recorder;
pub mod replay;
pub mod report_page;
pub mod run;
pub mod service;
pub mod spec;
pub mod status_client;
pub mod status_view;
pub mod tokenizer;
pub mod verify;
pub mod weights_file;
