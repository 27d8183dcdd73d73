//! A profile for a person: a line a worker.

use super::summary::{Line, Spent};

/// What the columns are.
const HEAD: [&str; 13] = [
    "worker",
    "rank",
    "host",
    "device",
    "updates",
    "rows/s",
    "data",
    "forward",
    "backward",
    "all-reduce",
    "optimizer",
    "between",
    "sent",
];
/// The columns that are words.
const WORDS: [usize; 2] = [2, 3];
/// The most letters of a word.
const LONGEST: usize = 20;

/// The lines of the table: its head, the workers, and the sum over them where there are several.
pub(super) fn table(lines: &[Line<'_>], all: &Spent) -> Vec<String> {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for Line { worker, rank, host, device, spent, .. } in lines {
        rows.push(row([worker.to_string(), rank.to_string(), short(host), short(device)], spent));
    }
    if lines.len() > 1 {
        // They work at the same time: what they compute a second adds up.
        let rate: f64 = lines.iter().map(|line| rate(&line.spent)).sum();
        let mut all = row(["all".to_owned(), String::new(), String::new(), String::new()], all);
        all[5] = format!("{rate:.0}");
        rows.push(all);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 13]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if WORDS.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn row([worker, rank, host, device]: [String; 4], spent: &Spent) -> [String; 13] {
    let share = |share: f64| format!("{:.1} %", share * 100.0);
    let [data, forward, backward, exposed, optimizer, between] = spent.shares.all().map(share);
    let sent = match spent.all_reduce.bytes_per_second {
        Some(rate) if spent.all_reduce.sent_bytes > 0 => {
            format!("{} at {}/s", bytes(spent.all_reduce.sent_bytes), bytes(rate))
        }
        _ => "nothing".to_owned(),
    };
    let (updates, rate) = (spent.updates.to_string(), format!("{:.0}", rate(spent)));
    [worker, rank, host, device, updates, rate, data, forward, backward, exposed, optimizer, between, sent]
}

/// Rows a second.
fn rate(spent: &Spent) -> f64 {
    let seconds = spent.seconds.sum();
    if seconds > 0.0 { spent.rows as f64 / seconds } else { 0.0 }
}

fn short(word: &str) -> String {
    word.chars().take(LONGEST).collect()
}

/// Bytes in a unit that leaves few digits.
fn bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut size = bytes as f64 / 1e3;
    let mut unit = 0;
    while size >= 999.5 && unit + 1 < units.len() {
        (size, unit) = (size / 1e3, unit + 1);
    }
    if size < 9.95 { format!("{size:.1} {}", units[unit]) } else { format!("{size:.0} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::sample::Sample;
    use super::super::sample::tests::{report, worker};
    use super::super::summary::{Summary, total};
    use super::*;

    #[test]
    fn each_worker_has_a_line() {
        let mut summary = Summary::default();
        for name in [1, 12] {
            summary.add(&Arc::new(worker(name)), &Sample::of(&report(1, 0)));
        }
        summary.add(&Arc::new(worker(12)), &Sample::of(&report(2, 3_000_000)));
        let lines = summary.lines();
        let shown = table(&lines, &total(&lines));
        let expected = [
            "worker  rank  host   device  updates  rows/s   data  forward  backward  all-reduce  optimizer  between                sent",
            "     1     0  node7  cpu           1       2  1.0 %   24.0 %    50.0 %      20.0 %      5.0 %    0.0 %  1.0 MB at 2.5 MB/s",
            "    12    11  node7  cpu           2       1  0.5 %   12.0 %    25.0 %      10.0 %      2.5 %   50.0 %  2.0 MB at 2.5 MB/s",
            "   all                             3       3  0.6 %   14.4 %    30.0 %      12.0 %      3.0 %   40.0 %  3.0 MB at 2.5 MB/s",
        ];
        assert_eq!(shown, expected);
        let one = summary.lines();
        assert_eq!(table(&one[..1], &total(&one[..1])).len(), 2, "one worker is the sum");
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0, 512, 9_960, 999_499, 999_501, 4_000_000_000, u64::MAX].map(bytes);
        assert_eq!(shown, ["0.0 kB", "0.5 kB", "10 kB", "999 kB", "1.0 MB", "4.0 GB", "18446744 TB"]);
    }
}
