//! Loss and learning rate over the updates, as far as they were told.

use medley_proto::v1;

/// Points that are kept; where there are more, neighbours become one.
const MOST: usize = 1024;

/// A point: an update, and what it came to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    update: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
}

/// The points, by their updates.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    points: Vec<Point>,
}

impl History {
    /// That of a run that has come to this so far. A coordinator that tells no curve tells its log.
    pub(super) fn of(report: &v1::Report) -> Self {
        let point = |point: &v1::CurvePoint| {
            let v1::CurvePoint { update, loss, learning_rate } = *point;
            Point { update, loss, learning_rate }
        };
        let line = |line: &v1::LogLine| Point {
            update: line.update,
            loss: Some(line.loss),
            learning_rate: Some(line.learning_rate),
        };
        let mut history = Self { points: report.curve.iter().map(point).collect() };
        if history.points.is_empty() {
            history.points.extend(report.log.iter().map(line));
        }
        history.shorten();
        history
    }

    /// Adds an update. Where training went back, what came later is void.
    pub(super) fn push(&mut self, update: u64, loss: Option<f64>, learning_rate: Option<f64>) {
        while self.points.last().is_some_and(|last| last.update > update) {
            self.points.pop();
        }
        if loss.is_some() && self.points.last().is_none_or(|last| last.update < update) {
            self.points.push(Point { update, loss, learning_rate });
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        while self.points.len() > MOST {
            let pair = |pair: &[Point]| {
                let mean = |of: fn(&Point) -> Option<f64>| mean(pair.iter().filter_map(of));
                let update = pair.last().map_or(0, |last| last.update);
                Point { update, loss: mean(|it| it.loss), learning_rate: mean(|it| it.learning_rate) }
            };
            self.points = self.points.chunks(2).map(pair).collect();
        }
    }

    /// The loss, over the updates so far in `columns`; `None` where none was told.
    pub(super) fn losses(&self, columns: usize) -> Vec<Option<f64>> {
        self.columns(columns, |point| point.loss)
    }

    /// The same of the learning rate.
    pub(super) fn learning_rates(&self, columns: usize) -> Vec<Option<f64>> {
        self.columns(columns, |point| point.learning_rate)
    }

    /// Means of the points of each column. Columns that lie between two points have the one before.
    fn columns(&self, columns: usize, of: fn(&Point) -> Option<f64>) -> Vec<Option<f64>> {
        let Some(last) = self.points.last() else { return vec![None; columns] };
        let total = last.update.max(1);
        let column = |update: u64| ((update.max(1) - 1) as u128 * columns as u128 / u128::from(total)) as usize;
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); columns];
        for point in &self.points {
            if let (Some(values), Some(value)) = (found.get_mut(column(point.update)), of(point)) {
                values.push(value);
            }
        }
        let mut before = None;
        let filled = found.into_iter().map(|values| {
            before = mean(values.into_iter().filter(|value| value.is_finite())).or(before);
            before
        });
        filled.collect()
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_columns_and_what_is_void_goes() {
        let mut history = History::default();
        for update in [1, 2, 5, 6] {
            history.push(update, Some(update as f64), Some(0.5));
        }
        assert_eq!(history.losses(3), [Some(1.5), Some(1.5), Some(5.5)], "what lies between has the one before");
        history.push(2, Some(2.0), Some(0.5));
        assert_eq!(history.losses(4), [Some(1.0), Some(1.0), Some(2.0), Some(2.0)]);
        assert_eq!(history.learning_rates(1), [Some(0.5)]);
        assert_eq!(History::default().losses(2), [None, None]);
        assert!(history.losses(0).is_empty());
    }

    #[test]
    fn it_stays_small_and_a_log_will_do() {
        let line = |update| v1::LogLine { update, loss: 1.0, learning_rate: 0.1, ..Default::default() };
        let mut history = History::of(&v1::Report { log: vec![line(10), line(20)], ..Default::default() });
        assert_eq!(history.points.len(), 2);
        (21..=5_000).for_each(|update| history.push(update, Some(1.0), None));
        assert!(history.points.len() <= MOST);
        assert_eq!(history.points.last().map(|last| last.update), Some(5_000));
    }
}
