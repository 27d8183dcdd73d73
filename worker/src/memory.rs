//! The most memory that this process has taken since it started.

use std::sync::atomic::{AtomicU64, Ordering};

use medley_common::high_water::high_water;

/// Bytes of the GPU's memory; 0 where there is none. One for the process, which has one GPU.
static DEVICE: AtomicU64 = AtomicU64::new(0);

/// The most memory that was in use at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peak {
    /// Bytes of the host's memory, resident; `None` where the system does not tell.
    pub host_bytes: Option<u64>,
    /// Bytes of the GPU's memory; `None` where there is none.
    pub device_bytes: Option<u64>,
}

/// Notes how many bytes of the GPU's memory were in use at once, which the thread that owns it is told alone.
pub fn note_device(bytes: u64) {
    DEVICE.fetch_max(bytes, Ordering::Relaxed);
}

/// The peak so far. Reads a file of the kernel's, which blocks for microseconds.
#[must_use]
pub fn peak() -> Peak {
    let device = DEVICE.load(Ordering::Relaxed);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Peak { host_bytes: high_water(&status), device_bytes: (device > 0).then_some(device) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_counts() {
        assert!(peak().host_bytes.unwrap() > 1 << 20);
        note_device(7);
        note_device(5);
        assert!(peak().device_bytes >= Some(7));
    }
}
