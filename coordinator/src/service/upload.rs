//! Pieces of the state to save, from the workers to the archive's staging.

use std::sync::Arc;
use std::time::Duration;

use medley_common::identity::{Digest, Generation, Update};
use medley_common::message::{ArtifactKind, Failure};
use medley_common::save::{Piece, SaveId};
use medley_proto::details::refusal;
use medley_proto::v1::upload_artifact_request::Part;
use medley_proto::{piece, v1};
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, Streaming};

use super::Arrival;
use crate::archive::{ArchiveError, Staging};

/// How long an upload waits for the archive to be ready for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Chunks that may wait for the disk.
const QUEUED_CHUNKS: usize = 4;

/// Where pieces are taken in at the moment.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The save that they are of: what is still sent of another one is not taken (INV-2).
    pub save: SaveId,
    /// Where they go.
    pub staging: Arc<Staging>,
}

/// Takes pieces in where the archive says, and refuses all others.
#[derive(Debug, Clone)]
pub struct Uploads {
    slot: watch::Receiver<Option<Slot>>,
}

/// What a piece is of.
#[derive(Debug, Clone, Copy)]
struct Header {
    save: SaveId,
    kind: ArtifactKind,
    piece: Piece,
    /// The size of the whole file.
    bytes: u64,
}

/// Why a piece was not taken.
enum Refusal {
    /// The call is no upload.
    Call(Status),
    /// The archive refuses it.
    Archive(ArchiveError),
}

impl From<ArchiveError> for Refusal {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl Uploads {
    /// Takes pieces in wherever `slot` points at the time.
    #[must_use]
    pub fn new(slot: watch::Receiver<Option<Slot>>) -> Self {
        Self { slot }
    }

    /// Takes one piece in, if its sender `may_bring` pieces of that save; returns when it has arrived, and with it the
    /// file on the disk if it is the last. A disk that refuses for good is told to `arrivals`: no other worker would fare
    /// better.
    ///
    /// # Errors
    /// Nobody asked for it, it came damaged, or the disk refuses.
    pub async fn receive(
        &self,
        mut parts: Streaming<v1::UploadArtifactRequest>,
        may_bring: impl Fn(SaveId) -> bool,
        arrivals: &mpsc::Sender<Arrival>,
    ) -> Result<(), Status> {
        let Some(v1::UploadArtifactRequest { part: Some(Part::Header(header)) }) = parts.message().await? else {
            return Err(malformed("an upload begins with its header"));
        };
        let header = Header::try_from(&header)?;
        if !may_bring(header.save) {
            return Err(unwanted(header.save));
        }
        let slot = self.slot_for(header.save).await?;
        let (chunks, queue) = mpsc::channel(QUEUED_CHUNKS);
        let staging = Arc::clone(&slot.staging);
        let writing = tokio::task::spawn_blocking(move || write(&staging, header, queue));
        while let Some(message) = parts.message().await? {
            // A closed queue means that writing has ended; its result says how.
            if chunks.send(message).await.is_err() {
                break;
            }
        }
        drop(chunks);
        match writing.await.map_err(|_| unwritten(header.save))? {
            Ok(()) => Ok(()),
            Err(Refusal::Call(status)) => Err(status),
            Err(Refusal::Archive(error)) => Err(self.refused(error, header.save, arrivals).await),
        }
    }

    /// Where pieces of `save` go, once the archive is ready for them.
    async fn slot_for(&self, save: SaveId) -> Result<Slot, Status> {
        let order = |save: &SaveId| (save.generation, save.update);
        let is_decided = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| order(&slot.save) >= order(&save));
        let mut slots = self.slot.clone();
        let slot = match tokio::time::timeout(PATIENCE, slots.wait_for(is_decided)).await {
            Ok(Ok(slot)) => slot.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        slot.filter(|slot| slot.save == save).ok_or_else(|| unwanted(save))
    }

    async fn refused(&self, error: ArchiveError, save: SaveId, arrivals: &mpsc::Sender<Arrival>) -> Status {
        let message = error.to_string();
        match error {
            ArchiveError::Misplaced { name, .. } => {
                refusal(Code::FailedPrecondition, message, "PIECE_HAS_NO_PLACE", ("file", name))
            }
            ArchiveError::Damaged { name, .. } => refusal(Code::DataLoss, message, "PIECE_DAMAGED", ("file", name)),
            ArchiveError::WrongSize { name, .. } => {
                refusal(Code::InvalidArgument, message, "PIECE_OF_OTHER_SIZE", ("file", name))
            }
            // The save was given up meanwhile, and its folder is gone.
            _ if self.slot.borrow().as_ref().is_none_or(|slot| slot.save != save) => unwanted(save),
            error => {
                let failure = Failure { kind: error.kind(), message };
                // A closed channel means that the run is over.
                arrivals.send(Arrival::Broken(failure)).await.ok();
                unwritten(save)
            }
        }
    }
}

impl TryFrom<&v1::UploadHeader> for Header {
    type Error = Status;

    fn try_from(header: &v1::UploadHeader) -> Result<Self, Status> {
        Ok(Self {
            save: SaveId { update: Update(header.update), generation: Generation(header.generation) },
            kind: header.kind().try_into().map_err(super::invalid)?,
            piece: piece(header.piece, header.pieces, "upload_header.piece").map_err(super::invalid)?,
            bytes: header.bytes,
        })
    }
}

fn unwanted(SaveId { update, generation }: SaveId) -> Status {
    let message = format!("update {update} is not being saved for generation {generation}");
    refusal(Code::FailedPrecondition, message, "NOT_BEING_SAVED", ("update", &update.to_string()))
}

fn malformed(problem: &str) -> Status {
    refusal(Code::InvalidArgument, problem.to_owned(), "BAD_UPLOAD", ("message", "medley.v1.UploadArtifactRequest"))
}

/// What is wrong with the disk is said on the coordinator's machine: callers see no paths.
fn unwritten(SaveId { update, .. }: SaveId) -> Status {
    let message = format!("the coordinator cannot write the state of update {update}");
    refusal(Code::Internal, message, "NOT_WRITTEN", ("update", &update.to_string()))
}

/// Writes the chunks and checks the digest that ends them.
fn write(
    staging: &Staging,
    header: Header,
    mut queue: mpsc::Receiver<v1::UploadArtifactRequest>,
) -> Result<(), Refusal> {
    let invalid = || Refusal::Call(malformed("an upload is a header, chunks and a digest"));
    let Some(mut piece) = staging.piece(header.kind, header.piece, header.bytes)? else { return Ok(()) };
    let mut announced = None;
    while let Some(message) = queue.blocking_recv() {
        match message.part {
            Some(Part::Chunk(chunk)) if announced.is_none() => piece.write(&chunk)?,
            Some(Part::Sha256(sha256)) => announced = <[u8; 32]>::try_from(sha256).ok().map(Digest),
            _ => return Err(invalid()),
        }
    }
    match announced {
        Some(announced) => Ok(piece.finish(announced)?),
        None => {
            let message = "it ended without its digest".to_owned();
            Err(Refusal::Call(refusal(
                Code::DataLoss,
                message,
                "PIECE_CUT_SHORT",
                ("update", &header.save.update.to_string()),
            )))
        }
    }
}
