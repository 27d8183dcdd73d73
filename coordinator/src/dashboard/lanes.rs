//! What the workers spend the time of an update on, a lane each: who is slow has no waiting, and all others have.

use medley_proto::v1;
use ratatui::style::Color;
use ratatui::text::{Line, Span};

use super::screen::{Palette, Pen};
use crate::status_view::slowness;

/// The least columns of a lane that say anything.
const LEAST: usize = 8;
/// Letters of a host.
const HOST: usize = 14;

/// What a lane is made of: its sign, which tells them apart without colours, its colour and its name.
const PARTS: [(char, Color, &str); 4] = [
    ('▓', Color::Magenta, "data"),
    ('█', Color::Green, "compute"),
    ('▒', Color::Blue, "all-reduce"),
    ('░', Color::Yellow, "waiting"),
];

/// Draws a head and as many workers as go into `room` rows, by their ranks, the slow ones first where not all do.
pub(super) fn draw(pen: &mut Pen<'_>, (status, room): (&v1::Status, u16), palette: Palette) {
    if room < 2 || status.workers.is_empty() {
        return;
    }
    let is_spaced = room > 3;
    if is_spaced {
        pen.take(1);
    }
    let mut legend = vec![Span::raw("workers  ")];
    for (sign, colour, name) in PARTS {
        legend.push(Span::styled(sign.to_string(), palette.of(colour)));
        legend.push(Span::raw(format!(" {name}  ")));
    }
    pen.line(&Line::from(legend));
    let rows = usize::from(room - 1 - u16::from(is_spaced));
    let mut workers: Vec<&v1::WorkerStatus> = status.workers.iter().collect();
    workers.sort_by_key(|worker| (worker.rank.is_none(), worker.rank, worker.worker));
    let hidden = workers.len().saturating_sub(rows);
    if hidden > 0 {
        workers.sort_by_key(|worker| slowness(worker).is_none());
        workers.truncate(rows.saturating_sub(1));
    }
    // What even the one that comes last does not get around is the sum itself; the rest is waiting for that one.
    let sums = status.workers.iter().filter_map(|worker| worker.phases).map(|phases| phases.wait);
    let sum = sums.reduce(f64::min).unwrap_or_default();
    let longest = status.workers.iter().filter_map(|worker| worker.phases).map(|it| it.data + it.compute + it.wait);
    let longest = longest.reduce(f64::max).unwrap_or_default();
    let tails: Vec<String> = workers.iter().map(|worker| tail(worker)).collect();
    let reserved = tails.iter().map(|tail| tail.chars().count()).max().unwrap_or_default();
    for (worker, tail) in workers.iter().zip(tails) {
        lane(pen, (worker, tail, reserved), (sum, longest), palette);
    }
    if hidden > 0 {
        pen.line(&Line::styled(format!("and {} more", status.workers.len() - workers.len()), palette.faint()));
    }
}

/// What stands behind a lane.
fn tail(worker: &v1::WorkerStatus) -> String {
    match (worker.phases, slowness(worker)) {
        (None, _) => format!(" {}", worker.state),
        (Some(phases), None) => format!(" {:>5.0} ms", 1e3 * (phases.data + phases.compute + phases.wait)),
        (Some(_), Some(slow)) => format!(" SLOW {slow}"),
    }
}

/// A worker with its `tail`; all lanes leave `reserved` columns for theirs, so that they can be compared.
fn lane(
    pen: &mut Pen<'_>,
    (worker, tail, reserved): (&v1::WorkerStatus, String, usize),
    (sum, longest): (f64, f64),
    palette: Palette,
) {
    let rank = worker.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string());
    let width = usize::from(pen.left.width);
    let mut spans = if width >= 60 {
        let place = format!("{} {}", worker.host, worker.device);
        let place: String = place.chars().filter(|c| !c.is_control()).take(HOST).collect();
        vec![Span::raw(format!("rank {rank:<3} worker {:<4} {place:<HOST$} ", worker.worker))]
    } else {
        vec![Span::raw(format!("{rank:<3} "))]
    };
    let used: usize = spans.iter().map(Span::width).sum();
    let columns = width.saturating_sub(used + reserved);
    if let Some(phases) = worker.phases.filter(|_| columns >= LEAST) {
        let parts = [phases.data, phases.compute, phases.wait.min(sum), (phases.wait - sum).max(0.0)];
        let cells = cells(parts, longest, columns);
        for ((sign, colour, _), count) in PARTS.into_iter().zip(cells) {
            spans.push(Span::styled(sign.to_string().repeat(count), palette.of(colour)));
        }
        spans.push(Span::raw(" ".repeat(columns - cells.iter().sum::<usize>())));
    }
    let style = if slowness(worker).is_some() { palette.bad() } else { palette.faint() };
    spans.push(Span::styled(tail, style));
    pen.line(&Line::from(spans));
}

/// How many of `columns` each part takes, where all of them are `whole` seconds. Rounded where they end, so that no column is
/// lost.
fn cells(parts: [f64; 4], whole: f64, columns: usize) -> [usize; 4] {
    let mut ends = 0.0;
    let mut before = 0;
    parts.map(|part| {
        ends += part.max(0.0);
        let share = if whole > 0.0 { (ends / whole).clamp(0.0, 1.0) } else { 0.0 };
        let end = (share * columns as f64).round() as usize;
        let count = end.saturating_sub(before);
        before = before.max(end);
        count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_as_long_as_its_parts() {
        assert_eq!(cells([0.1, 0.5, 0.2, 0.2], 1.0, 20), [2, 10, 4, 4]);
        assert_eq!(cells([0.1, 0.5, 0.2, 0.2], 2.0, 20).iter().sum::<usize>(), 10);
        assert_eq!(cells([0.333, 0.333, 0.334, 0.0], 1.0, 10).iter().sum::<usize>(), 10);
        assert_eq!(cells([0.0; 4], 0.0, 10), [0; 4]);
        assert_eq!(cells([f64::NAN, 1.0, 0.0, 0.0], 1.0, 10)[1], 10);
    }
}
