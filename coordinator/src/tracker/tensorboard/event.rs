//! The few messages of TensorFlow and TensorBoard that event files of ours have (`tensorflow/core/util/event.proto`,
//! `framework/summary.proto`, `framework/tensor.proto`, `tensorboard/plugins/hparams/plugin_data.proto`), with the fields that
//! are written or read. A choice of fields is written as the one of them that there is, so it needs no type of its own.

use std::collections::BTreeMap;

use prost::Message;

use super::super::{Point, now_seconds};
use crate::archive::JsonObject;

/// The tag of what TensorBoard's table of settings is made from.
pub(super) const SESSION_INFO: &str = "_hparams_/session_start_info";
const SESSION_END: &str = "_hparams_/session_end_info";
const HPARAMS: &str = "hparams";
/// As Hugging Face's text of the arguments is called, with the ending that PyTorch gives it.
const SETTINGS_TEXT: &str = "args/text_summary";

/// `DT_STRING`.
const STRING: i32 = 7;
/// `SessionLog.START`.
const STARTED: i32 = 1;
/// `STATUS_SUCCESS`.
const SUCCESS: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    pub(super) step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// What a session is, or how it ended.
#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    end: Option<SessionEnd>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Setting>,
    #[prost(string, tag = "4")]
    group_name: String,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct Setting {
    #[prost(double, optional, tag = "2")]
    number: Option<f64>,
    #[prost(string, optional, tag = "3")]
    text: Option<String>,
    #[prost(bool, optional, tag = "4")]
    truth: Option<bool>,
}

impl Event {
    /// What every file begins with.
    pub(super) fn version() -> Self {
        Self { wall_time: now_seconds(), file_version: Some("brain.Event:2".to_owned()), ..Self::default() }
    }

    /// All that was written for `step` and later ones is void.
    pub(super) fn restart(step: u64) -> Self {
        let session_log = Some(SessionLog { status: STARTED });
        Self { wall_time: now_seconds(), step: signed(step), session_log, ..Self::default() }
    }

    /// The numbers of a point.
    pub(super) fn scalars(point: &Point) -> Self {
        let scalar = |(tag, value): &(String, f64)| Value {
            tag: tag.clone(),
            simple_value: Some(*value as f32),
            ..Value::default()
        };
        Self { wall_time: point.time, ..Self::summary(point.step, point.values.iter().map(scalar).collect()) }
    }

    /// The settings of a run, as text and for the table of settings.
    pub(super) fn settings(title: &str, settings: &JsonObject) -> [Self; 2] {
        // Indented, so that it is shown as it is.
        let json = serde_json::to_string_pretty(settings).unwrap_or_default();
        let text = json.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let tensor = Tensor {
            dtype: STRING,
            shape: Some(Shape { dim: vec![Dim { size: 1 }] }),
            string_val: vec![text.into_bytes()],
        };
        let text = Value { tensor: Some(tensor), ..plugin(SETTINGS_TEXT, "text", Vec::new()) };
        let hparams = settings.iter().filter(|(_, value)| !value.is_null());
        let start = SessionStart {
            hparams: hparams.map(|(name, value)| (name.clone(), Setting::of(value))).collect(),
            group_name: title.to_owned(),
            start_time_secs: now_seconds(),
        };
        let session = Session { start: Some(start), end: None };
        let session = plugin(SESSION_INFO, HPARAMS, session.encode_to_vec());
        [Self::summary(0, vec![text]), Self::summary(0, vec![session])]
    }

    /// The run is complete, for the table of settings.
    pub(super) fn completed() -> Self {
        let end = SessionEnd { status: SUCCESS, end_time_secs: now_seconds() };
        let session = Session { start: None, end: Some(end) };
        Self::summary(0, vec![plugin(SESSION_END, HPARAMS, session.encode_to_vec())])
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Reads an event of any program; `None` where it is none.
    pub(super) fn decoded(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }

    /// Whether what was written for its step and later ones is void.
    pub(super) fn is_restart(&self) -> bool {
        self.session_log.as_ref().is_some_and(|log| log.status == STARTED)
    }

    /// The tags of its values.
    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        self.summary.iter().flat_map(|summary| &summary.value).map(|value| value.tag.as_str())
    }

    fn summary(step: u64, value: Vec<Value>) -> Self {
        let summary = Some(Summary { value });
        Self { wall_time: now_seconds(), step: signed(step), summary, ..Self::default() }
    }
}

impl Setting {
    fn of(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Bool(truth) => Self { truth: Some(*truth), ..Self::default() },
            serde_json::Value::Number(number) => Self { number: number.as_f64(), ..Self::default() },
            serde_json::Value::String(text) => Self { text: Some(text.clone()), ..Self::default() },
            other => Self { text: Some(other.to_string()), ..Self::default() },
        }
    }
}

fn plugin(tag: &str, plugin: &str, content: Vec<u8>) -> Value {
    let plugin_data = Some(PluginData { plugin_name: plugin.to_owned(), content });
    Value { tag: tag.to_owned(), metadata: Some(Metadata { plugin_data }), ..Value::default() }
}

fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}
