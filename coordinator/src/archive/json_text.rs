//! JSON text as Hugging Face's scripts write it: indented, keys sorted, never `NaN`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

/// An object whose keys are written in order.
pub type JsonObject = BTreeMap<String, Value>;

/// Writes `value` indented by `indent`, without a newline at the end.
///
/// What is written here is maps, strings, numbers and structs of these, which always serialise; an error would leave
/// the text cut short, and no reader accepts that.
pub(super) fn pretty<T: Serialize + ?Sized>(value: &T, indent: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    match value.serialize(&mut Serializer::with_formatter(&mut text, formatter)) {
        Ok(()) => text,
        Err(error) => {
            debug_assert!(false, "{error}");
            text
        }
    }
}

/// `value` as a JSON number that reads back to the same bits; `null` where JSON has none (NaN, infinities).
pub(super) fn number(value: f64) -> Value {
    Value::from(value)
}
