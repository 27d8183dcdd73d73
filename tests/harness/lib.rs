//! What whole-system tests stand on: the real binaries, tiny models and data, processes with bounded lives.
//!
//! A harness for tests: whatever goes wrong here is a failed test, so it panics with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod attack;
mod conversation;
pub mod crowd;
pub mod http;
pub mod load;
mod process;
mod proxy;
mod scratch;

pub use conversation::Conversation;
pub use process::{Ended, Running, binaries, lines};
pub use proxy::Proxy;
pub use scratch::Scratch;
