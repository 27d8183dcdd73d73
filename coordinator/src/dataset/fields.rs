//! Bytes to fields, for files with commas or tabs between fields, as RFC 4180 has it.
//!
//! It is strict where a reader that guesses would lose rows in silence: a stray quote at the beginning of a field would
//! take all up to the next quote into that field, lines included. So nothing but the end of the field may follow a
//! closing quote, and every quote must be closed. Lines may end in `\n`, `\r\n` or `\r`.

use std::io::BufRead;

use super::data_error::LineProblem;
use super::format::{Failure, RECORD_LIMIT_BYTES};
use super::layout::Quoting;

/// The records of a file as fields of bytes, one at a time in one buffer.
pub(super) struct FieldReader<R> {
    reader: R,
    delimiter: u8,
    quoting: Quoting,
    cursor: Cursor,
    fields: Fields,
}

/// Where the reader stands.
struct Cursor {
    state: State,
    /// The line of the next byte, from 1.
    line: u64,
    /// The line of the last quote that opened a field.
    opened: u64,
    /// The byte before.
    last: u8,
}

/// A record's fields.
#[derive(Default)]
pub(super) struct Fields {
    /// The line that it begins in, from 1.
    pub line: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    has_quotes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a field.
    Start,
    /// In a field without quotes, in which a quote is a character like any other.
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind a quote that closes the field, or is the first of two.
    Closed,
}

impl<R: BufRead> FieldReader<R> {
    pub(super) fn new(reader: R, delimiter: u8, quoting: Quoting) -> Self {
        let cursor = Cursor { state: State::Start, line: 1, opened: 0, last: 0 };
        Self { reader, delimiter, quoting, cursor, fields: Fields::default() }
    }

    /// The next record; empty lines are none. `None` at the end. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<&Fields>, Failure> {
        while self.read()? {
            if !self.fields.is_blank() {
                return Ok(Some(&self.fields));
            }
        }
        Ok(None)
    }

    /// Reads a line's fields, or those of several where a quoted field goes over their ends.
    fn read(&mut self) -> Result<bool, Failure> {
        let Self { reader, delimiter, quoting, cursor, fields } = self;
        fields.begin();
        let mut taken = 0u64;
        loop {
            let chunk = match reader.fill_buf() {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                chunk => chunk.map_err(Failure::Io)?,
            };
            if chunk.is_empty() {
                return cursor.end(fields);
            }
            let mut used = 0;
            let mut ended = false;
            while used < chunk.len() && !ended {
                ended = cursor.step(chunk[used], *delimiter, *quoting, fields)?;
                used += 1;
            }
            reader.consume(used);
            taken += used as u64;
            if taken > RECORD_LIMIT_BYTES {
                return Err(Failure::Line(fields.line, LineProblem::TooLong));
            }
            if ended {
                return Ok(true);
            }
        }
    }
}

impl Cursor {
    /// Takes a byte in; whether the record ends with it.
    fn step(&mut self, byte: u8, delimiter: u8, quoting: Quoting, fields: &mut Fields) -> Result<bool, Failure> {
        // The second byte of `\r\n` ends no other line.
        let is_second = byte == b'\n' && self.last == b'\r';
        let is_end = byte == b'\n' || byte == b'\r';
        let line = self.line;
        self.last = byte;
        self.line += u64::from(is_end && !is_second);
        if fields.line == 0 {
            if is_second {
                return Ok(false);
            }
            fields.line = line;
        }
        match self.state {
            State::Start if byte == b'"' && quoting == Quoting::Minimal => {
                (self.state, self.opened, fields.has_quotes) = (State::Quoted, line, true);
            }
            State::Quoted if byte == b'"' => self.state = State::Closed,
            State::Quoted => fields.bytes.push(byte),
            State::Closed if byte == b'"' => {
                self.state = State::Quoted;
                fields.bytes.push(byte);
            }
            State::Start | State::Plain | State::Closed if byte == delimiter || is_end => {
                self.state = State::Start;
                fields.close();
                return Ok(is_end);
            }
            State::Start | State::Plain => {
                self.state = State::Plain;
                fields.bytes.push(byte);
            }
            State::Closed => {
                return Err(Failure::Line(line, LineProblem::AfterQuote { field: fields.ends.len() + 1 }));
            }
        }
        Ok(false)
    }

    /// The end of the file; whether a record ends with it.
    fn end(&mut self, fields: &mut Fields) -> Result<bool, Failure> {
        if self.state == State::Quoted {
            let field = fields.ends.len() + 1;
            return Err(Failure::Line(self.opened, LineProblem::Unclosed { field }));
        }
        self.state = State::Start;
        if fields.line == 0 {
            return Ok(false);
        }
        fields.close();
        Ok(true)
    }
}

impl Fields {
    fn begin(&mut self) {
        self.line = 0;
        self.bytes.clear();
        self.ends.clear();
        self.has_quotes = false;
    }

    fn close(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Whether it is an empty line: with quotes it is an empty text.
    fn is_blank(&self) -> bool {
        self.ends.len() == 1 && self.bytes.is_empty() && !self.has_quotes
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Each as text.
    pub(super) fn texts(&self) -> Result<Vec<&str>, LineProblem> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let texts = starts.zip(&self.ends).enumerate().map(|(place, (start, end))| {
            std::str::from_utf8(&self.bytes[start..*end]).map_err(|_| LineProblem::FieldNotUtf8 { field: place + 1 })
        });
        texts.collect()
    }
}

#[cfg(test)]
#[path = "fields_test.rs"]
mod tests;
