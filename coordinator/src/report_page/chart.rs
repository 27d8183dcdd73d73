//! A chart of lines over updates, as inline SVG.

use std::fmt::Write;

use super::html::{escaped, shown};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 30.0;
/// Columns that a line is drawn with; with more points, a column is their mean, in a band from the least to the greatest.
const COLUMNS: usize = 288;
/// Colours of lines, and kinds of dashes: with both, 36 lines can be told apart.
const STYLES: usize = 6;

/// Values of one run over its updates, in their order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
}

/// Points that share a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Column {
    pub(crate) x: f64,
    pub(crate) least: f64,
    pub(crate) mean: f64,
    pub(crate) greatest: f64,
}

impl Line {
    /// Through `points`, as far as they are numbers, in their order.
    pub(crate) fn through(name: String, points: &[(f64, f64)]) -> Self {
        Self { name, columns: columns(points) }
    }
}

/// Where values lie on the picture.
#[derive(Debug, Clone, Copy)]
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn across(self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn down(self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// The chart `title` of the lines that have points, with its caption; nothing where none has.
pub(crate) fn chart(title: &str, lines: &[Line]) -> String {
    let drawn: Vec<(usize, &Line)> = lines.iter().enumerate().filter(|(_, line)| !line.columns.is_empty()).collect();
    let all = || drawn.iter().flat_map(|(_, line)| &line.columns);
    let Some(frame) = frame(all()) else { return String::new() };
    let mut out = String::new();
    let words: Vec<String> = drawn.iter().map(|(_, line)| in_words(line)).collect();
    // Writing to a string cannot fail.
    write!(
        out,
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escaped(title),
        escaped(&format!("{title}. {}", words.join("; ")))
    )
    .ok();
    grid(&mut out, frame);
    for (number, Line { columns, .. }) in &drawn {
        let (colour, style) = (number % STYLES, style(*number));
        if columns.iter().any(|column| column.least < column.greatest) {
            let edge = |value: fn(&Column) -> f64| {
                columns.iter().map(move |column| (frame.across(column.x), frame.down(value(column))))
            };
            let back: Vec<(f64, f64)> = edge(|column| column.least).collect();
            let around: Vec<(f64, f64)> = edge(|column| column.greatest).chain(back.into_iter().rev()).collect();
            write!(out, "<polygon class=\"band c{colour}\" points=\"{}\"/>", points(&around)).ok();
        }
        let middle: Vec<(f64, f64)> =
            columns.iter().map(|column| (frame.across(column.x), frame.down(column.mean))).collect();
        write!(out, "<polyline class=\"{style}\" points=\"{}\"/>", points(&middle)).ok();
        // A line of a few points shows each.
        if middle.len() <= 30 {
            for (x, y) in &middle {
                write!(out, "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>").ok();
            }
        }
    }
    out.push_str("</svg>");
    if lines.len() > 1 {
        out.push_str(&legend(drawn.iter().map(|(number, line)| (*number, line.name.as_str()))));
    }
    out.push_str("</figure>\n");
    out
}

/// The classes of a line.
fn style(number: usize) -> String {
    format!("line c{} d{}", number % STYLES, (number + number / STYLES) % STYLES)
}

/// Which line is whose.
fn legend<'a>(names: impl Iterator<Item = (usize, &'a str)>) -> String {
    let entry = |(number, name): (usize, &str)| {
        let style = style(number);
        format!(
            "<span><svg viewBox=\"0 0 30 10\" aria-hidden=\"true\"><path class=\"{style}\" d=\"M1 5H29\"/></svg>{}</span> ",
            escaped(name)
        )
    };
    format!("<p class=\"legend\">{}</p>", names.map(entry).collect::<String>())
}

/// What a picture says, for who does not see it.
fn in_words(line: &Line) -> String {
    let columns = &line.columns;
    let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return String::new() };
    let least = columns.iter().map(|column| column.least).fold(f64::INFINITY, f64::min);
    let greatest = columns.iter().map(|column| column.greatest).fold(f64::NEG_INFINITY, f64::max);
    format!(
        "{}: {} at first, {} in the end, from {} to {}",
        line.name,
        shown(first.mean),
        shown(last.mean),
        shown(least),
        shown(greatest)
    )
}

/// The points that are numbers, in at most [`COLUMNS`] columns of equally many.
fn columns(points: &[(f64, f64)]) -> Vec<Column> {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let size = points.len().div_ceil(COLUMNS).max(1);
    points
        .chunks(size)
        .map(|chunk| Column {
            x: chunk.iter().map(|(x, _)| x).sum::<f64>() / chunk.len() as f64,
            least: chunk.iter().map(|(_, y)| *y).fold(f64::INFINITY, f64::min),
            mean: chunk.iter().map(|(_, y)| y).sum::<f64>() / chunk.len() as f64,
            greatest: chunk.iter().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max),
        })
        .collect()
}

/// The frame that holds all columns; `None` where there are none.
fn frame<'a>(columns: impl Iterator<Item = &'a Column>) -> Option<Frame> {
    let mut frame: Option<Frame> = None;
    for column in columns {
        let held = frame.unwrap_or(Frame { x: (column.x, column.x), y: (column.least, column.greatest) });
        frame = Some(Frame {
            x: (held.x.0.min(column.x), held.x.1.max(column.x)),
            y: (held.y.0.min(column.least), held.y.1.max(column.greatest)),
        });
    }
    // Something to divide by, also where all values are equal.
    let widened = |(low, high): (f64, f64), by: f64| if high > low { (low, high) } else { (low - by, high + by) };
    frame.map(|frame| Frame { x: widened(frame.x, 1.0), y: widened(frame.y, frame.y.0.abs().max(1e-9) * 0.1) })
}

fn grid(out: &mut String, frame: Frame) {
    for tick in ticks(frame.y, 5) {
        let y = frame.down(tick);
        write!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            shown(tick)
        )
        .ok();
    }
    for tick in ticks(frame.x, 8).into_iter().filter(|tick| tick.fract() == 0.0) {
        let (x, y) = (frame.across(tick), HEIGHT - BOTTOM + 16.0);
        write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"middle\">{tick:.0}</text>").ok();
    }
}

/// About `count` round numbers in a range.
fn ticks((low, high): (f64, f64), count: u32) -> Vec<f64> {
    let raw = (high - low) / f64::from(count);
    let unit = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * unit).find(|step| *step >= raw).unwrap_or(raw);
    if !step.is_normal() {
        return Vec::new();
    }
    let first = (low / step).ceil();
    (0..=2 * count).map(|tick| (first + f64::from(tick)) * step).take_while(|tick| *tick <= high).collect()
}

fn points(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "chart_test.rs"]
mod tests;
