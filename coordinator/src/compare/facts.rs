//! What is compared of a run.

use std::collections::{BTreeMap, BTreeSet};

use medley_common::identity::{Digest, Update};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::archive::What;
use crate::report_page::{Portrait, Sitter, settings_of};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// The final model is in its place.
    Complete,
    /// It is going on, was stopped, or has failed.
    Unfinished,
    /// A line of its ledger is damaged.
    Damaged,
}

/// A run, as it is compared.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Facts {
    /// Its folder, as it was named.
    pub(super) run: String,
    pub(super) state: State,
    /// The last update.
    pub(super) update: u64,
    pub(super) total_updates: u64,
    /// That of the best checkpoint that was evaluated.
    pub(super) best_update: Option<u64>,
    /// The update that its model is of, once it is complete.
    pub(super) model_update: Option<u64>,
    /// Seconds of training, in the process that ended it.
    pub(super) train_seconds: Option<f64>,
    /// Rows a second in training, in the process that ended it.
    pub(super) rows_per_second: Option<f64>,
    /// The most memory that a worker has taken on its host, in the process that ended it.
    pub(super) peak_worker_bytes: Option<u64>,
    /// The fewest workers of a group, and the most.
    pub(super) workers: Option<[usize; 2]>,
    /// Digest of the model's parameters in layout order.
    pub(super) weights_sha256: Option<String>,
    /// What is not as its ledger says.
    pub(super) problems: Vec<String>,
    /// All settings that decide the weights.
    pub(super) settings: Map<String, Value>,
    /// Those that its command names.
    #[serde(skip)]
    pub(super) typed: BTreeSet<String>,
    /// The names of the labels, by id; empty where they are not known yet.
    pub(super) labels: Vec<String>,
    /// Digests of what went in, by name; of a run that is not complete, nothing is known but the rows it trains on.
    pub(super) inputs: BTreeMap<String, String>,
    /// The update whose evaluation the results are, where they are not those of the end.
    pub(super) evaluated_update: Option<u64>,
    /// The results; of a run that is not complete, its last evaluation.
    pub(super) results: Map<String, Value>,
    /// Which run it is: the same for every copy of its folder.
    pub(super) identity_sha256: String,
    /// Whether some of its updates were made by an earlier process, which its time leaves out.
    pub(super) was_resumed: bool,
}

/// The name of the flag that a word of a command gives, if it gives one.
fn flag(word: &str) -> Option<String> {
    let name = word.strip_prefix("--")?.split('=').next()?;
    Some(name.replace('-', "_"))
}

impl Facts {
    pub(super) fn of(sitter: &Sitter) -> Self {
        let portrait = &sitter.portrait;
        let identity = &portrait.identity;
        let last = portrait.updates.last().map_or(identity.start, |update| update.update);
        let state = match (&portrait.damage, portrait.complete) {
            (Some(_), _) => State::Damaged,
            (None, true) => State::Complete,
            (None, false) => State::Unfinished,
        };
        let evaluation = portrait.evaluations.last().filter(|_| !portrait.complete);
        let results = match evaluation {
            Some((_, entry)) => entry.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            None => portrait.results.clone(),
        };
        let problems = sitter.verdict.iter().flat_map(|verdict| &verdict.problems).map(ToString::to_string);
        let hex = |(name, digest): (&String, &Digest)| (name.clone(), digest.to_string());
        let model = portrait.outputs.as_ref();
        Self {
            run: portrait.name.clone(),
            state,
            update: last.0,
            total_updates: identity.train.schedule.total_updates,
            best_update: portrait.best.map(|Update(update)| update),
            model_update: model.map(|outputs| outputs.best.unwrap_or(outputs.update).0),
            train_seconds: portrait.result("train_runtime"),
            rows_per_second: portrait.result("train_samples_per_second"),
            peak_worker_bytes: portrait.results.get("peak_memory_worker_bytes").and_then(Value::as_u64),
            workers: workers(portrait),
            weights_sha256: model.map(|outputs| outputs.parameters.to_string()),
            problems: portrait.damage.iter().cloned().chain(problems).collect(),
            settings: settings_of(portrait),
            typed: identity.command.iter().filter_map(|word| flag(word)).collect(),
            labels: portrait.labels.values().cloned().collect(),
            inputs: portrait.inputs.iter().map(hex).collect(),
            evaluated_update: evaluation.map(|(update, _)| update.0),
            results,
            identity_sha256: identity.digest().to_string(),
            was_resumed: was_resumed(portrait),
        }
    }

    /// A number of the results.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.results.get(key)?.as_f64()
    }

    /// A number of the results with its interval, for a person.
    pub(super) fn metric(&self, key: &str) -> String {
        let Some(value) = self.number(key) else { return "-".to_owned() };
        let bound = |at: usize| self.results.get(&format!("{key}_interval"))?.get(at)?.as_f64();
        match (bound(0), bound(1)) {
            (Some(low), Some(high)) => format!("{value:.4} ({low:.4} to {high:.4})"),
            _ => format!("{value:.4}"),
        }
    }

    pub(super) fn workers_in_words(&self) -> String {
        match self.workers {
            None => "-".to_owned(),
            Some([fewest, most]) if fewest == most => most.to_string(),
            Some([fewest, most]) => format!("{fewest} to {most}"),
        }
    }
}

fn workers(portrait: &Portrait) -> Option<[usize; 2]> {
    let groups = || {
        portrait.events.iter().filter_map(|event| match event.what {
            What::Group(change) => Some(change.workers),
            What::Retry(_) | What::Rewind { .. } | What::Checkpoint => None,
        })
    };
    Some([groups().min()?, groups().max()?])
}

/// What is told of speed is that of one process; whether that made fewer updates than there are.
fn was_resumed(portrait: &Portrait) -> bool {
    let (seconds, rate) = (portrait.result("train_runtime"), portrait.result("train_steps_per_second"));
    let made = seconds.zip(rate).map(|(seconds, rate)| seconds * rate);
    // The rate is rounded to three places, which of a slow run is much.
    let slack = 1.0 + seconds.unwrap_or_default() * 1e-3;
    made.is_some_and(|made| made + slack < portrait.updates.len() as f64)
}
