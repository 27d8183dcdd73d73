//! From files of sentence pairs to token ids.
//!
//! Sentences may be confidential: no error, log line or `Debug` output of this module holds sentence text.

pub mod encode;
mod json_line;
pub mod labels;
pub mod rows;
pub mod sequence_limit;
