//! What the runs of a sweep came to, and which settings are the best.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde_json::{Value, json};

use super::plan::{Plan, Setting};

/// One run of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The round, from 0.
    pub(super) rung: usize,
    /// The setting, by its index in the plan.
    pub(super) setting: usize,
    pub(super) seed: u64,
}

/// The results so far.
#[derive(Debug, Clone)]
pub(super) struct Board {
    plan: Plan,
    metric: String,
    greater_is_better: bool,
    /// `None` for a run that diverged.
    values: BTreeMap<Place, Option<f64>>,
}

/// The runs of one setting in one round.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    setting: usize,
    /// Those that did not diverge, by seed.
    values: Vec<(u64, f64)>,
    /// Runs that diverged.
    diverged: usize,
}

impl Row {
    fn mean(&self) -> Option<f64> {
        let sum: f64 = self.values.iter().map(|(_, value)| value).sum();
        (!self.values.is_empty() && self.diverged == 0).then(|| sum / self.values.len() as f64)
    }

    /// The standard error of the mean, where there are at least two runs.
    fn standard_error(&self) -> Option<f64> {
        let (mean, runs) = (self.mean()?, self.values.len() as f64);
        let squares: f64 = self.values.iter().map(|(_, value)| (value - mean).powi(2)).sum();
        (runs > 1.0).then(|| (squares / (runs - 1.0) / runs).sqrt())
    }
}

impl Board {
    pub(super) fn new(plan: Plan, metric: String, greater_is_better: bool) -> Self {
        Self { plan, metric, greater_is_better, values: BTreeMap::new() }
    }

    /// Takes note of a run; `None` where it diverged.
    pub(super) fn note(&mut self, place: Place, value: Option<f64>) {
        self.values.insert(place, value.filter(|value| value.is_finite()));
    }

    /// How many runs are done.
    pub(super) fn done(&self) -> usize {
        self.values.len()
    }

    /// The next run; `None` where all are done.
    pub(super) fn next(&self) -> Option<Place> {
        (0..self.plan.rungs.len()).find_map(|rung| {
            let run = |setting| self.plan.seeds.iter().map(move |seed| Place { rung, setting, seed: *seed });
            let mut settings = self.participants(rung);
            settings.sort_unstable();
            settings.into_iter().flat_map(run).find(|place| !self.values.contains_key(place))
        })
    }

    /// The settings of a round: all in the first, then the best of the one before.
    fn participants(&self, rung: usize) -> Vec<usize> {
        match rung.checked_sub(1) {
            None => (0..self.plan.settings.len()).collect(),
            Some(before) => {
                let best = self.ranked(before).into_iter().map(|row| row.setting);
                best.take(self.plan.rungs[rung].settings).collect()
            }
        }
    }

    /// The rows of a round, the best first; the earlier of equals first, and last those that diverged.
    fn ranked(&self, rung: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (place, value) in self.values.iter().filter(|(place, _)| place.rung == rung) {
            if rows.last().is_none_or(|row| row.setting != place.setting) {
                rows.push(Row { setting: place.setting, values: Vec::new(), diverged: 0 });
            }
            if let Some(row) = rows.last_mut() {
                row.values.extend(value.map(|value| (place.seed, value)));
                row.diverged += usize::from(value.is_none());
            }
        }
        let cost = |row: &Row| match row.mean() {
            Some(mean) if self.greater_is_better => -mean,
            Some(mean) => mean,
            None => f64::INFINITY,
        };
        rows.sort_by(|one, other| cost(one).total_cmp(&cost(other)).then(one.setting.cmp(&other.setting)));
        rows
    }

    /// The best setting of the last round that has begun, and its best run.
    pub(super) fn best(&self) -> Option<(&Setting, Place)> {
        let rung = self.values.keys().map(|place| place.rung).max()?;
        let row = self.ranked(rung).into_iter().next().filter(|row| row.mean().is_some())?;
        let better = |one: (u64, f64), other: (u64, f64)| {
            let is_better = if self.greater_is_better { other.1 > one.1 } else { other.1 < one.1 };
            if is_better { other } else { one }
        };
        let (seed, _) = row.values.iter().copied().reduce(better)?;
        Some((&self.plan.settings[row.setting], Place { rung, setting: row.setting, seed }))
    }

    /// How many other settings came to the same as the best.
    pub(super) fn ties(&self) -> usize {
        let Some(rung) = self.values.keys().map(|place| place.rung).max() else { return 0 };
        let means: Vec<Option<f64>> = self.ranked(rung).iter().map(Row::mean).collect();
        means.iter().skip(1).filter(|mean| mean.is_some() && mean == &&means[0]).count()
    }

    /// The results as JSON.
    pub(super) fn to_json(&self) -> Value {
        let row = |row: Row| {
            let setting: BTreeMap<_, _> = self.plan.settings[row.setting].iter().cloned().collect();
            let values: BTreeMap<String, f64> =
                row.values.iter().map(|(seed, value)| (seed.to_string(), *value)).collect();
            json!({
                "trial": row.setting + 1, "setting": setting, "values_by_seed": values, "diverged": row.diverged,
                "mean": row.mean(), "standard_error": row.standard_error(),
            })
        };
        let rungs = self.plan.rungs.iter().enumerate().map(|(rung, of)| {
            let rows: Vec<Value> = self.ranked(rung).into_iter().map(row).collect();
            json!({ "share_of_updates": of.share, "settings": rows })
        });
        json!({
            "metric": format!("eval_{}", self.metric), "greater_is_better": self.greater_is_better,
            "runs": self.done(), "of": self.plan.runs(), "rungs": rungs.collect::<Vec<_>>(),
        })
    }
}

/// `learning_rate=3e-5 seed=1`, as a person reads it.
pub(super) fn words(setting: &Setting) -> String {
    let words: Vec<String> = setting.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if words.is_empty() { "as given".to_owned() } else { words.join(" ") }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.plan.settings.iter().map(words).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max("setting".len());
        let mut text = String::new();
        for (rung, of) in self.plan.rungs.iter().enumerate() {
            let rows = self.ranked(rung);
            if rows.is_empty() {
                continue;
            }
            if self.plan.rungs.len() > 1 {
                writeln!(text, "round {} of {}, {:.3} of the updates:", rung + 1, self.plan.rungs.len(), of.share)?;
            }
            writeln!(text, "{:<width$}  runs  eval_{} (± standard error)", "setting", self.metric)?;
            for row in rows {
                let value = match (row.mean(), row.standard_error()) {
                    (Some(mean), Some(error)) => format!("{mean:.4} ± {error:.4}"),
                    (Some(mean), None) => format!("{mean:.4}"),
                    (None, _) => format!("{} diverged", row.diverged),
                };
                let runs = row.values.len() + row.diverged;
                writeln!(text, "{:<width$}  {runs:>4}  {value}", names[row.setting])?;
            }
        }
        f.write_str(text.trim_end())
    }
}

#[cfg(test)]
#[path = "board_test.rs"]
mod tests;
