//! What is known of a run that is watched.

use std::time::Instant;

use medley_proto::v1;

use super::history::History;

/// What a screen is told.
#[derive(Debug)]
pub(super) enum News {
    /// What the run has come to so far: at the beginning, and when the coordinator is back.
    Report(Box<v1::Report>),
    /// How it stands.
    Status(Box<v1::Status>),
    /// The coordinator does not answer any more, and why.
    Lost(String),
}

/// What is known.
#[derive(Debug)]
pub(super) struct View {
    /// Where the coordinator is.
    coordinator: String,
    status: v1::Status,
    history: History,
    /// Since when it does not answer, and why.
    lost: Option<(Instant, String)>,
    /// When the status was told.
    told: Option<Instant>,
}

impl View {
    pub(super) fn new(coordinator: String) -> Self {
        Self { coordinator, status: v1::Status::default(), history: History::default(), lost: None, told: None }
    }

    /// Takes what is told.
    pub(super) fn take(&mut self, news: News, now: Instant) {
        match news {
            News::Report(report) => self.history = History::of(&report),
            News::Status(status) => {
                self.history.push(status.update, status.loss, status.learning_rate);
                self.status = *status;
                (self.told, self.lost) = (Some(now), None);
            }
            News::Lost(reason) => {
                self.lost.get_or_insert((now, reason));
            }
        }
    }

    /// Whether it is known how the run stands.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    pub(super) fn status(&self) -> &v1::Status {
        &self.status
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// How far a number of seconds that was told is by `now`: it goes on while nothing is told.
    pub(super) fn since_told(&self, now: Instant) -> f64 {
        self.told.map_or(0.0, |told| now.saturating_duration_since(told).as_secs_f64())
    }

    /// What somebody should look at: sentences, and whether they are bad news.
    pub(super) fn alerts(&self, now: Instant) -> Vec<(String, bool)> {
        let v1::Status { paused, stopping, waiting, skipped_updates, .. } = &self.status;
        let mut alerts = Vec::new();
        if let Some((since, reason)) = &self.lost {
            let seconds = now.saturating_duration_since(*since).as_secs();
            alerts.push((format!("waiting for the coordinator at {} ({seconds} s): {reason}", self.coordinator), true));
        }
        alerts.extend(paused.iter().map(|reason| (format!("paused: {reason}"), true)));
        if *stopping {
            alerts.push(("stopping: what is under way is finished and saved".to_owned(), false));
        }
        alerts.extend(waiting.iter().map(|reason| (format!("waiting for {reason}"), false)));
        if *skipped_updates > 0 {
            alerts.push((format!("{skipped_updates} updates skipped: their gradient overflowed"), false));
        }
        alerts
    }
}
