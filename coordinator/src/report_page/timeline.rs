//! What happened to a run, along its updates.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::html::escaped;
use super::portrait::Portrait;
use crate::archive::{Event, What};

const WIDTH: f64 = 640.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
/// Events that are told in words.
const TOLD: usize = 100;

/// A strip of the groups with their numbers of workers, what was lost and saved marked on it, and the same in words.
pub(super) fn timeline(portrait: &Portrait) -> String {
    let last = portrait.updates.last().map_or(0, |update| update.update.0);
    let total = portrait.identity.train.schedule.total_updates.max(last).max(1);
    let across = |update: u64| LEFT + update as f64 / total as f64 * (WIDTH - LEFT - RIGHT);
    let mut out = String::new();
    let told = words(&portrait.events);
    let count = |is: fn(&What) -> bool| portrait.events.iter().filter(|event| is(&event.what)).count();
    let label = format!(
        "{} groups of workers, {} updates made again after a loss, {} ways back, {} checkpoints",
        count(|what| matches!(what, What::Group(_))),
        count(|what| matches!(what, What::Retry(_))),
        count(|what| matches!(what, What::Rewind { .. })),
        count(|what| matches!(what, What::Checkpoint))
    );
    // Writing to a string cannot fail.
    write!(
        out,
        "<figure><figcaption>Workers, losses and checkpoints over the updates of {}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} 64\" role=\"img\" aria-label=\"{}\">",
        escaped(&portrait.name),
        escaped(&label)
    )
    .ok();
    for (from, to, workers) in stretches(&portrait.events, last) {
        let (start, end) = (across(from), across(to));
        write!(
            out,
            "<rect class=\"group\" x=\"{start:.1}\" y=\"14\" width=\"{:.1}\" height=\"22\"><title>{workers} workers from \
             update {from} to {to}</title></rect>",
            (end - start).max(1.0)
        )
        .ok();
        if end - start > 12.0 {
            write!(out, "<text x=\"{:.1}\" y=\"30\" class=\"middle in\">{workers}</text>", (start + end) / 2.0).ok();
        }
    }
    let mark = |event: &Event| {
        let class = match &event.what {
            What::Group(_) => return None,
            What::Checkpoint => "saved",
            What::Retry(_) | What::Rewind { .. } => "lost",
        };
        Some(format!("<path class=\"{class}\" d=\"M{:.0} 8V42\"/>", across(event.update.0)))
    };
    // However many there are, a column shows one of each kind.
    let marks: BTreeSet<String> = portrait.events.iter().filter_map(mark).collect();
    out.extend(marks);
    write!(
        out,
        "<text x=\"{LEFT}\" y=\"58\">0</text><text x=\"{:.1}\" y=\"58\" class=\"end\">{total}</text></svg>",
        WIDTH - RIGHT
    )
    .ok();
    if !told.is_empty() {
        let items: String = told.iter().take(TOLD).map(|event| format!("<li>{}</li>", escaped(event))).collect();
        let more = told.len().saturating_sub(TOLD);
        let more = if more > 0 { format!("<li>and {more} more</li>") } else { String::new() };
        write!(out, "<details><summary>In words</summary><ul>{items}{more}</ul></details>").ok();
    }
    out.push_str("</figure>\n");
    out
}

/// From which update to which how many workers trained: `(from, to, workers)`, in effect or not.
fn stretches(events: &[Event], last: u64) -> Vec<(u64, u64, usize)> {
    let mut stretches: Vec<(u64, u64, usize)> = Vec::new();
    for event in events {
        let (from, ends_at) = match &event.what {
            What::Group(_) => (event.update.0, event.update.0),
            // What was made before going back was made, too.
            What::Rewind { .. } => (event.update.0, event.update.0),
            What::Retry(_) | What::Checkpoint => continue,
        };
        if let Some(open) = stretches.last_mut().filter(|open| open.1 == u64::MAX) {
            open.1 = ends_at;
        }
        if let What::Group(change) = event.what {
            stretches.push((from, u64::MAX, change.workers));
        }
    }
    if let Some(open) = stretches.last_mut().filter(|open| open.1 == u64::MAX) {
        open.1 = last;
    }
    stretches.retain(|(from, to, _)| from < to);
    stretches
}

/// The events in words; checkpoints that follow each other are counted.
fn words(events: &[Event]) -> Vec<String> {
    let mut told = Vec::new();
    let mut saved = 0u32;
    let tell_saves = |told: &mut Vec<String>, saved: &mut u32| match std::mem::take(saved) {
        0 => {}
        1 => told.push("1 checkpoint was saved".to_owned()),
        several => told.push(format!("{several} checkpoints were saved")),
    };
    for Event { update, what } in events {
        let text = match what {
            What::Checkpoint => {
                saved += 1;
                continue;
            }
            What::Group(group) if group.workers == 1 => format!("after update {update}: 1 worker"),
            What::Group(group) => format!("after update {update}: {} workers", group.workers),
            What::Retry(attempt) => {
                format!("update {} was made in attempt {attempt}, after a loss", update.next())
            }
            What::Rewind { to, reason } => format!("after update {update}: back to update {to}, because {reason}"),
        };
        tell_saves(&mut told, &mut saved);
        told.push(text);
    }
    tell_saves(&mut told, &mut saved);
    told
}

#[cfg(test)]
mod tests {
    use medley_common::identity::Update;

    use super::*;
    use crate::archive::Change;

    fn events() -> Vec<Event> {
        let group = |workers| What::Group(Change { workers, lost: 0, joined: 0 });
        let event = |update, what| Event { update: Update(update), what };
        vec![
            event(0, group(3)),
            event(50, What::Checkpoint),
            event(60, group(2)),
            event(60, What::Retry(2)),
            event(75, What::Rewind { to: Update(50), reason: "all workers were lost".to_owned() }),
            event(50, group(1)),
        ]
    }

    #[test]
    fn stretches_follow_the_groups_through_a_loss_and_back() {
        assert_eq!(stretches(&events(), 100), [(0, 60, 3), (60, 75, 2), (50, 100, 1)]);
        assert!(stretches(&[], 100).is_empty());
    }

    #[test]
    fn events_are_told() {
        let told = words(&events());
        assert_eq!(
            told,
            [
                "after update 0: 3 workers",
                "1 checkpoint was saved",
                "after update 60: 2 workers",
                "update 61 was made in attempt 2, after a loss",
                "after update 75: back to update 50, because all workers were lost",
                "after update 50: 1 worker",
            ]
        );
    }
}
