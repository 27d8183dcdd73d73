//! Sums in an order that is fixed by the sizes.

use rayon::prelude::*;

use super::{Cpu, in_chunks};
use crate::collective::SparseRows;
use crate::ops::linear::ColumnSum;

/// Columns that a thread sums at a time.
const COLUMNS: usize = 256;

/// Elements that a thread takes at a time.
const ELEMENTS: usize = 16_384;

/// Elements whose squares are summed before the sums are.
pub(super) const PIECE: usize = 4096;

pub(super) fn column_sum(op: ColumnSum<'_, Cpu>) {
    let sum = op.sum.into_values();
    let width = sum.len();
    let x = &op.x[op.rows.start * width..op.rows.end * width];
    // A few rows are sooner summed than given to another thread.
    let chunk = if x.len() <= ELEMENTS { width.max(1) } else { COLUMNS };
    in_chunks(sum, chunk, |index, sum| sum_columns(x, width, index * chunk, sum));
}

wide! {
    fn sum_columns(x: &[f32], width: usize, first: usize, sum: &mut [f32]) {
        sum.fill(0.0);
        for row in x.chunks_exact(width) {
            for (sum, x) in sum.iter_mut().zip(&row[first..]) {
                *sum += x;
            }
        }
    }
}

pub(super) fn add(into: &mut [f32], from: &[f32]) {
    assert_eq!(into.len(), from.len(), "sums of different lengths");
    in_chunks(into, ELEMENTS, |index, into| add_elements(into, &from[index * ELEMENTS..]));
}

wide! {
    /// `into += from`, by the calling thread.
    pub(super) fn add_elements(into: &mut [f32], from: &[f32]) {
        for (into, from) in into.iter_mut().zip(from) {
            *into += from;
        }
    }
}

pub(super) fn spread_rows(from: &SparseRows, rows: &[u32], width: usize) -> Vec<f32> {
    let mut spread = vec![-0.0; rows.len() * width];
    let mut known = from.rows.iter().zip(from.values.chunks_exact(width.max(1))).peekable();
    for (row, to) in rows.iter().zip(spread.chunks_exact_mut(width.max(1))) {
        if let Some((_, values)) = known.next_if(|(known, _)| *known == row) {
            to.copy_from_slice(values);
        }
    }
    spread
}

pub(super) fn square_sums(values: &[f32]) -> Vec<f64> {
    values.par_chunks(PIECE).map(square_sum).collect()
}

wide! {
    fn square_sum(values: &[f32]) -> f64 {
        let mut partial = [0.0_f64; 16];
        for chunk in values.chunks(16) {
            for (partial, value) in partial.iter_mut().zip(chunk) {
                *partial += f64::from(*value) * f64::from(*value);
            }
        }
        partial.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::SliceMut;

    #[test]
    fn columns_are_summed_over_the_rows_asked_for() {
        for width in [1, 20, 300, 5000] {
            let x: Vec<f32> = (0..width * 70).map(|i| (i % 97) as f32).collect();
            let mut sum = vec![f32::NAN; width + 2];
            column_sum(ColumnSum { rows: 3..69, x: &x, sum: SliceMut { buffer: &mut sum, range: 1..width + 1 } });
            for column in 0..width {
                let expected: f32 = (3..69).map(|row| x[row * width + column]).sum();
                assert_eq!(sum[column + 1], expected);
            }
            assert!(sum[0].is_nan() && sum[width + 1].is_nan());
        }
    }

    #[test]
    fn squares_are_summed_in_double_precision() {
        let values: Vec<f32> = (0..10_001).map(|i| (i as f32) * 1e-3 + 1.0).collect();
        let expected: f64 = values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let sums = square_sums(&values);
        assert_eq!(sums.len(), 3);
        assert!((sums.iter().sum::<f64>() / expected - 1.0).abs() < 1e-13);
        assert_eq!(sums[1..], square_sums(&values[PIECE..]));
        assert!(square_sums(&[]).is_empty());
        assert_eq!(square_sums(&[3e30]), [f64::from(3e30_f32) * f64::from(3e30_f32)]);
    }

    #[test]
    fn addition_takes_every_element() {
        let mut into = vec![1.0; 3 * ELEMENTS + 5];
        let from: Vec<f32> = (0..into.len()).map(|i| i as f32).collect();
        add(&mut into, &from);
        assert!(into.iter().zip(&from).all(|(into, from)| *into == from + 1.0));
    }
}
