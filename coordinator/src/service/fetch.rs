//! What workers fetch: rows and files, in pieces.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use medley_common::example::Example;
use medley_proto::details::refusal;
use medley_proto::v1::fetch_artifact_response::Part;
use medley_proto::{CHUNK_BYTES, v1};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};

use crate::access::Standing;
use crate::access::limits::SLOWEST_READ;

/// Tokens a message carries at most, unless one row has more: under 1 MiB on the wire.
const MESSAGE_TOKENS: usize = 1 << 17;
/// Messages that may wait for the network.
const QUEUED_MESSAGES: usize = 4;

/// What stays taken as long as something is on its way.
#[derive(Debug)]
pub struct Hold {
    /// Room for it.
    pub room: OwnedSemaphorePermit,
    /// The connection that asked; closed where it takes nothing in, as what waits for it stays in memory.
    pub standing: Option<Standing>,
}

impl Hold {
    /// The other end of a channel with `hold` for as long as it is read.
    fn stream<T>(self, parts: mpsc::Receiver<T>) -> impl Stream<Item = T> {
        ReceiverStream::new(parts).map(move |part| {
            let _held = &self.room;
            part
        })
    }
}

/// All rows of a split, in row order.
pub fn examples(
    examples: Arc<Vec<Example>>,
    hold: Hold,
) -> impl Stream<Item = Result<v1::FetchExamplesResponse, Status>> {
    let (parts, stream) = mpsc::channel(QUEUED_MESSAGES);
    let standing = hold.standing.clone();
    tokio::spawn(async move {
        let mut row = 0;
        while row < examples.len() {
            let mut message = v1::FetchExamplesResponse::default();
            let mut tokens = 0;
            while let Some(example) = examples.get(row).filter(|_| tokens < MESSAGE_TOKENS) {
                tokens += example.len();
                message.examples.push(example.into());
                row += 1;
            }
            if !hand_over(Ok(message), &parts, SLOWEST_READ, standing.as_ref()).await {
                return;
            }
        }
    });
    hold.stream(stream)
}

/// A file in chunks, then its digest. No thread waits for whoever fetches it, and who takes too long gets no more.
pub fn file(path: PathBuf, hold: Hold) -> impl Stream<Item = Result<v1::FetchArtifactResponse, Status>> {
    let (parts, stream) = mpsc::channel(QUEUED_MESSAGES);
    let standing = hold.standing.clone();
    tokio::spawn(async move {
        if let Err(error) = send_file(&path, &parts, SLOWEST_READ, standing.as_ref()).await {
            let problem = format!("the coordinator cannot read the state: {error}");
            let problem = refusal(Code::Internal, problem, "NOT_READ", ("service", "medley.v1.WorkerService"));
            // A closed or full channel means that the worker has hung up, or will.
            parts.try_send(Err(problem)).ok();
        }
    });
    hold.stream(stream)
}

type Parts<T> = mpsc::Sender<Result<T, Status>>;

/// Whether a message was taken in, in time. Who takes longer is cut off.
async fn hand_over<T>(
    message: Result<T, Status>,
    parts: &Parts<T>,
    slowest: Duration,
    standing: Option<&Standing>,
) -> bool {
    match tokio::time::timeout(slowest, parts.send(message)).await {
        Ok(sent) => sent.is_ok(),
        Err(_) => {
            standing.into_iter().for_each(Standing::condemn);
            false
        }
    }
}

async fn send_file(
    path: &Path,
    parts: &Parts<v1::FetchArtifactResponse>,
    slowest: Duration,
    standing: Option<&Standing>,
) -> std::io::Result<()> {
    let mut reader = Some(Reader { file: File::open(path)?, hash: Sha256::new() });
    while let Some(unread) = reader.take() {
        let (part, rest) =
            tokio::task::spawn_blocking(move || unread.next()).await.map_err(std::io::Error::other)??;
        reader = rest;
        let message = Ok(v1::FetchArtifactResponse { part: Some(part) });
        if !hand_over(message, parts, slowest, standing).await {
            return Ok(());
        }
    }
    Ok(())
}

/// A file that is being read, and the digest of what was.
struct Reader {
    file: File,
    hash: Sha256,
}

impl Reader {
    /// The next piece, and the reader where that is not the last.
    fn next(mut self) -> std::io::Result<(Part, Option<Self>)> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        self.file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok((Part::Sha256(self.hash.finalize().to_vec()), None));
        }
        self.hash.update(&chunk);
        Ok((Part::Chunk(chunk), Some(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::limits::CALLS;

    #[tokio::test]
    async fn who_does_not_read_gets_no_more_and_holds_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7; (QUEUED_MESSAGES + 3) * CHUNK_BYTES]).unwrap();
        let (parts, mut unread) = mpsc::channel(QUEUED_MESSAGES);
        let standing = Standing::new(None, None, CALLS);
        send_file(&path, &parts, Duration::from_millis(1), Some(&standing)).await.unwrap();
        assert!(standing.is_condemned(), "what it does not read stays in memory as long as its connection");
        drop(parts);
        let mut read = 0;
        while let Some(message) = unread.recv().await {
            assert!(matches!(message.unwrap().part, Some(Part::Chunk(_))), "a digest of what was not sent");
            read += 1;
        }
        assert_eq!(read, QUEUED_MESSAGES);
    }
}
