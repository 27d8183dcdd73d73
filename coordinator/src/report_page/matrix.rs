//! Which label was taken for which, and how far confidence can be trusted.

use std::fmt::Write;

use serde_json::Value;

use super::html::{escaped, shown};
use super::portrait::Portrait;

/// Side of the square that a reliability diagram is drawn in.
const SIDE: f64 = 200.0;
const EDGE: f64 = 34.0;
/// Labels of a matrix that can still be read.
const MOST_LABELS: usize = 40;

/// The confusion matrix of a split (`eval` or `predict`), a row for each true label; nothing where there is none, or too
/// many labels.
pub(super) fn confusion(portrait: &Portrait, prefix: &str, split: &str) -> String {
    let rows: Vec<Vec<u64>> = portrait
        .results
        .get(&format!("{prefix}_confusion_matrix"))
        .and_then(|matrix| serde_json::from_value(matrix.clone()).ok())
        .unwrap_or_default();
    if rows.is_empty() || rows.len() > MOST_LABELS {
        return String::new();
    }
    let heads: String =
        (0..rows.len()).map(|id| format!("<th scope=\"col\">{}</th>", escaped(&portrait.label(id)))).collect();
    let mut body = String::new();
    for (label, row) in rows.iter().enumerate() {
        let all = row.iter().sum::<u64>().max(1) as f64;
        write!(body, "<tr><th scope=\"row\">{}</th>", escaped(&portrait.label(label))).ok();
        for (predicted, count) in row.iter().enumerate() {
            let share = *count as f64 / all;
            let right = if predicted == label { "right" } else { "wrong" };
            write!(
                body,
                "<td class=\"{right}\" style=\"--share:{share:.3}\">{count} <small>{:.0} %</small></td>",
                100.0 * share
            )
            .ok();
        }
        body.push_str("</tr>");
    }
    format!(
        "<figure><figcaption>{}: rows of each label (down) by what they were taken for (across)</figcaption>\
         <table class=\"confusion\"><tr><td></td>{heads}</tr>{body}</table></figure>\n",
        escaped(split)
    )
}

/// How often rows of a confidence were right; nothing where there are none.
pub(super) fn reliability(portrait: &Portrait, prefix: &str, split: &str) -> String {
    let bins: Vec<(f64, f64, f64)> = match portrait.results.get(&format!("{prefix}_reliability_bins")) {
        Some(Value::Array(bins)) => bins
            .iter()
            .filter_map(|bin| Some((bin["confidence"].as_f64()?, bin["accuracy"].as_f64()?, bin["rows"].as_f64()?)))
            .collect(),
        _ => Vec::new(),
    };
    let most = bins.iter().map(|(_, _, rows)| *rows).fold(0.0, f64::max);
    if most == 0.0 {
        return String::new();
    }
    let (across, down) = (|share: f64| EDGE + share * SIDE, |share: f64| 8.0 + (1.0 - share) * SIDE);
    let words: Vec<String> = bins
        .iter()
        .map(|(confidence, accuracy, rows)| {
            format!("{rows:.0} rows at {} were right by {}", shown(*confidence), shown(*accuracy))
        })
        .collect();
    let mut out = String::new();
    write!(
        out,
        "<figure class=\"small\"><figcaption>{}: how often it is right (up) when it is so sure (across)</figcaption>\
         <svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"><path class=\"grid\" d=\"M{:.1} {:.1}V{:.1}H{:.1}\"/>\
         <path class=\"even\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>",
        escaped(split),
        SIDE + EDGE + 12.0,
        SIDE + EDGE,
        escaped(&words.join("; ")),
        across(0.0),
        down(1.0),
        down(0.0),
        across(1.0),
        across(0.0),
        down(0.0),
        across(1.0),
        down(1.0)
    )
    .ok();
    for (confidence, accuracy, rows) in &bins {
        let (x, y, radius) = (across(*confidence), down(*accuracy), 2.0 + 8.0 * (rows / most).sqrt());
        write!(
            out,
            "<circle class=\"bin\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"><title>{rows:.0} rows</title></circle>"
        )
        .ok();
    }
    for share in [0.0, 0.5, 1.0] {
        write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"middle\">{share}</text><text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{share}</text>",
            across(share),
            down(0.0) + 16.0,
            EDGE - 6.0,
            down(share) + 4.0
        )
        .ok();
    }
    out.push_str("</svg></figure>\n");
    out
}
