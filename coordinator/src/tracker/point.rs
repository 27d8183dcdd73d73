//! What is reported of one update at one time.

use crate::archive::LogEntry;

/// Numbers by name after an update.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Updates done.
    pub step: u64,
    /// When it was logged, in seconds since 1970.
    pub time: f64,
    /// The numbers.
    pub values: Vec<(String, f64)>,
}

impl Point {
    /// The numbers of an entry of the log under Hugging Face's names; what is no finite number is not there.
    #[must_use]
    pub fn of(entry: &LogEntry, time: f64) -> Self {
        let step = entry.0.get("step").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let numbers = entry.0.iter().filter(|(name, _)| *name != "step");
        let number = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_f64()?));
        Self { step, time, values: numbers.filter_map(number).collect() }
    }
}

/// Splits that are predicted, as the names of their values begin, and as the trackers of Hugging Face call them.
const SPLITS: [&str; 2] = ["eval", "predict"];

/// Hugging Face's tag for a value of its log (`rewrite_logs` of `transformers.integrations`): `eval/accuracy`, `train/loss`.
/// It has none for `predict_`, which it does not log.
pub(super) fn tag(name: &str) -> String {
    let split = |split: &&&str| name.strip_prefix(**split).is_some_and(|rest| rest.starts_with('_'));
    match SPLITS.iter().find(split) {
        Some(split) => format!("{split}/{}", &name[split.len() + 1..]),
        None => format!("train/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_becomes_numbers_under_the_tags_of_hugging_face() {
        let entry: LogEntry = serde_json::from_value(json!({
            "epoch": 0.5, "eval_accuracy": 0.75, "eval_loss": null, "step": 13, "odd": "word"
        }))
        .unwrap();
        let point = Point::of(&entry, 2.0);
        let values = vec![("epoch".into(), 0.5), ("eval_accuracy".into(), 0.75)];
        assert_eq!(point, Point { step: 13, time: 2.0, values });
        let tags = ["loss", "eval_accuracy", "predict_f1_a_b", "train_loss", "evaluated"].map(tag);
        assert_eq!(tags, ["train/loss", "eval/accuracy", "predict/f1_a_b", "train/train_loss", "train/evaluated"]);
        assert_eq!(Point::of(&LogEntry(Default::default()), 0.0).values, []);
    }
}
