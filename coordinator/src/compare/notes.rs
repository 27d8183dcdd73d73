//! What to know before anything is concluded from a comparison.

use std::collections::BTreeSet;

use super::facts::{Facts, State};

/// What went in, by its name in the certificate, and what is compared with care where it differs.
const INPUTS: [(&str, &str); 4] = [
    ("train_file", "they were trained on different files"),
    ("validation_file", "their validation files differ, and so do the rows that validation metrics are of"),
    ("test_file", "their test files differ, and so do the rows that test metrics are of"),
    ("initial_weights_sha256", "they began with different weights"),
];

/// The notes, a sentence each.
pub(super) fn notes(runs: &[Facts]) -> Vec<String> {
    let mut notes: Vec<String> = runs.iter().filter_map(state).collect();
    notes.extend(runs.iter().filter(|run| run.state != State::Damaged && !run.problems.is_empty()).map(|run| {
        let problems = run.problems.len();
        format!("{0} is not as its ledger says: {problems} problems; medley verify {0} names them", run.run)
    }));
    notes.extend(copies(runs));
    let labels: BTreeSet<&Vec<String>> = runs.iter().map(|run| &run.labels).filter(|it| !it.is_empty()).collect();
    if labels.len() > 1 {
        let lists: Vec<String> = labels.iter().map(|names| names.join(", ")).collect();
        notes.push(format!("their labels differ ({}), so their metrics cannot be compared", lists.join("; ")));
    }
    let rows: BTreeSet<String> =
        runs.iter().filter_map(|run| Some(run.settings.get("train_rows_sha256")?.to_string())).collect();
    let mut has_told_rows = false;
    for (name, told) in INPUTS {
        let digests: BTreeSet<&String> = runs.iter().filter_map(|run| run.inputs.get(name)).collect();
        if digests.len() > 1 {
            has_told_rows |= name == "train_file";
            notes.push(told.to_owned());
        }
    }
    if rows.len() > 1 && !has_told_rows {
        notes.push("they were trained on different rows, or on rows that were cut or encoded differently".to_owned());
    }
    let resumed: Vec<&str> = runs.iter().filter(|run| run.was_resumed).map(|run| run.run.as_str()).collect();
    if !resumed.is_empty() {
        notes.push(format!("time and rows/s are since the last start of {}", resumed.join(", ")));
    }
    notes
}

/// What a run lacks.
fn state(run: &Facts) -> Option<String> {
    let evaluated = match run.evaluated_update {
        Some(update) => format!("; its metrics are those after update {update}"),
        None => String::new(),
    };
    let far = format!("update {} of {}{evaluated}", run.update, run.total_updates);
    match run.state {
        State::Complete => None,
        State::Unfinished => Some(format!("{} is not complete: {far}", run.run)),
        State::Damaged => {
            let damage = run.problems.first().map_or("", String::as_str);
            Some(format!("{} is damaged ({damage}): what comes before is {far}", run.run))
        }
    }
}

/// Which of them are one run, whose folder was copied.
fn copies(runs: &[Facts]) -> Vec<String> {
    let same = |run: &Facts, other: &Facts| {
        other.identity_sha256 == run.identity_sha256 && other.weights_sha256 == run.weights_sha256
    };
    let mut notes = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        if runs[..at].iter().any(|before| same(run, before)) {
            continue;
        }
        let copies: Vec<&str> =
            runs[at + 1..].iter().filter(|later| same(run, later)).map(|later| later.run.as_str()).collect();
        if !copies.is_empty() {
            notes.push(format!("{} and {} are copies of one run", run.run, copies.join(", ")));
        }
    }
    notes
}
