//! The page: what came of the runs, how they went, and what proves it.

use std::fmt::Write;

use serde_json::Value;

use super::Sitter;
use super::chart::{Line, chart};
use super::examples::Examples;
use super::html::{escaped, shown};
use super::matrix::{confusion, reliability};
use super::portrait::Portrait;
use super::settings::settings;
use super::timeline::timeline;
use crate::archive::PAGE_BEGINNING;
use crate::peak_memory::megabytes;

const STYLE: &str = include_str!("page.css");

/// Results in the order of the table: key, and in words.
const RESULTS: [(&str, &str); 19] = [
    ("predict_accuracy", "test accuracy"),
    ("predict_macro_f1", "test macro F1"),
    ("predict_matthews_correlation", "test Matthews correlation"),
    ("predict_calibration_error", "test calibration error"),
    ("predict_loss", "test loss"),
    ("predict_samples", "test rows"),
    ("eval_accuracy", "validation accuracy"),
    ("eval_macro_f1", "validation macro F1"),
    ("eval_matthews_correlation", "validation Matthews correlation"),
    ("eval_calibration_error", "validation calibration error"),
    ("eval_loss", "validation loss"),
    ("eval_samples", "validation rows"),
    ("train_loss", "training loss, mean"),
    ("epoch", "epochs"),
    ("train_runtime", "seconds of training"),
    ("train_samples_per_second", "rows a second in training"),
    ("peak_memory_coordinator_bytes", "peak memory of the coordinator"),
    ("peak_memory_worker_bytes", "peak memory of a worker"),
    ("peak_memory_device_bytes", "peak memory of a worker on its GPU"),
];

/// The splits with results: prefix of the keys, and in words.
const SPLITS: [(&str, &str); 2] = [("predict", "Test"), ("eval", "Validation")];

/// The page of one run, with examples where they are asked for, or of several side by side.
pub(super) fn page(sitters: &[Sitter], examples: Option<&Examples>) -> String {
    let portraits: Vec<&Portrait> = sitters.iter().map(|sitter| &sitter.portrait).collect();
    let names: Vec<String> = portraits.iter().map(|portrait| escaped(&portrait.name)).collect();
    let title = names.join(", ");
    let mut out = format!(
        "{PAGE_BEGINNING}<meta name=\"viewport\" content=\"width=device-width\"><title>{title} - Medley</title>\
         <style>{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n"
    );
    for portrait in &portraits {
        standing(&mut out, portrait, portraits.len() > 1);
    }
    section(&mut out, "What came of it", &headed_table(&names, &results(&portraits)));
    section(&mut out, "How it went", &curves(&portraits));
    section(&mut out, "Workers", &portraits.iter().map(|portrait| timeline(portrait)).collect::<String>());
    section(&mut out, "Label by label", &by_label(&portraits));
    section(&mut out, "Sure, and wrong", &examples.map(Examples::html).unwrap_or_default());
    section(&mut out, "Settings", &headed_table(&names, &settings(&portraits)));
    section(&mut out, "Evidence", &sitters.iter().map(evidence).collect::<String>());
    out.push_str("</main></body></html>\n");
    out
}

fn section(out: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        // Writing to a string cannot fail.
        write!(out, "<section><h2>{title}</h2>\n{body}</section>\n").ok();
    }
}

/// How far a run is, in a sentence.
fn standing(out: &mut String, portrait: &Portrait, is_named: bool) {
    let (made, total) = (portrait.updates.len() as u64, portrait.identity.train.schedule.total_updates);
    let name = if is_named { format!("<b>{}</b>: ", escaped(&portrait.name)) } else { String::new() };
    let state = match (&portrait.damage, portrait.complete) {
        (Some(damage), _) => format!("<strong>damaged: {}</strong>; shown is what comes before", escaped(damage)),
        (None, true) => "complete".to_owned(),
        (None, false) => "not complete".to_owned(),
    };
    let made = made + portrait.identity.start.0;
    writeln!(out, "<p>{name}{made} of {total} updates, {state}.</p>").ok();
}

/// A table with a column for each run.
fn headed_table(names: &[String], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads: String = names.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    format!("<div class=\"wide\"><table><tr><td></td>{heads}</tr>{rows}</table></div>\n")
}

fn results(portraits: &[&Portrait]) -> String {
    let mut out = String::new();
    for (key, name) in RESULTS {
        if portraits.iter().all(|portrait| portrait.result(key).is_none()) {
            continue;
        }
        write!(out, "<tr><th scope=\"row\">{name}</th>").ok();
        for portrait in portraits {
            let of_key = |value: f64| if key.ends_with("_bytes") { megabytes(value as u64) } else { shown(value) };
            let value = portrait.result(key).map_or_else(|| "-".to_owned(), of_key);
            let interval = match portrait.results.get(&format!("{key}_interval")) {
                Some(Value::Array(ends)) => ends.iter().filter_map(Value::as_f64).map(shown).collect::<Vec<_>>(),
                _ => Vec::new(),
            };
            let interval = if interval.is_empty() {
                String::new()
            } else {
                format!(" <small>({})</small>", interval.join(" to "))
            };
            write!(out, "<td>{value}{interval}</td>").ok();
        }
        out.push_str("</tr>");
    }
    out
}

fn curves(portraits: &[&Portrait]) -> String {
    let over = |points: &dyn Fn(&Portrait) -> Vec<(f64, f64)>| -> Vec<Line> {
        portraits.iter().map(|portrait| Line::through(portrait.name.clone(), &points(portrait))).collect()
    };
    [
        ("Loss of the updates", over(&|it| it.curve(|update| update.loss))),
        ("Validation accuracy", over(&|it| it.evaluated("eval_accuracy"))),
        ("Validation macro F1", over(&|it| it.evaluated("eval_macro_f1"))),
        ("Validation loss", over(&|it| it.evaluated("eval_loss"))),
        ("Learning rate", over(&|it| it.curve(|update| update.learning_rate))),
        ("Norm of the gradient, before clipping", over(&|it| it.curve(|update| update.grad_norm))),
    ]
    .iter()
    .map(|(title, lines)| chart(title, lines))
    .collect()
}

fn by_label(portraits: &[&Portrait]) -> String {
    let mut out = String::new();
    for portrait in portraits {
        for (prefix, split) in SPLITS {
            let split = if portraits.len() > 1 { format!("{}, {split}", portrait.name) } else { split.to_owned() };
            out.push_str(&confusion(portrait, prefix, &split));
            out.push_str(&reliability(portrait, prefix, &split));
        }
    }
    out
}

/// What was found when the run was held against its ledger.
fn evidence(sitter: &Sitter) -> String {
    let name = escaped(&sitter.portrait.name);
    let Some(verdict) = &sitter.verdict else {
        return format!(
            "<p><code>medley verify {name}</code> proves from the ledger what this run did; nothing is proved here.</p>\n"
        );
    };
    let mut out = format!("<h3>medley verify {name}</h3>\n<div class=\"wide\"><table>");
    for check in &verdict.checks {
        write!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(check.name), escaped(&check.found)).ok();
    }
    out.push_str("</table></div>\n");
    for problem in &verdict.problems {
        writeln!(out, "<p><strong>wrong: {}</strong></p>", escaped(&problem.to_string())).ok();
    }
    if verdict.holds() {
        out.push_str("<p>All is as the ledger says.</p>\n");
    }
    out
}
