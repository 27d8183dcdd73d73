//! A bound on how often something happens.

use std::time::{Duration, Instant};

/// Lets so many things a second pass in the long run, and a number at once.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: f64,
    size: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, at_once: u32, now: Instant) -> Self {
        let size = f64::from(at_once.max(1));
        Self { per_second: f64::from(per_second.max(1)), size, left: size, at: now }
    }

    /// Takes one out; where there is none, says after what time there will be.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.size);
        self.at = now;
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.per_second));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start);
        assert!((0..3).all(|_| bucket.take(start).is_ok()));
        let wait = bucket.take(start).unwrap_err();
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        let later = start + Duration::from_millis(101);
        assert!(bucket.take(later).is_ok() && bucket.take(later).is_err());
        let much_later = start + Duration::from_secs(3600);
        assert!((0..3).all(|_| bucket.take(much_later).is_ok()) && bucket.take(much_later).is_err());
        assert!(bucket.take(start).is_err(), "a clock that goes back fills nothing");
    }
}
