//! What a tracker shows already, so that no update is shown twice.

use std::collections::BTreeMap;

use super::Point;

/// The update through which each value is shown, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown(BTreeMap<String, u64>);

impl Shown {
    /// A value is shown at `step`, and with it all that may have come before.
    pub fn note(&mut self, name: &str, step: u64) {
        let last = self.0.entry(name.to_owned()).or_insert(step);
        *last = step.max(*last);
    }

    /// What came after `kept` is shown no more; with `None`, nothing is.
    pub fn cut(&mut self, kept: Option<u64>) {
        match kept {
            Some(kept) => self.0.values_mut().for_each(|last| *last = kept.min(*last)),
            None => self.0.clear(),
        }
    }

    /// Whether anything of this name is shown.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What of a point is not shown yet; it counts as shown from here on.
    pub fn news(&mut self, point: Point) -> Option<Point> {
        let Point { step, time, mut values } = point;
        values.retain(|(name, _)| self.0.get(name).is_none_or(|last| *last < step));
        values.iter().for_each(|(name, _)| self.note(name, step));
        (!values.is_empty()).then_some(Point { step, time, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, names: &[&str]) -> Point {
        Point { step, time: 0.0, values: names.iter().map(|name| ((*name).to_owned(), 1.0)).collect() }
    }

    #[test]
    fn a_value_is_news_once_and_again_where_the_run_went_back_before_it() {
        let mut shown = Shown::default();
        assert_eq!(shown.news(point(5, &["loss", "epoch"])), Some(point(5, &["loss", "epoch"])));
        assert_eq!(shown.news(point(5, &["eval", "epoch"])), Some(point(5, &["eval"])));
        assert_eq!(shown.news(point(4, &["loss"])), None);
        shown.cut(Some(3));
        assert_eq!(shown.news(point(3, &["loss"])), None);
        assert_eq!(shown.news(point(4, &["loss"])), Some(point(4, &["loss"])));
        shown.cut(None);
        assert_eq!(shown.news(point(0, &["loss"])), Some(point(0, &["loss"])));
        assert!(shown.has("loss") && !shown.has("eval"));
    }
}
