//! The settings that decide the weights, side by side.

use std::collections::BTreeSet;
use std::fmt::Write;

use medley_common::identity::Update;
use serde_json::{Map, Value};

use super::html::escaped;
use super::portrait::Portrait;

/// A table of all settings; those that differ come first, and are marked.
pub(super) fn settings(portraits: &[&Portrait]) -> String {
    let of_runs: Vec<Map<String, Value>> = portraits.iter().map(|portrait| settings_of(portrait)).collect();
    let different = differing(&of_runs);
    let equal: BTreeSet<&String> =
        of_runs.iter().flat_map(Map::keys).filter(|name| !different.contains(*name)).collect();
    let marked = different.iter().map(|name| (name, " class=\"differs\""));
    let mut out = String::new();
    for (name, class) in marked.chain(equal.into_iter().map(|name| (name, ""))) {
        write!(out, "<tr{class}><th scope=\"row\">{}</th>", escaped(name)).ok();
        for run in &of_runs {
            write!(out, "<td>{}</td>", escaped(&shown(run.get(name)))).ok();
        }
        out.push_str("</tr>");
    }
    out
}

/// The names of the settings in which runs differ, in order.
pub(crate) fn differing(of_runs: &[Map<String, Value>]) -> BTreeSet<String> {
    let differs = |name: &&String| of_runs.iter().any(|run| run.get(*name) != of_runs[0].get(*name));
    of_runs.iter().flat_map(Map::keys).filter(differs).cloned().collect()
}

/// A run's settings by name.
pub(crate) fn settings_of(portrait: &Portrait) -> Map<String, Value> {
    let mut settings = match serde_json::to_value(&portrait.identity.recipe) {
        Ok(Value::Object(settings)) => settings,
        _ => Map::new(),
    };
    settings.insert("medley".to_owned(), Value::from(portrait.identity.version.clone()));
    settings.insert("rows".to_owned(), Value::from(portrait.identity.lengths.len()));
    let Update(start) = portrait.identity.start;
    if start > 0 {
        settings.insert("ledger begins after update".to_owned(), Value::from(start));
    }
    settings
}

/// A setting's value for a person.
pub(crate) fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
