//! Records from JSON lines, as MedNLI and SNLI publish them: an object a line, of which other fields are ignored.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use serde::de::{DeserializeSeed, IgnoredAny};

use super::data_error::{LineProblem, plain_names};
use super::format::{Column, Failure, RECORD_LIMIT_BYTES, Record, Records};
use super::json_line::{Line, LineSeed};

/// The records of a file of JSON lines; blank lines are none.
pub(super) struct JsonLines<R> {
    lines: Lines<R>,
    columns: Vec<Column>,
}

impl<R: BufRead> JsonLines<R> {
    pub(super) fn new(reader: R, columns: Vec<Column>) -> Self {
        Self { lines: Lines { reader, buffer: Vec::new(), number: 0 }, columns }
    }
}

impl<R: BufRead + Send> Records for JsonLines<R> {
    fn next(&mut self) -> Result<Option<Record>, Failure> {
        while let Some(text) = self.lines.next()? {
            if text.trim().is_empty() {
                continue;
            }
            let record = parse(text, &self.columns);
            let line = self.lines.number;
            return match record {
                Ok(record) => Ok(Some(Record { line, ..record })),
                Err(problem) => Err(Failure::Line(line, problem)),
            };
        }
        Ok(None)
    }
}

/// The record in `text`, its line not yet set.
fn parse(text: &str, columns: &[Column]) -> Result<Record, LineProblem> {
    if text.trim() == "[" {
        return Err(LineProblem::NotObject { found: "the start of an array" });
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let line = LineSeed { columns }.deserialize(&mut parser).and_then(|line| parser.end().map(|()| line));
    let fields = match line.map_err(|error| not_json(&error))? {
        Line::Object(fields) => fields,
        Line::Other(found) => return Err(LineProblem::NotObject { found }),
    };
    for (column, field) in columns.iter().zip(&fields) {
        if let (Some(flag), None) = (column.flag, field) {
            let present: BTreeMap<String, IgnoredAny> = serde_json::from_str(text).unwrap_or_default();
            let present = plain_names(&present.keys().map(String::as_str).collect::<Vec<_>>());
            return Err(LineProblem::Missing { field: column.name.clone(), present, flag });
        }
    }
    Ok(Record { line: 0, fields })
}

/// The lines of a file, one at a time in one buffer.
struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<&str>, Failure> {
        self.buffer.clear();
        self.number += 1;
        let mut bounded = (&mut self.reader).take(RECORD_LIMIT_BYTES + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer).map_err(Failure::Io)?;
        if read as u64 > RECORD_LIMIT_BYTES {
            return Err(Failure::Line(self.number, LineProblem::TooLong));
        }
        if read == 0 {
            return Ok(None);
        }
        let not_utf8 = |error: std::str::Utf8Error| LineProblem::NotUtf8 { byte: error.valid_up_to() + 1 };
        let text = std::str::from_utf8(&self.buffer).map_err(|error| Failure::Line(self.number, not_utf8(error)))?;
        Ok(Some(text.trim_end_matches(['\n', '\r'])))
    }
}

/// Keeps the parser's reason, which never quotes its input, without its own idea of the line.
fn not_json(error: &serde_json::Error) -> LineProblem {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    LineProblem::NotJson { reason: reason.to_owned(), column: error.column() }
}
