//! Loss and learning rate over the updates, side by side.

use medley_proto::v1;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, Widget};

use super::history::History;
use super::screen::Palette;

/// Steps of a row of a sparkline.
const STEPS: u64 = 8;
/// Columns between the two charts.
const GAP: u16 = 3;

/// Draws both.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, (history, status): (&History, &v1::Status), palette: Palette) {
    let width = area.width.saturating_sub(GAP) / 2;
    if width == 0 || area.height < 2 {
        return;
    }
    let columns = usize::from(width);
    let left = Rect { width, ..area };
    let right = Rect { x: area.x + width + GAP, ..left };
    let loss = status.loss.map(|loss| format!("{loss:.4}"));
    chart(buffer, left, ("loss", loss, &history.losses(columns), false), palette.of(Color::Cyan), palette);
    let rate = status.learning_rate.map(|rate| format!("{rate:.2e}"));
    let rates = history.learning_rates(columns);
    chart(buffer, right, ("learning rate", rate, &rates, true), palette.of(Color::Magenta), palette);
}

/// A title with the last value and the range, and the values below.
fn chart(
    buffer: &mut Buffer,
    area: Rect,
    (name, last, values, from_nothing): (&str, Option<String>, &[Option<f64>], bool),
    style: ratatui::style::Style,
    palette: Palette,
) {
    let known = || values.iter().copied().flatten();
    let (least, most) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    // A rate that goes down by little is not to look as if it went to nothing.
    let bottom = if from_nothing { least.min(0.0) } else { least };
    let mut title = vec![Span::raw(format!("{name} {}", last.unwrap_or_default()))];
    if least <= most {
        title.push(Span::styled(format!("  means {} to {}", short(least), short(most)), palette.faint()));
    }
    buffer.set_line(area.x, area.y, &Line::from(title), area.width);
    let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let top = STEPS * u64::from(below.height);
    // The least value has a step of its own: nothing at all is what is not known.
    let height = |value: f64| {
        let share = if most > bottom { (value - bottom) / (most - bottom) } else { 0.5 };
        1 + (share * (top - 1) as f64).round() as u64
    };
    let bars: Vec<u64> = values.iter().map(|value| value.map_or(0, height)).collect();
    Sparkline::default().data(bars).max(top).style(style).render(below, buffer);
}

fn short(value: f64) -> String {
    if value == 0.0 || (0.01..1e4).contains(&value.abs()) { format!("{value:.3}") } else { format!("{value:.2e}") }
}
