//! What is told of a run while it goes on, on standard error: events, of which those that are wanted go to one renderer, for
//! people or for programs.

mod event;
mod json;
mod text;

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use medley_common::identity::Update;
use time::OffsetDateTime;

use crate::meter::Rates;
use crate::run::report::UpdateRecord;
use crate::spec::{Console, Format, Progress};

pub use event::{Event, Updated};

use text::Text;

/// The longest silence between two plain lines of a training stretch.
const PLAIN_PAUSE: Duration = Duration::from_secs(10);

/// Writes a line to standard error. A reader that has gone away (`| head`) must not end the run.
pub fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// Tells of a run; clones tell in the same place.
#[derive(Debug, Clone)]
pub struct Display(Arc<Teller>);

#[derive(Debug)]
struct Teller {
    console: Console,
    progress: Progress,
    renderer: Renderer,
    /// When an update was told last to who does not want to hear of each.
    milestone: Mutex<Option<Instant>>,
}

#[derive(Debug)]
enum Renderer {
    Text(Text),
    Json,
}

impl Display {
    /// A display on standard error that tells what `console` wants; with a bar only where one is `wanted`.
    #[must_use]
    pub fn new(console: Console, wanted: Progress) -> Self {
        let renderer = match console.format {
            Format::Text => Renderer::Text(Text::default()),
            Format::Json => Renderer::Json,
        };
        Self(Arc::new(Teller { console, progress: wanted, renderer, milestone: Mutex::new(None) }))
    }

    /// Training of `total` updates begins.
    pub fn begin(&self, total: Update) {
        match &self.0.renderer {
            Renderer::Text(text) if self.0.progress == Progress::Shown && self.0.console.shows_bars() => {
                text.begin(total)
            }
            Renderer::Text(_) | Renderer::Json => {}
        }
    }

    /// Tells of an event, if it is wanted.
    pub fn show(&self, event: &Event<'_>) {
        if !self.0.console.wants(event.level(), event.is_result()) {
            return;
        }
        match &self.0.renderer {
            Renderer::Text(text) => text.show(event),
            Renderer::Json => say(&json::line(event, OffsetDateTime::now_utc())),
        }
    }

    /// Tells what a sentence says; one that begins with `warning: ` warns.
    pub fn line(&self, text: &str) {
        self.show(&Event::Notice(text));
    }

    /// Shows where training of `total` updates stands: on the bar or, without one, now and then.
    pub fn update(&self, record: &UpdateRecord, (total, rates): (Update, Option<Rates>), now: Instant) {
        let is_milestone = self.is_milestone(record, total, now);
        if is_milestone {
            *self.milestone() = Some(now);
        }
        let updated = Updated { record, total, rates, is_milestone };
        if let Renderer::Text(text) = &self.0.renderer {
            text.advance(&updated);
        }
        self.show(&Event::Updated(updated));
    }

    /// Whether this update of `total` is worth a line: the last one is, and one in ten seconds.
    #[must_use]
    pub fn is_milestone(&self, record: &UpdateRecord, total: Update, now: Instant) -> bool {
        record.update == total || self.milestone().is_none_or(|last| now.duration_since(last) >= PLAIN_PAUSE)
    }

    /// When an update had a line.
    fn milestone(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.milestone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what workers write is to come here first, as not all of it is wanted, or not as it is.
    #[must_use]
    pub fn sifts(&self) -> bool {
        !self.0.console.shows_bars()
    }

    /// Takes the bar away, for the last words.
    pub fn finish(&self) {
        if let Renderer::Text(text) = &self.0.renderer {
            text.finish();
        }
    }
}

#[cfg(test)]
#[path = "display_test.rs"]
mod tests;
