//! The worker's side of the conversation with its coordinator: the only file here that speaks gRPC.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use medley_common::example::Example;
use medley_common::identity::{Digest, Split, Update, WorkerId};
use medley_common::message::{ArtifactKind, Command, Event};
use medley_common::save::{Piece, SaveId};
use medley_proto::access::{self, Access, root_cause};
use medley_proto::details::{self, TOO_MANY_SESSIONS};
use medley_proto::mistake::mistake;
use medley_proto::v1::fetch_artifact_response::Part as FetchPart;
use medley_proto::v1::upload_artifact_request::Part as UploadPart;
use medley_proto::v1::worker_service_client::WorkerServiceClient;
use medley_proto::{CHUNK_BYTES, MAX_MESSAGE_BYTES, WireError, v1};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::display::say;
use crate::memory;
use crate::state_copy::StateCopy;

/// Events that may wait for the network; a full queue makes the worker wait.
const QUEUED_EVENTS: usize = 256;
/// The longest time between two attempts to connect: a coordinator that comes back is found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest file a coordinator may announce: 64 GiB, more than any BERT.
const MAX_ARTIFACT_BYTES: u64 = 64 << 30;

type Client = WorkerServiceClient<InterceptedService<Channel, Access>>;

/// A connection to the coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    client: Client,
    /// For rows and files, on a connection of its own: on a slow network they would hold the heartbeats up.
    files: Client,
    address: String,
    access: Access,
    /// What shows that a piece comes from the open session.
    pass: Arc<Mutex<Option<MetadataValue<Ascii>>>>,
}

/// An open session: events go out, commands come in.
#[derive(Debug)]
pub struct Session {
    events: mpsc::Sender<v1::SessionRequest>,
    commands: Streaming<v1::SessionResponse>,
    address: String,
}

/// A piece of a file of the state to save.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// The worker that sends it.
    pub worker: WorkerId,
    /// The save.
    pub save: SaveId,
    /// What the file holds.
    pub kind: ArtifactKind,
    /// Which piece.
    pub piece: Piece,
}

/// Why a piece did not arrive.
#[derive(Debug)]
pub enum UploadError {
    /// It may arrive another time.
    Passing(String),
    /// It arrived damaged.
    Damaged(String),
    /// It will not be taken.
    Refused(String),
}

/// Why the coordinator could not be talked to; names its address.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody answered in time.
    #[error("coordinator at {address}: {cause}; is it running, and is the address right?")]
    Unreachable {
        /// The coordinator's address.
        address: String,
        /// The last reason.
        cause: String,
    },
    /// A call was refused or broke off.
    #[error("coordinator at {address}: {doing}: {cause}")]
    Call {
        /// The coordinator's address.
        address: String,
        /// What was asked for.
        doing: &'static str,
        /// What came back.
        cause: String,
    },
    /// There are as many sessions as there may be; some of them may soon be gone.
    #[error("coordinator at {address}: {cause}")]
    Full {
        /// The coordinator's address.
        address: String,
        /// What it says.
        cause: String,
    },
    /// The coordinator wants other credentials.
    #[error("coordinator at {address}: {cause}")]
    Denied {
        /// The coordinator's address.
        address: String,
        /// What it says.
        cause: String,
    },
    /// The coordinator said something that does not fit.
    #[error("coordinator at {address}: {source}")]
    Wire {
        /// The coordinator's address.
        address: String,
        /// What did not fit.
        source: WireError,
    },
    /// A file arrived damaged.
    #[error("coordinator at {address}: {file} arrived with sha256 {found}; the coordinator says {expected}")]
    Damaged {
        /// The coordinator's address.
        address: String,
        /// What was fetched.
        file: String,
        /// Digest of what arrived.
        found: Digest,
        /// Digest of what was sent.
        expected: Digest,
    },
}

impl Coordinator {
    /// Connects to `address` (`host:port`) with what `access` holds, trying again until `patience` is over.
    ///
    /// # Errors
    /// The address cannot be understood, or nobody answered in time.
    pub async fn connect(address: &str, access: Access, patience: Duration) -> Result<Self, SessionError> {
        let unreachable = |cause: String| SessionError::Unreachable { address: address.to_owned(), cause };
        let endpoint = access
            .endpoint(address)
            .map_err(|error| unreachable(error.to_string()))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20));
        let deadline = tokio::time::Instant::now() + patience;
        let (mut pause, mut told) = (Duration::from_millis(50), false);
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => {
                    if let Some(cause) = mistake(&error) {
                        return Err(SessionError::Denied { address: address.to_owned(), cause });
                    }
                    if tokio::time::Instant::now() + pause > deadline {
                        return Err(unreachable(root_cause(&error)));
                    }
                    // The coordinator may still be reading its data; a launcher starts both at once.
                    if pause == LONGEST_PAUSE && !std::mem::replace(&mut told, true) {
                        let (cause, left) = (root_cause(&error), deadline - tokio::time::Instant::now());
                        say(&format!("no coordinator at {address} yet ({cause}); tried for {} s more", left.as_secs()));
                    }
                    tokio::time::sleep(pause).await;
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        let client = |channel| {
            WorkerServiceClient::with_interceptor(channel, access.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
        let (client, files) = (client(channel), client(endpoint.connect_lazy()));
        Ok(Self { client, files, address: address.to_owned(), access, pass: Arc::default() })
    }

    /// Opens the session stream; `hello` is its first event.
    ///
    /// # Errors
    /// The coordinator refused the call.
    pub async fn open(&self, hello: Event) -> Result<Session, SessionError> {
        let (events, outbound) = mpsc::channel(QUEUED_EVENTS);
        let broken = |cause: String| self.broken("open the session", cause);
        events.send(hello.into()).await.map_err(|error| broken(error.to_string()))?;
        let response = self
            .client
            .clone()
            .session(ReceiverStream::new(outbound))
            .await
            .map_err(|status| self.refused(&status, broken))?;
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = response.metadata().get(access::PASS).cloned();
        Ok(Session { events, commands: response.into_inner(), address: self.address.clone() })
    }

    /// Fetches all rows of a split, in row order.
    ///
    /// # Errors
    /// The call broke off, or other than `rows` rows came.
    pub async fn examples(&self, worker: WorkerId, split: Split, rows: u32) -> Result<Vec<Example>, SessionError> {
        let broken = |cause: String| self.broken("fetch the examples", cause);
        let request = v1::FetchExamplesRequest { worker: worker.0, split: v1::Split::from(split).into() };
        let mut stream =
            self.files.clone().fetch_examples(request).await.map_err(|status| broken(describe(&status)))?.into_inner();
        let mut examples = Vec::new();
        while let Some(message) = stream.message().await.map_err(|status| broken(describe(&status)))? {
            for example in message.examples {
                let example = example
                    .try_into()
                    .map_err(|source| SessionError::Wire { address: self.address.clone(), source })?;
                examples.push(example);
            }
            if examples.len() > rows as usize {
                break;
            }
        }
        if examples.len() == rows as usize {
            Ok(examples)
        } else {
            Err(broken(format!("{} rows of the {split} split came; expected {rows}", examples.len())))
        }
    }

    /// Fetches a file of the model's state after `update` into memory and checks its digest.
    ///
    /// # Errors
    /// The call broke off, or the file came with another size or digest.
    pub async fn artifact(
        &self,
        (worker, update): (WorkerId, Update),
        artifact: &medley_common::message::Artifact,
    ) -> Result<Vec<u8>, SessionError> {
        let broken = |cause: String| self.broken("fetch the model", cause);
        if artifact.bytes > MAX_ARTIFACT_BYTES {
            return Err(broken(format!("{} has {} bytes", artifact.file_name, artifact.bytes)));
        }
        let kind = v1::ArtifactKind::from(artifact.kind).into();
        let request = v1::FetchArtifactRequest { worker: worker.0, kind, update: update.0 };
        let mut stream =
            self.files.clone().fetch_artifact(request).await.map_err(|status| broken(describe(&status)))?.into_inner();
        let size = usize::try_from(artifact.bytes).map_err(|error| broken(error.to_string()))?;
        let mut bytes = Vec::with_capacity(size);
        let mut announced = None;
        while let Some(message) = stream.message().await.map_err(|status| broken(describe(&status)))? {
            match message.part {
                Some(FetchPart::Chunk(chunk)) if bytes.len() + chunk.len() <= size => bytes.extend_from_slice(&chunk),
                Some(FetchPart::Sha256(sha256)) => announced = sha256.try_into().ok().map(Digest),
                Some(FetchPart::Chunk(_)) | None => {
                    return Err(broken(format!("{} is longer than {size} bytes", artifact.file_name)));
                }
            }
        }
        let Some(expected) = announced.filter(|_| bytes.len() == size) else {
            return Err(broken(format!("{} ended after {} of {size} bytes", artifact.file_name, bytes.len())));
        };
        let found = Digest(Sha256::digest(&bytes).into());
        if found == expected {
            Ok(bytes)
        } else {
            let (address, file) = (self.address.clone(), artifact.file_name.clone());
            Err(SessionError::Damaged { address, file, found, expected })
        }
    }

    /// Sends a piece of a file of a kept state; returns when the coordinator has it, and where it is the last, has the
    /// file on disk.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn upload(&self, upload: Upload, copy: &StateCopy) -> Result<(), UploadError> {
        let Upload { worker, save, kind, piece } = upload;
        let file = copy.file(kind).map_err(|error| UploadError::Refused(error.to_string()))?;
        let header = v1::UploadHeader {
            worker: worker.0,
            generation: save.generation.0,
            update: save.update.0,
            kind: v1::ArtifactKind::from(kind).into(),
            bytes: file.len() as u64,
            piece: piece.index,
            pieces: piece.count,
        };
        let range = piece.range(file.len() as u64);
        let range =
            usize::try_from(range.start).unwrap_or(usize::MAX)..usize::try_from(range.end).unwrap_or(usize::MAX);
        // A short queue: the piece is in memory once, not a second time as messages.
        let (parts, stream) = mpsc::channel(2);
        let send = async move {
            let mut hash = Sha256::new();
            let mut part = UploadPart::Header(header);
            let mut place = range.start;
            // A closed channel means that the call has ended; its answer says how.
            while parts.send(v1::UploadArtifactRequest { part: Some(part) }).await.is_ok() && place < range.end {
                let end = place.saturating_add(CHUNK_BYTES).min(range.end);
                let chunk = file.read(place..end);
                hash.update(&chunk);
                place = end;
                part = UploadPart::Chunk(chunk);
            }
            let digest = UploadPart::Sha256(hash.finalize().to_vec());
            parts.send(v1::UploadArtifactRequest { part: Some(digest) }).await.ok();
        };
        let mut client = self.files.clone();
        let mut request = Request::new(ReceiverStream::new(stream));
        if let Some(pass) = self.pass.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            request.metadata_mut().insert(access::PASS, pass);
        }
        let ((), answer) = tokio::join!(send, client.upload_artifact(request));
        answer.map(drop).map_err(|status| {
            let error = self.broken("save the model", describe(&status)).to_string();
            match status.code() {
                Code::DataLoss => UploadError::Damaged(error),
                Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied => UploadError::Refused(error),
                _ => UploadError::Passing(error),
            }
        })
    }

    fn refused(&self, status: &Status, broken: impl Fn(String) -> SessionError) -> SessionError {
        if access::is_denied(status) {
            let cause = self.access.denied(status.message());
            return SessionError::Denied { address: self.address.clone(), cause };
        }
        if details::reason(status).as_deref() == Some(TOO_MANY_SESSIONS) {
            return SessionError::Full { address: self.address.clone(), cause: status.message().to_owned() };
        }
        broken(access::describe(status, self.access.is_encrypted()))
    }

    fn broken(&self, doing: &'static str, cause: String) -> SessionError {
        SessionError::Call { address: self.address.clone(), doing, cause }
    }
}

impl Session {
    /// Where events go; a clone outlives nothing of the session but keeps its stream open.
    #[must_use]
    pub fn sender(&self) -> EventSender {
        EventSender { events: self.events.clone() }
    }

    /// Waits for the next command; `None` when the coordinator has ended the session.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// The stream broke, or carried what cannot be understood.
    pub async fn command(&mut self) -> Result<Option<Command>, SessionError> {
        let message = self.commands.message().await.map_err(|status| SessionError::Call {
            address: self.address.clone(),
            doing: "wait for orders",
            cause: describe(&status),
        })?;
        message
            .map(Command::try_from)
            .transpose()
            .map_err(|source| SessionError::Wire { address: self.address.clone(), source })
    }
}

/// Sends events of an open session.
#[derive(Debug, Clone)]
pub struct EventSender {
    events: mpsc::Sender<v1::SessionRequest>,
}

impl EventSender {
    /// Queues an event; waits while the queue is full. `false` when the session is over.
    pub async fn send(&self, event: Event) -> bool {
        let memory = tells_memory(&event).then(|| {
            let memory::Peak { host_bytes, device_bytes } = memory::peak();
            v1::MemoryPeak { host_bytes, device_bytes }
        });
        self.events.send(v1::SessionRequest { memory, ..event.into() }).await.is_ok()
    }
}

/// Whether an event says how much memory was taken by then: now and then, and once more when a piece of work is done.
fn tells_memory(event: &Event) -> bool {
    matches!(event, Event::Heartbeat | Event::Saved { .. } | Event::Evaluated { .. })
}

/// A gRPC status in words.
fn describe(status: &Status) -> String {
    access::describe(status, true)
}
