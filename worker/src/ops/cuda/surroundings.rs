//! What CUDA tells of a GPU's place among others.

use std::fmt;

/// A GPU, its driver, and the ways to the others that this process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Its name, e.g. `NVIDIA H200`.
    pub name: String,
    /// Its place on the bus, e.g. `00000000:3B:00.0`.
    pub bus: String,
    /// The CUDA that the driver is for, 13000 for 13.0.
    pub driver: i32,
    /// Other GPUs that this process sees.
    pub others: usize,
    /// Those of them that it can read and write past the host's memory.
    pub reached: usize,
    /// Those of them that it can also use atomics on, which NVLink offers and PCI Express does not between GPUs.
    pub linked: usize,
}

impl fmt::Display for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bus, driver, others, reached, linked } = self;
        write!(f, "{name} at {bus}, driver for CUDA {}.{}, ", driver / 1000, driver % 1000 / 10)?;
        match (others, reached) {
            (0, _) => f.write_str("no other GPU"),
            (others, 0) => write!(f, "other GPUs: {others}, none reached directly"),
            (others, reached) => write!(f, "other GPUs: {others}, {reached} reached directly, {linked} as by NVLink"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_is_told_and_no_more() {
        let told = |others, reached, linked| {
            let (name, bus) = ("NVIDIA H200".to_owned(), "00000000:3B:00.0".to_owned());
            Surroundings { name, bus, driver: 13010, others, reached, linked }.to_string()
        };
        let gpu = "NVIDIA H200 at 00000000:3B:00.0, driver for CUDA 13.1, ";
        assert_eq!(told(0, 0, 0), format!("{gpu}no other GPU"));
        assert_eq!(told(3, 0, 0), format!("{gpu}other GPUs: 3, none reached directly"));
        assert_eq!(told(7, 7, 4), format!("{gpu}other GPUs: 7, 7 reached directly, 4 as by NVLink"));
    }
}
