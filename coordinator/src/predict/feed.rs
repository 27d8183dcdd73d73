//! Rows as a stream of chunks: one thread reads records, another encodes them and offers them to the run, one chunk at a
//! time. A queue with a capacity lies between the two, so memory is bounded, however long the stream is.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

use medley_common::message::{Failure, FailureKind};
use tokio::sync::mpsc::UnboundedSender;

use super::reading::Reading;
use crate::archive::RowOrigin;
use crate::cli::Source;
use crate::dataset::data_error::DataError;
use crate::dataset::encode::encode_rows;
use crate::dataset::rows::{Labels, Row, RowStream};
use crate::display::say;
use crate::encoder::Encoder;
use crate::recorder::Answer;
use crate::run::{Input, SplitRows};

/// Rows of a chunk: seconds of a processor's work, ten of a worker's reports.
const CHUNK_ROWS: usize = 960;
/// Tokens of a chunk at most: under 2 MiB on the wire.
const CHUNK_TOKENS: usize = 1 << 19;

/// Where rows come from, ready to be read.
#[derive(Debug)]
pub(super) struct Feed {
    name: PathBuf,
    /// The column of the label.
    column: String,
    rows: Rows,
    pace: Pace,
    need: Labels,
    encoder: Encoder,
}

#[derive(Debug)]
enum Rows {
    Stream(RowStream),
    One(Option<Row>),
}

/// When a chunk is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// When it is full: all rows are there.
    Full,
    /// With what there is: who writes the rows may wait for answers.
    AsTheyCome,
}

/// What the reading thread says.
#[derive(Debug)]
enum Read {
    Row(Row),
    Failed(DataError),
    /// So many records were left out.
    End(u64),
}

/// What the desk has of a feed.
#[derive(Debug)]
pub(super) struct Handle {
    /// Where the rows of each chunk come from, in the order of the chunks.
    pub(super) origins: Receiver<Vec<RowOrigin>>,
    /// Has the next chunk offered.
    pub(super) permits: Sender<()>,
}

impl Feed {
    /// Opens what is to be read, as `reading` says.
    ///
    /// # Errors
    /// There is no such file, or it has not all columns that are needed; or a pair is given to a model of single sentences.
    pub(super) fn open(source: Source, encoder: Encoder, (reading, need): (Reading, Labels)) -> Result<Self, Failure> {
        let layout = &reading.layout;
        let (name, rows, pace) = match source {
            Source::File(path) => {
                let stream = RowStream::open(&path, layout, &encoder.labels, need).map_err(|error| data(&error))?;
                let pace = if path.is_file() { Pace::Full } else { Pace::AsTheyCome };
                (path, Rows::Stream(stream), pace)
            }
            Source::Stdin => {
                let name = PathBuf::from("standard input");
                let stream = RowStream::of_json_lines(std::io::stdin(), &name, layout, (&encoder.labels, need));
                (name, Rows::Stream(stream), Pace::AsTheyCome)
            }
            Source::Pair { premise, hypothesis } => {
                let text = reading.text(premise, hypothesis)?;
                let row = Row { line: 1, text, label: None, pair_id: None };
                (PathBuf::from("the command line"), Rows::One(Some(row)), Pace::Full)
            }
        };
        Ok(Self { name, column: reading.layout.label, rows, pace, need, encoder })
    }

    /// Starts to read, and to answer the run's driver with chunks, then with the end of the stream or what is wrong with it.
    /// The first chunk needs no permit.
    pub(super) fn start(self, answers: UnboundedSender<Answer>) -> Handle {
        let (sent, origins) = channel();
        let (permits, permitted) = channel();
        // Nobody has hung up yet.
        permits.send(()).ok();
        let (sender, rows) = sync_channel(CHUNK_ROWS);
        let (name, column, need, reading) = (self.name, self.column, self.need, self.rows);
        std::thread::spawn(move || read(reading, &sender));
        let mut chunks = Chunks { rows, pace: self.pace, encoder: self.encoder, had_rows: false, end: None };
        std::thread::spawn(move || {
            loop {
                let next = chunks.next();
                // Whoever hangs up wants no more.
                if permitted.recv().is_err() {
                    return;
                }
                let input = match next {
                    Ok(Chunk::Rows(rows, origins)) => match sent.send(origins) {
                        Ok(()) => Input::Offered(rows),
                        Err(_) => return,
                    },
                    Ok(Chunk::End { had_rows, no_consensus }) => end((&name, &column), need, had_rows, no_consensus),
                    Err(failure) => Input::Broken(failure),
                };
                let is_last = !matches!(input, Input::Offered(_));
                if answers.send(Answer::Input(input)).is_err() || is_last {
                    return;
                }
            }
        });
        Handle { origins, permits }
    }
}

/// What the end of a stream means: a measure needs rows, predictions of none are none.
fn end((name, column): (&Path, &str), need: Labels, had_rows: bool, no_consensus: u64) -> Input {
    let empty = || DataError::Empty { path: name.into(), column: column.to_owned(), no_consensus };
    match (had_rows, need) {
        (false, Labels::Required) => Input::Broken(data(&empty())),
        (false, Labels::Optional) => {
            say(&format!("note: {}", empty()));
            Input::Exhausted
        }
        (true, _) => {
            if no_consensus > 0 {
                say(&format!("note: {}: {no_consensus} rows without an agreed label (\"-\") skipped", name.display()));
            }
            Input::Exhausted
        }
    }
}

/// Reads all rows, as far as anybody takes them.
fn read(mut rows: Rows, sender: &SyncSender<Read>) {
    loop {
        let next = match &mut rows {
            Rows::Stream(stream) => stream.next_row(),
            Rows::One(row) => Ok(row.take()),
        };
        let said = match (next, &rows) {
            (Ok(Some(row)), _) => Read::Row(row),
            (Ok(None), Rows::Stream(stream)) => Read::End(stream.no_consensus()),
            (Ok(None), Rows::One(_)) => Read::End(0),
            (Err(error), _) => Read::Failed(error),
        };
        let is_last = !matches!(said, Read::Row(_));
        if sender.send(said).is_err() || is_last {
            return;
        }
    }
}

/// What comes next of a stream.
#[derive(Debug)]
enum Chunk {
    /// Rows, and where they come from.
    Rows(SplitRows, Vec<RowOrigin>),
    /// Nothing.
    End { had_rows: bool, no_consensus: u64 },
}

/// Cuts rows into chunks.
#[derive(Debug)]
struct Chunks {
    rows: Receiver<Read>,
    pace: Pace,
    encoder: Encoder,
    /// Whether there were any rows.
    had_rows: bool,
    /// What was read after the last of them.
    end: Option<Read>,
}

impl Chunks {
    /// The next chunk. Blocks until there is a row. The rows before a bad one come first.
    fn next(&mut self) -> Result<Chunk, Failure> {
        let most = (CHUNK_TOKENS / self.encoder.limit.tokens() as usize).clamp(1, CHUNK_ROWS);
        let mut rows = Vec::new();
        while rows.len() < most && self.end.is_none() {
            let read = match self.pace {
                Pace::AsTheyCome if !rows.is_empty() => self.rows.try_recv(),
                Pace::AsTheyCome | Pace::Full => self.rows.recv().map_err(|_| TryRecvError::Disconnected),
            };
            match read {
                Ok(Read::Row(row)) => rows.push(row),
                Ok(end) => self.end = Some(end),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(reader_gone()),
            }
        }
        match self.end.take_if(|_| rows.is_empty()) {
            Some(Read::Failed(error)) => Err(data(&error)),
            Some(Read::End(no_consensus)) => Ok(Chunk::End { had_rows: self.had_rows, no_consensus }),
            Some(Read::Row(_)) | None => self.encode(rows),
        }
    }

    fn encode(&mut self, read: Vec<Row>) -> Result<Chunk, Failure> {
        self.had_rows = true;
        let Encoder { tokenizer, limit, .. } = &self.encoder;
        let examples = encode_rows(tokenizer, &read, *limit).map_err(|error| data(&error))?.examples;
        let lengths = examples.iter().map(|example| u32::try_from(example.len()).unwrap_or(u32::MAX)).collect();
        let rows = SplitRows { lengths, labels: examples.iter().map(|example| example.label).collect(), examples };
        let origin = |row: Row| RowOrigin { line: row.line, pair_id: row.pair_id };
        Ok(Chunk::Rows(rows, read.into_iter().map(origin).collect()))
    }
}

fn data(error: &dyn std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

/// It ends with a word, unless it panics.
fn reader_gone() -> Failure {
    let message = "the thread that reads the rows panicked; its message stands above".to_owned();
    Failure { kind: FailureKind::Internal, message }
}

#[cfg(test)]
#[path = "feed_test.rs"]
mod tests;
