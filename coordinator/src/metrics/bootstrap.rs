//! How far accuracy and macro F1 might lie elsewhere on other rows of the same kind: 95 % intervals by the percentile
//! bootstrap (Efron, 1979). The draws are the same at each call, so equal predictions have equal intervals.

use medley_common::plan::mix;
use serde_json::Value;

use super::{Confusion, Metric, Scored, ScoredRow, classes};

/// Draws of as many rows as there are.
const DRAWS: usize = 1_000;
/// Beyond these, fewer draws: an interval is worth a second at most, and is narrow with so many rows anyway.
const MOST_ROWS_DRAWN: usize = 20_000_000;
/// The least draws that the bounds below stand on.
const LEAST_DRAWS: usize = 200;

#[derive(Debug)]
pub(super) struct Bootstrap;

impl Metric for Bootstrap {
    fn values(&self, scored: &Scored<'_>) -> Vec<(String, Value)> {
        let (rows, labels) = (&scored.rows, scored.names.len());
        let draws = (MOST_ROWS_DRAWN / rows.len()).clamp(LEAST_DRAWS, DRAWS);
        let (mut accuracies, mut f1s) = (Vec::with_capacity(draws), Vec::with_capacity(draws));
        for number in 0..draws as u64 {
            let confusion = Confusion::of(labels, draw(rows, number));
            accuracies.push(confusion.correct() as f64 / rows.len() as f64);
            f1s.push(classes::macro_f1(&confusion, labels));
        }
        let interval = |name: &str, values: Vec<f64>| (name.to_owned(), bounds(values));
        vec![interval("accuracy_interval", accuracies), interval("macro_f1_interval", f1s)]
    }
}

/// Rows drawn with replacement: label and prediction of each.
fn draw(rows: &[ScoredRow], number: u64) -> impl Iterator<Item = (usize, usize)> {
    let seed = mix(number ^ 0x6d65_646c_6579);
    (0..rows.len() as u64).map(move |place| {
        // The high half of a product is uniform below its second factor (Lemire, 2019).
        let chosen = (u128::from(mix(seed.wrapping_add(place))) * rows.len() as u128) >> 64;
        let row = rows[chosen as usize];
        (row.label, row.predicted)
    })
}

/// The 2.5th and the 97.5th percentile.
fn bounds(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let at = |share: f64| values[(share * last as f64).round() as usize];
    Value::from(vec![at(0.025), at(0.975)])
}
