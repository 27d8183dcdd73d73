//! The most memory that a process has taken, as Linux tells it.

/// `VmHWM`, the most that was resident at once, of the text of a process's `/proc/PID/status`; in bytes.
#[must_use]
pub fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(high_water("Name:\tx\nVmHWM:\tmuch\n"), None);
        assert_eq!(high_water(""), None);
    }
}
