//! A page for a person's browser: how the run goes, by the same numbers that Prometheus may know. It has no script and
//! loads nothing; the browser asks for it again every few seconds.

use std::fmt::{self, Write};

use medley_proto::v1;

use crate::status_view::{duration, phase, slowness};

/// What a browser may do with the page: show it, and nothing else.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta http-equiv=\"refresh\" content=\"5\"><meta name=\"viewport\" content=\"width=device-width\"><title>Medley</title>\
    <style>body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem 1.2rem .2rem 0;text-align:left;font-weight:400}\
    th{opacity:.6}td{font-variant-numeric:tabular-nums}progress{width:100%}.alert{color:#b00}\
    @media(prefers-color-scheme:dark){body{background:#111;color:#ddd}.alert{color:#f77}}</style></head><body>\n";

/// The page.
#[must_use]
pub fn page(status: &v1::Status) -> String {
    let mut out = HEAD.to_owned();
    // Writing to a string cannot fail.
    write(&mut out, status).ok();
    out
}

fn write(out: &mut String, status: &v1::Status) -> fmt::Result {
    // Which run, by its first digits, as in the metrics.
    let run = status.run.get(..12).unwrap_or_default();
    writeln!(out, "<h1>Medley <small>{}</small></h1>", escaped(run))?;
    if status.total_updates > 0 {
        let (update, total) = (status.update, status.total_updates);
        writeln!(out, "<progress max=\"{total}\" value=\"{update}\"></progress>")?;
    }
    state(out, status)?;
    training(out, status)?;
    evaluations(out, &status.evaluations)?;
    workers(out, status)?;
    writeln!(
        out,
        "<p><a href=\"/metrics\">/metrics</a> <a href=\"/healthz\">/healthz</a> <a href=\"/readyz\">/readyz</a></p>"
    )?;
    writeln!(out, "</body></html>")
}

/// What it does. Words that may name files or hosts are for who has a token: `medley status`.
fn state(out: &mut String, status: &v1::Status) -> fmt::Result {
    let outcome = status.outcome.split([' ', ':']).next().unwrap_or_default();
    match (outcome, status.phase()) {
        ("", v1::Phase::Unspecified) => writeln!(out, "<p>The data are read.</p>")?,
        ("", doing) => writeln!(out, "<p>{}</p>", escaped(phase(doing)))?,
        (outcome, _) => writeln!(out, "<p>{}</p>", escaped(outcome))?,
    }
    if status.paused.is_some() {
        writeln!(out, "<p class=\"alert\">Nothing can be written, so training waits; medley status says why.</p>")?;
    }
    if status.stopping {
        writeln!(out, "<p>It was asked to stop: what is under way is finished and saved.</p>")?;
    }
    Ok(())
}

fn training(out: &mut String, status: &v1::Status) -> fmt::Result {
    let saved = status.checkpoint_update.map(|update| format!("update {update}"));
    let progress = (status.total_updates > 0).then(|| format!("{} of {}", status.update, status.total_updates));
    let rows: [(&str, Option<String>); 10] = [
        ("update", progress),
        ("epoch", Some(format!("{:.2}", status.epoch))),
        ("loss", status.loss.map(|loss| format!("{loss:.4}"))),
        ("learning rate", status.learning_rate.map(|rate| format!("{rate:.3e}"))),
        ("gradient norm", status.grad_norm.map(|norm| format!("{norm:.3}"))),
        ("rows a second", status.rows_per_second.map(|rows| format!("{rows:.1}"))),
        ("tokens a second", status.tokens_per_second.map(|tokens| format!("{tokens:.0}"))),
        ("left", status.eta_seconds.map(duration)),
        ("elapsed", Some(duration(status.elapsed_seconds))),
        ("saved", saved),
    ];
    writeln!(out, "<table>")?;
    for (name, value) in rows {
        if let Some(value) = value {
            writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value))?;
        }
    }
    writeln!(out, "</table>")
}

fn evaluations(out: &mut String, evaluations: &[v1::EvaluationStatus]) -> fmt::Result {
    /// The newest ones are enough.
    const SHOWN: usize = 10;
    if evaluations.is_empty() {
        return Ok(());
    }
    writeln!(out, "<table><tr><th>split</th><th>update</th><th>accuracy</th><th>loss</th></tr>")?;
    for it in &evaluations[evaluations.len().saturating_sub(SHOWN)..] {
        let (accuracy, loss) = (number(it.accuracy, 4), number(it.loss, 4));
        let (split, update) = (escaped(&it.split), it.update);
        writeln!(out, "<tr><td>{split}</td><td>{update}</td><td>{accuracy}</td><td>{loss}</td></tr>")?;
    }
    writeln!(out, "</table>")
}

/// By rank alone: hosts and process ids are for who has a token.
fn workers(out: &mut String, status: &v1::Status) -> fmt::Result {
    let v1::Status { workers, workers_expected, .. } = status;
    writeln!(out, "<p>{} of {workers_expected} workers</p>", workers.len())?;
    if workers.is_empty() {
        return Ok(());
    }
    writeln!(out, "<table><tr><th>rank</th><th>update</th><th>rows a second</th><th>waits</th><th>heard of</th></tr>")?;
    for it in workers {
        let rank = it.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string());
        let waits = it.wait_share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        let slow = slowness(it).map(|in_what| format!("<td class=\"alert\">slow: {}</td>", escaped(in_what)));
        let (rows, update, silent) = (number(it.rows_per_second, 1), it.update, it.silent_seconds);
        let (slow, shown) =
            (slow.unwrap_or_default(), format!("<td>{rows}</td><td>{waits}</td><td>{silent:.1} s ago</td>"));
        writeln!(out, "<tr><td>{rank}</td><td>{update}</td>{shown}{slow}</tr>")?;
    }
    writeln!(out, "</table>")
}

fn number(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.places$}"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_numbers_and_neither_hosts_nor_reasons() {
        let worker = v1::WorkerStatus {
            rank: Some(1),
            host: "node7".to_owned(),
            wait_share: Some(0.25),
            rows_per_second: Some(12.34),
            ..Default::default()
        };
        let status = v1::Status {
            run: "0123456789abcdef".to_owned(),
            phase: v1::Phase::Training.into(),
            update: 30,
            total_updates: 120,
            loss: Some(0.5),
            workers: vec![worker],
            workers_expected: 2,
            paused: Some("/data/secret.jsonl: no room".to_owned()),
            waiting: vec!["node7".to_owned()],
            ..Default::default()
        };
        let text = page(&status);
        for shown in
            ["0123456789ab<", "30 of 120", "0.5000", "1 of 2 workers", "12.3", "25 %", "Nothing can be written"]
        {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert!(!text.contains("node7") && !text.contains("secret") && !text.contains("cdef"), "{text}");
        let ended = page(&v1::Status { outcome: "failed: /data/secret.jsonl".to_owned(), ..status });
        assert!(ended.contains("<p>failed</p>") && !ended.contains("secret"), "{ended}");
    }

    #[test]
    fn before_anything_is_known_it_says_so() {
        let text = page(&v1::Status::default());
        assert!(
            text.contains("The data are read.") && text.ends_with("</html>\n") && !text.contains("<script"),
            "{text}"
        );
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
