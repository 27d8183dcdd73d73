//! A log for the program that this one becomes.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{OPEN, VARIABLES};
use crate::nccl_settings;

/// Values of [`VARIABLES`], and the file, to be kept open until the program is another one. `None` where a log is asked for
/// already, or there is no such memory.
pub(crate) fn offered() -> Option<([String; 3], OwnedFd)> {
    if VARIABLES.iter().any(|name| nccl_settings::value(name).is_some()) {
        return None;
    }
    // Stays open when the process becomes another program.
    let file = memfd_create("nccl", MemfdFlags::empty()).ok()?;
    let place = format!("{OPEN}{}", file.as_raw_fd());
    Some((["INFO".to_owned(), "INIT".to_owned(), place], file))
}
