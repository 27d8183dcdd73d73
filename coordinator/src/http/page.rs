//! A page for a person's browser: how the run goes, by the same numbers that Prometheus may know. As it is sent it shows the
//! run as it stands; its script then draws what `/events` tells. Without scripts it is loaded again every few seconds.

use std::collections::VecDeque;
use std::fmt::Write;

use axum::http::header;
use axum::response::IntoResponse;
use medley_proto::v1;
use tokio::sync::watch;

use super::assets::PAGE;
use super::summary::{Lane, Summary};
use crate::live::{Curve, Evaluation, Live, Moment, Picture};
use crate::report_page::chart::{Column, Line, chart};
use crate::report_page::html::{escaped, shown};
use crate::status_view::duration;

/// What a browser may do with the page: load the parts of it from here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The newest things that happened are enough where they cannot be unfolded.
const MOMENTS: usize = 12;
/// With more workers each has less room; the script counts as far.
const DENSE: usize = 24;

/// The page as an answer. What it shows is copied, so that nobody waits for its drawing.
pub fn answer(status: &watch::Receiver<v1::Status>, live: &watch::Receiver<Live>) -> impl IntoResponse + use<> {
    let summary = Summary::of(&status.borrow());
    let picture = live.borrow().picture().clone();
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, page(&summary, &picture))
}

fn page(status: &Summary, picture: &Picture) -> String {
    let parts = [
        ("title", format!("{} - Medley", status.state)),
        ("run", status.run.clone()),
        ("state", escaped(&status.state)),
        ("progress", progress(status)),
        ("alerts", alerts(status)),
        ("figures", figures(status, picture.evaluations.back())),
        ("charts", charts(picture)),
        ("team", team(status)),
        ("density", if status.workers.len() > DENSE { "lanes dense" } else { "lanes" }.to_owned()),
        ("lanes", status.workers.iter().map(lane).collect()),
        ("faults", faults(status)),
        ("moments", moments(&picture.moments)),
        ("evaluations", evaluations(picture)),
        ("plan", picture.plan.iter().map(|(name, text)| entry(name, text)).collect()),
        ("version", format!("Medley {}", escaped(&status.version))),
    ];
    parts.iter().fold(PAGE.to_owned(), |page, (name, part)| page.replace(&format!("{{{{{name}}}}}"), part))
}

fn entry(name: &str, text: &str) -> String {
    format!("<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(text))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), shown)
}

fn progress(status: &Summary) -> String {
    let Summary { update, total, epoch, .. } = status;
    if *total == 0 {
        return String::new();
    }
    let share = 100.0 * *update as f64 / *total as f64;
    format!(
        "<progress aria-label=\"Updates\" max=\"{total}\" value=\"{update}\"></progress>\
         <p>update {update} of {total}, {share:.1} %, epoch {epoch:.2}</p>"
    )
}

fn alerts(status: &Summary) -> String {
    let mut out = String::new();
    if status.paused {
        out.push_str("<p class=\"alert\">Nothing can be written, so training waits; medley status says why.</p>");
    }
    if status.stopping && !status.ended {
        out.push_str("<p class=\"alert\">It was asked to stop: what is under way is finished and saved.</p>");
    }
    out
}

fn figures(status: &Summary, newest: Option<&Evaluation>) -> String {
    let accuracy = newest.and_then(|evaluation| evaluation.accuracy);
    [
        ("loss", number(status.loss)),
        ("accuracy", number(accuracy)),
        ("learning rate", number(status.learning_rate)),
        ("gradient norm", number(status.grad_norm)),
        ("rows a second", number(status.rows_per_second)),
        ("left", status.left.map_or_else(|| "-".to_owned(), duration)),
    ]
    .iter()
    .map(|(name, text)| entry(name, text))
    .collect()
}

fn charts(picture: &Picture) -> String {
    let Picture { training, validation, .. } = picture;
    let quality = [line("accuracy", validation, 1), line("macro F1", validation, 2)];
    [
        chart("Loss", &[line("training", training, 0), line("validation", validation, 0)]),
        chart("Validation accuracy and macro F1", &quality),
        chart("Learning rate", &[line("training", training, 1)]),
        chart("Gradient norm, before clipping", &[line("training", training, 2)]),
        chart("Rows a second", &[line("training", training, 3)]),
    ]
    .concat()
}

fn line<const N: usize>(name: &str, curve: &Curve<N>, measure: usize) -> Line {
    let columns = curve.buckets().iter().filter_map(|bucket| {
        let spread = bucket.spreads[measure]?;
        let (x, mean) = (bucket.middle(), spread.mean());
        Some(Column { x, least: spread.least, mean, greatest: spread.greatest })
    });
    Line { name: name.to_owned(), columns: columns.collect() }
}

fn team(status: &Summary) -> String {
    format!("{} of {} workers", status.workers.len(), status.expected)
}

/// By rank alone: hosts and process ids are for who has a token.
fn lane(lane: &Lane) -> String {
    let named = |rank| format!("<span class=\"word\">rank </span>{rank}");
    let rank = lane.rank.map_or_else(|| "new".to_owned(), named);
    let slow = lane.slow.map(|what| format!("<b class=\"alert\">slow: {what}</b>")).unwrap_or_default();
    let rows = lane.rows.map_or_else(|| escaped(&lane.state), |rows| format!("{rows:.1} rows/s"));
    let bar = lane.time.map(|time| {
        let all = time.seconds().max(f64::MIN_POSITIVE);
        let (mut bars, mut words, mut from) = (String::new(), Vec::new(), 0.0);
        for (name, seconds) in time.parts() {
            let share = 100.0 * seconds / all;
            // Writing to a string cannot fail.
            write!(bars, "<rect class=\"{name}\" x=\"{from:.2}\" width=\"{share:.2}\" height=\"10\"/>").ok();
            words.push(format!("{name} {share:.0} %"));
            from += share;
        }
        let words = words.join(", ");
        format!(
            "<svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{words}\">{bars}</svg>"
        )
    });
    let bar = bar.unwrap_or_else(|| "<span class=\"bar\"></span>".to_owned());
    let class = if lane.slow.is_some() { " class=\"slow\"" } else { "" };
    format!("<li{class}><b>{rank}</b>{bar}<span class=\"shares\"></span><span class=\"rows\">{rows}</span>{slow}</li>")
}

fn faults(status: &Summary) -> String {
    let all = status.faults.iter().map(|(kind, count)| format!("{} {count}", kind.replace('_', " ")));
    all.collect::<Vec<_>>().join(", ")
}

/// The newest first.
fn moments(moments: &VecDeque<Moment>) -> String {
    let item = |moment: &Moment| {
        let (mood, update, words) = (moment.mood(), moment.update, moment.words());
        format!("<li class=\"{mood}\"><time></time><span class=\"at\">update {update}</span><span>{words}</span></li>")
    };
    moments.iter().rev().take(MOMENTS).map(item).collect()
}

fn evaluations(picture: &Picture) -> String {
    if picture.evaluations.is_empty() {
        return "<p class=\"note\">none so far</p>".to_owned();
    }
    let heads: String = ["split", "update", "accuracy", "macro F1", "loss"]
        .map(|name| format!("<th scope=\"col\">{name}</th>"))
        .concat();
    let row = |it: &Evaluation| {
        let (accuracy, macro_f1, loss) = (number(it.accuracy), number(it.macro_f1), number(it.loss));
        let (split, update) = (&it.split, it.update);
        format!("<tr><td>{split}</td><td>{update}</td><td>{accuracy}</td><td>{macro_f1}</td><td>{loss}</td></tr>")
    };
    let rows: String = picture.evaluations.iter().rev().map(row).collect();
    let newest = picture.evaluations.iter().rev().find_map(|it| Some((it, it.confusion.as_ref()?)));
    let matrix = newest.map(|(it, counts)| matrix(it, counts, &picture.labels)).unwrap_or_default();
    format!("<div class=\"wide\"><table><tr>{heads}</tr>{rows}</table></div>{matrix}")
}

/// Which label was taken for which.
fn matrix(evaluation: &Evaluation, counts: &[Vec<u64>], labels: &[String]) -> String {
    let name = |id: usize| labels.get(id).map_or_else(|| id.to_string(), |label| escaped(label));
    let heads: String = (0..counts.len()).map(|id| format!("<th scope=\"col\">{}</th>", name(id))).collect();
    let mut body = String::new();
    for (label, row) in counts.iter().enumerate() {
        let all = row.iter().sum::<u64>().max(1) as f64;
        write!(body, "<tr><th scope=\"row\">{}</th>", name(label)).ok();
        for (taken, count) in row.iter().enumerate() {
            let (share, class) = (*count as f64 / all, if taken == label { "right" } else { "wrong" });
            let (step, percent) = ((share * 10.0).round(), 100.0 * share);
            write!(body, "<td class=\"{class} s{step}\">{count} <small>{percent:.0} %</small></td>").ok();
        }
        body.push_str("</tr>");
    }
    let (split, update) = (&evaluation.split, evaluation.update);
    format!(
        "<figure><figcaption>{split} after update {update}: rows of each label (down) by what they were taken for \
         (across)</figcaption><div class=\"wide\"><table class=\"confusion\"><tr><td></td>{heads}</tr>{body}</table></div></figure>"
    )
}

#[cfg(test)]
#[path = "page_test.rs"]
mod tests;
