//! From files of sentences and pairs of sentences to token ids.
//!
//! Sentences may be confidential: no error, log line or `Debug` output of this module holds sentence text.

pub mod data_error;
mod delimited;
pub mod encode;
mod fields;
pub mod format;
mod json_line;
mod json_lines;
pub mod labels;
pub mod layout;
pub mod rows;
pub mod sequence_limit;
