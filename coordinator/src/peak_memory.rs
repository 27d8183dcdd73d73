//! The most memory that the processes of a run have taken.

use medley_common::high_water::high_water;
use medley_proto::v1;
use serde_json::Value;

/// What the keys of results begin with that are bytes of memory.
const PREFIX: &str = "peak_memory_";

/// The most memory that was in use at once: of the coordinator, and of the worker that took the most. Who was lost or replaced
/// counts as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeakMemory {
    /// Bytes of the coordinator, resident.
    pub coordinator: Option<u64>,
    /// Bytes of a worker on its host, resident.
    pub worker: Option<u64>,
    /// Bytes of a worker on its GPU; `None` where there is none.
    pub device: Option<u64>,
}

impl PeakMemory {
    /// A worker says what it has taken so far.
    pub fn heard(&mut self, peak: v1::MemoryPeak) {
        self.worker = self.worker.max(peak.host_bytes);
        self.device = self.device.max(peak.device_bytes);
    }

    /// The same with what the kernel says of this process by now.
    #[must_use]
    pub fn with_own(self) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { coordinator: self.coordinator.max(high_water(&status)), ..self }
    }

    /// What is known, by its key among the results.
    pub fn results(self) -> impl Iterator<Item = (String, Value)> {
        let Self { coordinator, worker, device } = self;
        let known = [("coordinator", coordinator), ("worker", worker), ("device", device)];
        known.into_iter().filter_map(|(name, bytes)| Some((format!("{PREFIX}{name}_bytes"), Value::from(bytes?))))
    }

    /// What results say of it.
    #[must_use]
    pub fn of(number: impl Fn(&str) -> Option<u64>) -> Self {
        let of = |name: &str| number(&format!("{PREFIX}{name}_bytes"));
        Self { coordinator: of("coordinator"), worker: of("worker"), device: of("device") }
    }
}

/// Bytes as a person says them: `61 MB`, `1.2 GB`.
#[must_use]
pub fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        size if size < 9.95 => format!("{size:.1} MB"),
        size if size < 999.5 => format!("{size:.0} MB"),
        size => format!("{:.1} GB", size / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_of_all_workers_counts_whoever_is_left() {
        let mut peak = PeakMemory::default();
        let heard = |host, device| v1::MemoryPeak { host_bytes: Some(host), device_bytes: device };
        [heard(5, None), heard(9, Some(3)), heard(7, None)].into_iter().for_each(|it| peak.heard(it));
        assert_eq!(peak, PeakMemory { coordinator: None, worker: Some(9), device: Some(3) });
        let results: serde_json::Map<String, Value> = peak.with_own().results().collect();
        assert_eq!(results["peak_memory_worker_bytes"], 9);
        assert!(results["peak_memory_coordinator_bytes"].as_u64().unwrap() > 1 << 20, "{results:?}");
        let read = PeakMemory::of(|key| results.get(key)?.as_u64());
        assert_eq!(PeakMemory { coordinator: None, ..read }, peak);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [960_000, 61_234_567, 999_600_000, 1 << 34].map(megabytes),
            ["1.0 MB", "61 MB", "1.0 GB", "17.2 GB"]
        );
    }
}
