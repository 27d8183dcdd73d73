//! The wire: the gRPC messages and services of Medley, and their conversion from and to the domain's values.
//!
//! The only crate that knows protobuf. Whatever arrives is checked here once, field by field; what is inside the
//! processes are the values of `medley-common`.
#![forbid(unsafe_code)]

pub mod access;
pub mod address;
mod command;
pub mod details;
mod event;
mod example;
#[cfg(test)]
mod garbage_test;
pub mod mistake;
mod wire;

pub use wire::{WireError, piece};

/// The generated messages, clients and servers of `medley.v1`.
#[allow(missing_docs, clippy::pedantic, clippy::all)]
pub mod v1 {
    tonic::include_proto!("medley.v1");
}

/// The descriptors of `medley.v1`, encoded, for clients that ask by reflection what there is to call.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("medley.v1");

/// The largest message either side accepts: 16 MiB, four times the chunks that are sent.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The size of the pieces that files are sent in: 1 MiB.
pub const CHUNK_BYTES: usize = 1 << 20;
