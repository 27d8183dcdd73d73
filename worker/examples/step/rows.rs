//! Random rows to time updates with.

use medley_common::example::Example;
use medley_common::plan::mix;

use super::{DISTINCT, Options};

/// No row is longer: so many positions the model has.
const LONGEST: u32 = 512;

/// The rows of all updates, or as many as are predicted.
pub(super) fn random(options: &Options, vocabulary: u32) -> Vec<Example> {
    let count = (DISTINCT * options.rows).max(options.evaluate);
    let token = |row: u32, place: u32| (mix(u64::from(row) << 32 | u64::from(place)) % u64::from(vocabulary)) as u32;
    let row = |row: u32| {
        let length = length(options, row);
        Example {
            tokens: (0..length).map(|place| token(row, place)).collect(),
            first_segment: length / 2,
            label: Some(row % 3),
        }
    };
    (0..count).map(row).collect()
}

/// Log-normal, with the mean that was asked for.
fn length(options: &Options, row: u32) -> u32 {
    // The sum of twelve numbers from 0 to 1, less its mean, is as good as normal with a deviation of 1.
    let part = |i: u64| (mix(u64::from(row) << 8 | i) >> 11) as f64 / (1_u64 << 53) as f64;
    let normal = (0..12).map(part).sum::<f64>() - 6.0;
    let logarithm = options.spread * normal - options.spread * options.spread / 2.0;
    let length = f64::from(options.length) * logarithm.exp();
    (length.round() as u32).clamp(2, LONGEST)
}
