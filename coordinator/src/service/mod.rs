//! The gRPC face of the coordinator: streams become inputs of the run, its orders become streams.
//!
//! Nothing is decided here. Whatever arrives is checked field by field (`medley-proto`) and handed to the driver.

mod answers;
mod fetch;
mod health;
mod orders;
mod passes;
mod session;
mod status;
mod upload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::middleware::from_fn;
use medley_common::example::Example;
use medley_common::identity::{Split, Update, WorkerId};
use medley_common::message::{ArtifactKind, Command, Event, Failure};
use medley_proto::access::PASS;
use medley_proto::details::{TOO_MANY_SESSIONS, refusal};
use medley_proto::v1::operator_service_server::OperatorServiceServer;
use medley_proto::v1::status_service_server::StatusServiceServer;
use medley_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use medley_proto::{DESCRIPTORS, MAX_MESSAGE_BYTES, v1};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::health_server::HealthServer;

use crate::access::limits::{self, QUESTION_BYTES};
use crate::access::{Guard, Role, Security, Standing};

pub use health::{HealthFeed, is_serving};
pub use orders::{Order, Orders};
pub use status::StatusFeed;
pub use upload::{Slot, Uploads};

use answers::Answers;
use passes::Passes;

/// What the service tells the driver.
#[derive(Debug)]
pub enum Arrival {
    /// A worker opened a session; commands for it go into the channel, whose end ends the session.
    Joined(WorkerId, mpsc::Sender<Command>),
    /// A worker reports.
    From(WorkerId, Event),
    /// A worker says how much memory it has taken.
    Memory(WorkerId, v1::MemoryPeak),
    /// A worker's stream ended, and why.
    Left(WorkerId, String),
    /// The disk refuses what workers send, for good.
    Broken(Failure),
    /// An operator orders, from this address.
    Ordered(Order, String),
}

/// What workers may fetch.
#[derive(Debug, Default)]
pub struct Store {
    /// The tokenised rows of each split, in row order.
    pub examples: BTreeMap<Split, Arc<Vec<Example>>>,
    /// The files of the model's state.
    pub files: Files,
}

/// Where the files of each state lie that workers may start from, by its updates.
pub type Files = BTreeMap<(Update, ArtifactKind), PathBuf>;

/// The workers' service.
#[derive(Debug, Clone)]
pub struct Service {
    arrivals: mpsc::Sender<Arrival>,
    examples: Arc<BTreeMap<Split, Arc<Vec<Example>>>>,
    files: watch::Receiver<Files>,
    uploads: Uploads,
    next_worker: Arc<AtomicU64>,
    places: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    passes: Passes,
}

impl Service {
    /// A service that reports to `arrivals`, hands out `store` and takes files in through `uploads`; newer states are
    /// to be added to what is returned with it. There may be `workers` workers, numbered after `last`.
    #[must_use]
    pub fn new(
        arrivals: mpsc::Sender<Arrival>,
        store: Store,
        uploads: Uploads,
        (workers, last): (u32, WorkerId),
    ) -> (Self, watch::Sender<Files>) {
        let (sender, files) = watch::channel(store.files);
        let (examples, next_worker) = (Arc::new(store.examples), Arc::new(AtomicU64::new(last.0 + 1)));
        let places = Arc::new(Semaphore::new(limits::sessions(workers)));
        let fetches = Arc::new(Semaphore::new(limits::fetches(workers)));
        let passes = Passes::default();
        (Self { arrivals, examples, files, uploads, next_worker, places, fetches, passes }, sender)
    }

    /// Waits for room to send something to a worker: what is not read stays in memory.
    async fn hold<T>(&self, request: &Request<T>) -> Result<fetch::Hold, Status> {
        let standing = request.extensions().get::<Standing>().cloned();
        let room = Arc::clone(&self.fetches).acquire_owned().await.map_err(|_| session::over())?;
        Ok(fetch::Hold { room, standing })
    }

    /// The tonic router of all services, for callers that `security` lets in.
    ///
    /// # Errors
    /// The certificate and its key cannot be used.
    pub fn router(
        self,
        status: StatusFeed,
        security: Security,
    ) -> Result<tonic::transport::server::Router, Box<dyn std::error::Error + Send + Sync>> {
        let keyring = Arc::new(security.keyring);
        let guard = |role| Guard::new(Arc::clone(&keyring), role);
        let orders = Orders::new(self.arrivals.clone(), status.receiver());
        let health = HealthServer::new(HealthFeed::new(status.receiver())).max_decoding_message_size(QUESTION_BYTES);
        let workers = WorkerServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let status = StatusServiceServer::new(status).max_decoding_message_size(QUESTION_BYTES);
        let orders = OperatorServiceServer::new(orders).max_decoding_message_size(QUESTION_BYTES);
        // What there is to call, for clients without the .proto files: of the current and of the earlier protocol.
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (current, earlier) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        let (current, earlier) =
            (current.max_decoding_message_size(QUESTION_BYTES), earlier.max_decoding_message_size(QUESTION_BYTES));
        let mut server = tonic::transport::Server::builder();
        if let Some(tls) = security.tls {
            server = server.tls_config(tls)?;
        }
        let routes = Routes::new(InterceptedService::new(workers, guard(Role::Worker)))
            .add_service(InterceptedService::new(status, guard(Role::Viewer)))
            .add_service(InterceptedService::new(orders, guard(Role::Operator)))
            .add_service(InterceptedService::new(current, guard(Role::Viewer)))
            .add_service(InterceptedService::new(earlier, guard(Role::Viewer)))
            .add_service(InterceptedService::new(health, Guard::open(Arc::clone(&keyring))));
        let answers = Answers::new();
        let room = from_fn(move |request, next| answers.clone().admit(request, next));
        Ok(server
            .max_concurrent_streams(limits::STREAMS)
            .http2_max_header_list_size(limits::HEADER_BYTES)
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(std::time::Duration::from_secs(20)))
            .add_routes(Routes::from(routes.into_axum_router().layer(room))))
    }
}

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Service {
    type SessionStream = Outbound<v1::SessionResponse>;
    type FetchExamplesStream = Outbound<v1::FetchExamplesResponse>;
    type FetchArtifactStream = Outbound<v1::FetchArtifactResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = "so many sessions are open that this is none of a worker of this run".to_owned();
            refusal(Code::ResourceExhausted, message, TOO_MANY_SESSIONS, ("service", "medley.v1.WorkerService"))
        })?;
        let attending = request.extensions().get::<Standing>().map(Standing::attend);
        let worker = WorkerId(self.next_worker.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let (issued, secret) = self.passes.issue(worker).map_err(|_| no_pass())?;
        let mut pass: MetadataValue<Ascii> = secret.parse().map_err(|_| no_pass())?;
        pass.set_sensitive(true);
        let ties = ((place, attending), issued, self.passes.clone());
        let commands = session::open(worker, request.into_inner(), self.arrivals.clone(), ties).await?;
        let mut response: Response<Self::SessionStream> = Response::new(Box::pin(commands));
        response.metadata_mut().insert(PASS, pass);
        Ok(response)
    }

    async fn fetch_examples(
        &self,
        request: Request<v1::FetchExamplesRequest>,
    ) -> Result<Response<Self::FetchExamplesStream>, Status> {
        let split = request.get_ref().split().try_into().map_err(invalid)?;
        let examples = self.examples.get(&split);
        let examples = examples.ok_or_else(|| {
            let message = format!("this run has no {split} split");
            refusal(Code::NotFound, message, "NO_SUCH_SPLIT", ("split", &split.to_string()))
        })?;
        let hold = self.hold(&request).await?;
        Ok(Response::new(Box::pin(fetch::examples(Arc::clone(examples), hold))))
    }

    async fn fetch_artifact(
        &self,
        request: Request<v1::FetchArtifactRequest>,
    ) -> Result<Response<Self::FetchArtifactStream>, Status> {
        let kind = request.get_ref().kind().try_into().map_err(invalid)?;
        let update = Update(request.get_ref().update);
        let path = self.files.borrow().get(&(update, kind)).cloned();
        let path = path.ok_or_else(|| {
            let message = format!("there is no such file of update {update}");
            refusal(Code::NotFound, message, "NO_SUCH_FILE", ("update", &update.to_string()))
        })?;
        let hold = self.hold(&request).await?;
        Ok(Response::new(Box::pin(fetch::file(path, hold))))
    }

    async fn upload_artifact(
        &self,
        request: Request<Streaming<v1::UploadArtifactRequest>>,
    ) -> Result<Response<v1::UploadArtifactResponse>, Status> {
        let pass = request.metadata().get(PASS).map(|pass| pass.as_bytes().to_owned()).unwrap_or_default();
        let may_bring = |save| self.passes.allow(&pass, save);
        self.uploads.receive(request.into_inner(), may_bring, &self.arrivals).await?;
        Ok(Response::new(v1::UploadArtifactResponse {}))
    }
}

fn no_pass() -> Status {
    let message = "the system has no random numbers for a pass".to_owned();
    refusal(Code::Internal, message, "NO_PASS", ("service", "medley.v1.WorkerService"))
}

fn invalid(error: medley_proto::WireError) -> Status {
    refusal(Code::InvalidArgument, error.to_string(), "BAD_MESSAGE", ("field", error.field()))
}
