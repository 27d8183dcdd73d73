//! Events as JSON, one object a line, for whoever collects logs.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Event;
use crate::spec::Level;

/// An event at `now`: `time` (UTC, RFC 3339), `level`, `event`, `message`, and the event's own fields.
pub(super) fn line(event: &Event<'_>, now: OffsetDateTime) -> String {
    let level = match event.level() {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    // Years of five digits alone have no such form.
    let time = now.format(&Rfc3339).unwrap_or_default();
    let mut fields = event.fields();
    let own =
        [("time", time), ("level", level.to_owned()), ("event", event.name().to_owned()), ("message", event.message())];
    fields.extend(own.map(|(name, value)| (name.to_owned(), json!(value))));
    Value::Object(fields).to_string()
}
