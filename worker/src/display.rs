//! What a person reads of a worker: lines on standard error.

use std::io::Write as _;

/// Writes a line to standard error, if anybody still reads it.
pub fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "medley-worker: {line}").ok();
}
