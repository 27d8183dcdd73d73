//! A flag's number, checked against its range.

use std::fmt;

use crate::spec::SpecError;

/// A flag and the number that it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<T> {
    pub(super) flag: &'static str,
    pub(super) value: T,
}

impl<T: fmt::Debug> Number<T> {
    pub(super) fn new(flag: &'static str, value: T) -> Self {
        Self { flag, value }
    }

    /// The error that says what was expected of it.
    pub(super) fn refused(&self, expected: impl Into<String>) -> SpecError {
        // Debug, for 1e-5 instead of 0.00001.
        let value = format!("{:?}", self.value);
        let value = value.strip_suffix(".0").map_or(value.clone(), ToOwned::to_owned);
        SpecError::Value { flag: self.flag, value, expected: expected.into() }
    }
}

impl Number<i64> {
    /// A count of at least `least`.
    pub(super) fn at_least(self, least: u32) -> Result<u32, SpecError> {
        self.within(least, u32::MAX)
    }

    /// A count from `least` to `most`.
    pub(super) fn within(self, least: u32, most: u32) -> Result<u32, SpecError> {
        match u32::try_from(self.value) {
            Ok(count) if (least..=most).contains(&count) => Ok(count),
            _ if most == u32::MAX && self.value < i64::from(least) => Err(self.refused(format!("at least {least}"))),
            _ => Err(self.refused(format!("{least} to {most}"))),
        }
    }
}

impl Number<f64> {
    /// A finite number of at least 0.
    pub(super) fn not_negative(self) -> Result<f64, SpecError> {
        self.that(|value| value >= 0.0, "a finite number of 0 or more")
    }

    /// A finite number that `accepts` agrees to.
    pub(super) fn that(self, accepts: impl Fn(f64) -> bool, expected: &str) -> Result<f64, SpecError> {
        if self.value.is_finite() && accepts(self.value) { Ok(self.value) } else { Err(self.refused(expected)) }
    }
}

/// A count with its thousands apart, as in `3,510`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grouped(pub(super) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// `1 update`, `3,510 updates`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", Grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown: Vec<String> = [0, 7, 999, 1000, 3510, 1_234_567].map(|n| Grouped(n).to_string()).into();
        assert_eq!(shown, ["0", "7", "999", "1,000", "3,510", "1,234,567"]);
        assert_eq!(counted(1, "epoch"), "1 epoch");
    }
}
