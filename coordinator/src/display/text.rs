//! Events as lines for people, with a progress bar on a terminal.

use std::io::IsTerminal;
use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use medley_common::identity::Update;

use super::event::Updated;
use super::{Event, say};
use crate::run::report::UpdateRecord;

/// Redraws of the bar a second.
const REDRAWS: u8 = 8;

/// Lines, and perhaps a bar below them.
#[derive(Debug, Default)]
pub(super) struct Text {
    bar: OnceLock<ProgressBar>,
}

impl Text {
    /// Shows a bar of `total` updates from now on, where there is a terminal. Without colours where `NO_COLOR` is set, as
    /// its library sees to.
    pub(super) fn begin(&self, total: Update) {
        if std::io::stderr().is_terminal() && total.0 > 0 {
            self.bar.get_or_init(|| bar(total));
        }
    }

    /// Shows an event; of updates the bar alone, where there is one, unless each is asked for.
    pub(super) fn show(&self, event: &Event<'_>) {
        match (event, self.bar.get()) {
            (Event::Updated(Updated { is_milestone: true, .. }), Some(_)) => {}
            (_, Some(bar)) => bar.suspend(|| say(&line(event))),
            (_, None) => say(&line(event)),
        }
    }

    /// Moves the bar.
    pub(super) fn advance(&self, updated: &Updated<'_>) {
        if let Some(bar) = self.bar.get() {
            let UpdateRecord { update, loss, learning_rate, .. } = updated.record;
            bar.set_position(update.0);
            // Short enough for 80 columns: a line that wraps is never wiped.
            bar.set_message(format!("loss {loss:.4}, lr {learning_rate:.1e}{}", updated.pace()));
        }
    }

    /// Takes the bar away, for the last words.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// An event as a line, or some.
pub(super) fn line(event: &Event<'_>) -> String {
    match event {
        Event::Failed(failure) => format!("medley: {failure}"),
        _ => event.text(),
    }
}

fn bar(total: Update) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total.0), ProgressDrawTarget::stderr_with_hz(REDRAWS));
    // A template that does not parse would be a fault of this line alone: fall back to the plain bar.
    let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
