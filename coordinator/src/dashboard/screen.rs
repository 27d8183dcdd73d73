//! The screen, drawn from what is known: its parts from the top to the bottom, as far as there is room.

use std::time::Instant;

use medley_proto::v1;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::view::View;
use super::{charts, lanes};
use crate::status_view::{duration, phase};

/// Digits of the run's name that tell one from another.
const SHORT_RUN: usize = 8;
/// Rows of a chart, its title among them; and where there is little room.
const CHART: u16 = 6;
const LOW_CHART: u16 = 3;
/// The most rows of things that happened.
const MOMENTS: u16 = 8;

/// The colours; none where `NO_COLOR` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Palette {
    is_coloured: bool,
}

impl Palette {
    pub(super) const COLOURED: Self = Self { is_coloured: true };
    pub(super) const PLAIN: Self = Self { is_coloured: false };

    pub(super) fn of_environment() -> Self {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_plain { Self::PLAIN } else { Self::COLOURED }
    }

    pub(super) fn of(self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    /// What matters less.
    pub(super) fn faint(self) -> Style {
        self.of(Color::DarkGray)
    }

    /// What somebody should look at.
    pub(super) fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }
}

/// Where the next line goes: from the top down, and never beyond the bottom.
pub(super) struct Pen<'b> {
    pub(super) buffer: &'b mut Buffer,
    pub(super) left: Rect,
}

impl Pen<'_> {
    /// Writes a line, if there is room.
    pub(super) fn line(&mut self, line: &Line<'_>) {
        let Rect { x, y, width, .. } = self.take(1);
        if self.buffer.area.contains((x, y).into()) && width > 0 {
            self.buffer.set_line(x, y, line, width);
        }
    }

    /// Takes so many rows, or what is left.
    pub(super) fn take(&mut self, rows: u16) -> Rect {
        let taken = Rect { height: rows.min(self.left.height), ..self.left };
        self.left.y += taken.height;
        self.left.height -= taken.height;
        // One past the end is no place to write to.
        if taken.height == 0 { Rect { width: 0, ..taken } } else { taken }
    }
}

/// Draws all of it.
pub(super) fn render(frame: &mut Frame<'_>, view: &View, palette: Palette, now: Instant) {
    let area = frame.area();
    let mut pen = Pen { buffer: frame.buffer_mut(), left: area };
    let status = view.status();
    pen.line(&title(status, palette));
    pen.line(&standing(view, now));
    let bar = pen.take(1);
    progress(pen.buffer, bar, status, palette);
    for (alert, is_bad) in view.alerts(now) {
        let style = if is_bad { palette.bad() } else { palette.of(Color::Yellow) };
        pen.line(&Line::styled(alert, style));
    }
    // The last line says how to leave, where that does not take the place of the run.
    let foot = (pen.left.height >= 2).then(|| {
        pen.left.height -= 1;
        Rect { y: pen.left.y + pen.left.height, height: 1, ..pen.left }
    });
    let evaluations = evaluations(status);
    let told = status.moments.len().min(usize::from(MOMENTS)) as u16;
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    let (workers, below) = (rows(status.workers.len().saturating_add(2)), rows(evaluations.len().saturating_add(1)));
    let chart = match pen.left.height {
        room if room >= workers.saturating_add(below).saturating_add(told.min(3) + CHART + 2) => CHART + 1,
        room if room > workers.min(4) + below + LOW_CHART => LOW_CHART + 1,
        _ => 0,
    };
    // Whoever holds the others up must be seen: what is below makes room for the workers, but not all of it.
    let free = pen.left.height.saturating_sub(chart);
    let below = (below + told.min(3)).min(free / 2).min(free.saturating_sub(workers).max(2));
    let room = free.saturating_sub(below);
    lanes::draw(&mut pen, (status, room), palette);
    if chart > 0 {
        pen.take(1);
        let area = pen.take(chart - 1);
        charts::draw(pen.buffer, area, (view.history(), status), palette);
    }
    if pen.left.height > 1 {
        pen.take(1);
    }
    evaluations.iter().for_each(|line| pen.line(&Line::raw(line.as_str())));
    moments(&mut pen, status, palette);
    if let Some(foot) = foot {
        pen.buffer.set_line(foot.x, foot.y, &Line::styled("q: leave; the run goes on", palette.faint()), foot.width);
    }
}

/// `medley  run 0123abcd  training  2 of 2 workers, float32`.
fn title(status: &v1::Status, palette: Palette) -> Line<'static> {
    let state = match status.outcome.as_str() {
        "" => phase(status.phase()).to_owned(),
        outcome => outcome.to_owned(),
    };
    let run: String = status.run.chars().take(SHORT_RUN).collect();
    let workers = format!("{} of {} workers", status.workers.len(), status.workers_expected);
    let mut spans = vec![
        Span::styled("medley", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw("  "),
        Span::styled(state, palette.of(Color::Cyan).add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {workers}")),
    ];
    if !status.precision.is_empty() {
        spans.push(Span::raw(format!(", {}", status.precision)));
    }
    if !run.is_empty() {
        spans.push(Span::styled(format!("  run {run}"), palette.faint()));
    }
    Line::from(spans)
}

/// `update 120 of 3510  epoch 0.34  52 rows/s  3 min 10 s left  elapsed 12 s`.
fn standing(view: &View, now: Instant) -> Line<'static> {
    let status = view.status();
    let mut parts = Vec::new();
    if status.total_updates > 0 {
        parts.push(format!("update {} of {}", status.update, status.total_updates));
        parts.push(format!("epoch {:.2}", status.epoch));
    }
    parts.extend(status.rows_per_second.map(|rate| format!("{rate:.0} rows/s")));
    if status.outcome.is_empty() && status.update < status.total_updates {
        parts.extend(status.eta_seconds.map(|seconds| format!("{} left", duration(seconds))));
    }
    let going_on = if status.outcome.is_empty() { view.since_told(now) } else { 0.0 };
    parts.push(format!("elapsed {}", duration(status.elapsed_seconds + going_on)));
    Line::raw(parts.join("  "))
}

/// How far the run is.
fn progress(buffer: &mut Buffer, area: Rect, status: &v1::Status, palette: Palette) {
    let share = match status.total_updates {
        0 => return,
        total => (status.update as f64 / total as f64).clamp(0.0, 1.0),
    };
    let percent = format!(" {:>3.0} %", (100.0 * share).floor());
    let width = usize::from(area.width).saturating_sub(percent.len());
    let done = (share * width as f64).round() as usize;
    let line = Line::from(vec![
        Span::styled("█".repeat(done), palette.of(Color::Cyan)),
        Span::styled("░".repeat(width.saturating_sub(done)), palette.faint()),
        Span::raw(percent),
    ]);
    if area.width > 0 {
        buffer.set_line(area.x, area.y, &line, area.width);
    }
}

/// The last evaluation of each split, and what is saved.
fn evaluations(status: &v1::Status) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for split in ["validation", "test"] {
        let Some(last) = status.evaluations.iter().rev().find(|it| it.split == split) else { continue };
        let result = match (last.accuracy, last.loss) {
            (Some(accuracy), Some(loss)) => format!("accuracy {accuracy:.4}, loss {loss:.4}"),
            _ => "predicted; no labels".to_owned(),
        };
        lines.push(format!("{split:<10}  {result}, after update {}", last.update));
    }
    let saving = status.saving_update.map(|update| format!("; saving update {update}")).unwrap_or_default();
    match status.checkpoint_update {
        Some(update) => lines.push(format!("saved       update {update}{saving}")),
        None if !saving.is_empty() => lines.push(format!("saved       nothing yet{saving}")),
        None => {}
    }
    lines
}

/// What happened last, the newest first.
fn moments(pen: &mut Pen<'_>, status: &v1::Status, palette: Palette) {
    for moment in status.moments.iter().rev().take(usize::from(MOMENTS)) {
        let style = match moment.mood.as_str() {
            "lost" => palette.of(Color::Red),
            "joined" => palette.of(Color::Green),
            _ => Style::new(),
        };
        let at = Span::styled(format!("update {:<5}", moment.update), palette.faint());
        pen.line(&Line::from(vec![at, Span::styled(moment.words.clone(), style)]));
    }
}

#[cfg(test)]
#[path = "screen_test.rs"]
mod tests;
