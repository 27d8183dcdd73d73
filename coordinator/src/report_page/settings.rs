//! The settings that decide the weights, side by side.

use std::collections::BTreeSet;
use std::fmt::Write;

use medley_common::identity::Update;
use serde_json::{Map, Value};

use super::html::escaped;
use super::portrait::Portrait;

/// A table of all settings; those that differ come first, and are marked.
pub(super) fn settings(portraits: &[&Portrait]) -> String {
    let of_runs: Vec<Map<String, Value>> = portraits.iter().map(|portrait| of(portrait)).collect();
    let names: BTreeSet<&String> = of_runs.iter().flat_map(Map::keys).collect();
    let differs = |name: &String| of_runs.iter().any(|run| run.get(name) != of_runs[0].get(name));
    let (different, equal): (Vec<&String>, Vec<&String>) = names.into_iter().partition(|name| differs(name));
    let mut out = String::new();
    for (names, class) in [(different, " class=\"differs\""), (equal, "")] {
        for name in names {
            write!(out, "<tr{class}><th scope=\"row\">{}</th>", escaped(name)).ok();
            for run in &of_runs {
                write!(out, "<td>{}</td>", escaped(&shown(run.get(name)))).ok();
            }
            out.push_str("</tr>");
        }
    }
    out
}

/// A run's settings by name.
fn of(portrait: &Portrait) -> Map<String, Value> {
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

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
