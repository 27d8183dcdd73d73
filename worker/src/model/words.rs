//! The word embedding's gradient, as rows.

use crate::collective::SparseRows;

/// Adds two sets of rows: `left + right` where both have a row, the one there is where only one has it.
#[must_use]
pub fn merge(left: &SparseRows, right: &SparseRows) -> SparseRows {
    if left.rows.is_empty() || right.rows.is_empty() {
        return if left.rows.is_empty() { right.clone() } else { left.clone() };
    }
    let width = left.values.len() / left.rows.len();
    let mut sum = SparseRows {
        rows: Vec::with_capacity(left.rows.len() + right.rows.len()),
        values: Vec::with_capacity(left.values.len() + right.values.len()),
    };
    let (mut l, mut r) = (0, 0);
    while l < left.rows.len() || r < right.rows.len() {
        let next = |rows: &SparseRows, at: usize| rows.rows.get(at).copied().unwrap_or(u32::MAX);
        let row = next(left, l).min(next(right, r));
        let in_left = left.rows.get(l) == Some(&row);
        let in_right = right.rows.get(r) == Some(&row);
        let (from_left, from_right) = (left.values[l * width..].iter(), right.values[r * width..].iter());
        sum.rows.push(row);
        if in_left && in_right {
            sum.values.extend(from_left.zip(from_right).take(width).map(|(left, right)| left + right));
        } else {
            sum.values.extend((if in_left { from_left } else { from_right }).take(width));
        }
        l += usize::from(in_left);
        r += usize::from(in_right);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(u32, f32)]) -> SparseRows {
        SparseRows {
            rows: rows.iter().map(|(row, _)| *row).collect(),
            values: rows.iter().flat_map(|(_, value)| [*value, -value]).collect(),
        }
    }

    #[test]
    fn rows_are_added_where_both_have_them() {
        let left = rows(&[(1, 1.0), (4, 2.0), (u32::MAX, 3.0)]);
        let right = rows(&[(0, 10.0), (4, 20.0), (5, 30.0)]);
        let sum = rows(&[(0, 10.0), (1, 1.0), (4, 22.0), (5, 30.0), (u32::MAX, 3.0)]);
        assert_eq!(merge(&left, &right), sum);
        assert_eq!(merge(&right, &left), sum);
        assert_eq!(merge(&left, &rows(&[])), left);
        assert_eq!(merge(&rows(&[]), &rows(&[])), rows(&[]));
    }
}
