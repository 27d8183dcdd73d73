//! What workers fetch: rows and files, in pieces.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use medley_common::example::Example;
use medley_proto::v1::fetch_artifact_response::Part;
use medley_proto::{CHUNK_BYTES, v1};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

/// Tokens a message carries at most, unless one row has more: under 1 MiB on the wire.
const MESSAGE_TOKENS: usize = 1 << 17;
/// Messages that may wait for the network.
const QUEUED_MESSAGES: usize = 4;

/// All rows of a split, in row order.
pub fn examples(examples: Arc<Vec<Example>>) -> impl Stream<Item = Result<v1::FetchExamplesResponse, Status>> {
    let mut row = 0;
    tokio_stream::iter(std::iter::from_fn(move || {
        let mut message = v1::FetchExamplesResponse::default();
        let mut tokens = 0;
        while let Some(example) = examples.get(row).filter(|_| tokens < MESSAGE_TOKENS) {
            tokens += example.len();
            message.examples.push(example.into());
            row += 1;
        }
        (!message.examples.is_empty()).then_some(Ok(message))
    }))
}

/// A file in chunks, then its digest.
pub fn file(path: PathBuf) -> impl Stream<Item = Result<v1::FetchArtifactResponse, Status>> {
    let (parts, stream) = mpsc::channel(QUEUED_MESSAGES);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send_file(&path, &parts) {
            let problem = Status::internal(format!("{}: {error}", path.display()));
            // A closed channel means that the worker has hung up.
            parts.blocking_send(Err(problem)).ok();
        }
    });
    ReceiverStream::new(stream)
}

type Parts = mpsc::Sender<Result<v1::FetchArtifactResponse, Status>>;

fn send_file(path: &Path, parts: &Parts) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        let part = if chunk.is_empty() {
            Part::Sha256(std::mem::take(&mut hash).finalize().to_vec())
        } else {
            hash.update(&chunk);
            Part::Chunk(chunk)
        };
        let last = matches!(part, Part::Sha256(_));
        if parts.blocking_send(Ok(v1::FetchArtifactResponse { part: Some(part) })).is_err() || last {
            return Ok(());
        }
    }
}
