//! Files of the state to save, from rank 0 to the archive's staging.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use medley_common::identity::{Digest, Generation, Update, WorkerId};
use medley_common::message::ArtifactKind;
use medley_proto::v1;
use medley_proto::v1::upload_artifact_request::Part;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use crate::archive::{ArchiveError, Staging};

/// How long an upload waits for the archive to be ready for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Chunks that may wait for the disk.
const QUEUED_CHUNKS: usize = 4;

/// Where files are taken in at the moment.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The worker that sends them.
    pub worker: WorkerId,
    /// Its group: what an earlier one still sends is not taken (INV-2).
    pub generation: Generation,
    /// Updates done in the state.
    pub update: Update,
    /// Where they go.
    pub staging: Arc<Mutex<Staging>>,
}

/// Takes files in where the archive says, and refuses all others.
#[derive(Debug, Clone)]
pub struct Uploads {
    slot: watch::Receiver<Option<Slot>>,
}

impl Uploads {
    /// Takes files in wherever `slot` points at the time.
    #[must_use]
    pub fn new(slot: watch::Receiver<Option<Slot>>) -> Self {
        Self { slot }
    }

    /// Takes one file in; returns when it is on the disk.
    ///
    /// # Errors
    /// Nobody asked for it, it came damaged, or the disk refuses.
    pub async fn receive(&self, mut parts: Streaming<v1::UploadArtifactRequest>) -> Result<(), Status> {
        let Some(v1::UploadArtifactRequest { part: Some(Part::Header(header)) }) = parts.message().await? else {
            return Err(Status::invalid_argument("an upload begins with its header"));
        };
        let kind: ArtifactKind = header.kind().try_into().map_err(super::invalid)?;
        let sender = (WorkerId(header.worker), Generation(header.generation), Update(header.update));
        let (worker, _, update) = sender;
        let mut slots = self.slot.clone();
        let wanted = |slot: &Option<Slot>| {
            slot.as_ref().is_some_and(|slot| (slot.worker, slot.generation, slot.update) == sender)
        };
        let unwanted = || Status::failed_precondition(format!("nobody asked worker {worker} to save update {update}"));
        let slot = tokio::time::timeout(PATIENCE, slots.wait_for(wanted)).await;
        let staging = match slot.map_err(|_| unwanted())?.map_err(|_| unwanted())?.as_ref() {
            Some(slot) => Arc::clone(&slot.staging),
            None => return Err(unwanted()),
        };
        let (chunks, queue) = mpsc::channel(QUEUED_CHUNKS);
        let writing = tokio::task::spawn_blocking(move || write(&staging, kind, header.bytes, queue));
        while let Some(message) = parts.message().await? {
            // A closed queue means that writing has failed; its result says why.
            if chunks.send(message).await.is_err() {
                break;
            }
        }
        drop(chunks);
        writing.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// Writes the chunks and checks the digest that ends them.
fn write(
    staging: &Mutex<Staging>,
    kind: ArtifactKind,
    bytes: u64,
    mut queue: mpsc::Receiver<v1::UploadArtifactRequest>,
) -> Result<(), Status> {
    let mut file = lock(staging).file(kind, bytes).map_err(refused)?;
    let mut announced = None;
    while let Some(message) = queue.blocking_recv() {
        match message.part {
            Some(Part::Chunk(chunk)) if announced.is_none() => file.write(&chunk).map_err(refused)?,
            Some(Part::Sha256(sha256)) => announced = <[u8; 32]>::try_from(sha256).ok().map(Digest),
            _ => return Err(Status::invalid_argument("an upload is a header, chunks and a digest")),
        }
    }
    let file = file.finish().map_err(refused)?;
    match announced {
        Some(announced) if announced == file.sha256() => lock(staging).accept(file).map_err(refused),
        Some(announced) => {
            Err(Status::data_loss(format!("it came with sha256 {}; the worker says {announced}", file.sha256())))
        }
        None => Err(Status::data_loss("it ended without its digest")),
    }
}

/// A lock that a panic has poisoned still guards a staging whose files are checked one by one.
pub fn lock(staging: &Mutex<Staging>) -> std::sync::MutexGuard<'_, Staging> {
    staging.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(error: ArchiveError) -> Status {
    Status::internal(error.to_string())
}
