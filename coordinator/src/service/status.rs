//! The status service: whoever asks sees the run as the driver last saw it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medley_proto::details::refusal;
use medley_proto::v1;
use medley_proto::v1::status_service_server::StatusService;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};

use crate::access::Standing;
use crate::archive::Listed;
use crate::chronicle::Chronicle;
use crate::live::{BUCKETS, Bucket, Live};

/// The least time between two messages of a watch.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// For how long a list of checkpoints is told again without looking.
const LISTED_FOR: Duration = Duration::from_secs(1);
/// Lines of a report that cost as much as a call.
const LINES_A_CALL: usize = 100;

/// The checkpoints there were, when, and which one the status named as the newest.
type Listing = (Instant, Option<u64>, Vec<v1::CheckpointInfo>);

/// Serves what the driver publishes; never asks the run, so it never delays it.
#[derive(Debug, Clone)]
pub struct StatusFeed {
    status: watch::Receiver<v1::Status>,
    chronicle: watch::Receiver<Chronicle>,
    live: watch::Receiver<Live>,
    folder: PathBuf,
    listed: Arc<Mutex<Option<Listing>>>,
}

impl StatusFeed {
    /// Serves the values of `status`, `chronicle` and `live`, and the checkpoints in `folder`.
    #[must_use]
    pub fn new(
        status: watch::Receiver<v1::Status>,
        chronicle: watch::Receiver<Chronicle>,
        live: watch::Receiver<Live>,
        folder: PathBuf,
    ) -> Self {
        Self { status, chronicle, live, folder, listed: Arc::default() }
    }

    /// What the status comes from.
    #[must_use]
    pub fn receiver(&self) -> watch::Receiver<v1::Status> {
        self.status.clone()
    }

    /// The checkpoints on the disk; looks at most once a second, however many ask, and after each new one.
    async fn checkpoints(&self) -> Result<Vec<v1::CheckpointInfo>, Status> {
        let mut listed = self.listed.lock().await;
        let newest = self.status.borrow().checkpoint_update;
        let is_fresh = |(at, of, _): &&Listing| at.elapsed() < LISTED_FOR && *of == newest;
        if let Some((.., list)) = listed.as_ref().filter(is_fresh) {
            return Ok(list.clone());
        }
        let folder = self.folder.clone();
        let found = tokio::task::spawn_blocking(move || Listed::all(&folder)).await;
        // What is wrong with which folder is said on the coordinator's machine: callers see no paths.
        let failed = || {
            let message = "the checkpoints cannot be listed at present".to_owned();
            refusal(Code::Unavailable, message, "NOT_LISTED", ("service", "medley.v1.StatusService"))
        };
        let found = found.map_err(|_| failed())?.map_err(|_| failed())?;
        let list: Vec<v1::CheckpointInfo> = found.into_iter().map(info).collect();
        *listed = Some((Instant::now(), newest, list.clone()));
        Ok(list)
    }
}

fn info(listed: Listed) -> v1::CheckpointInfo {
    let Listed { update, epoch, bytes, parameters, written_seconds } = listed;
    let (id, parameters) = (format!("checkpoint-{update}"), parameters.to_string());
    v1::CheckpointInfo { id, update: update.0, epoch, bytes, parameters, written_seconds }
}

#[tonic::async_trait]
impl StatusService for StatusFeed {
    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send>>;

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = told(self.status.borrow().clone(), &self.folder);
        Ok(Response::new(v1::GetStatusResponse { status: Some(status) }))
    }

    async fn list_checkpoints(
        &self,
        _request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints: self.checkpoints().await? }))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        let lines = self.chronicle.borrow().lines() + BUCKETS;
        if let Some(standing) = request.extensions().get::<Standing>() {
            // A long one costs as much as many short answers.
            let paid = (0..lines / LINES_A_CALL).try_for_each(|_| standing.call());
            paid.map_err(|_| {
                let message = "reports are asked for too often on this connection".to_owned();
                refusal(Code::ResourceExhausted, message, "TOO_MANY_CALLS", ("lines", &lines.to_string()))
            })?;
        }
        let status = told(self.status.borrow().clone(), &self.folder);
        let report = v1::Report { curve: curve(&self.live.borrow()), ..self.chronicle.borrow().report(&status) };
        Ok(Response::new(v1::GetReportResponse { report: Some(report) }))
    }

    async fn watch_status(
        &self,
        _request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let (messages, stream) = mpsc::channel(1);
        tokio::spawn(watch(self.status.clone(), self.folder.clone(), messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Loss and learning rate over the updates.
fn curve(live: &Live) -> Vec<v1::CurvePoint> {
    let point = |bucket: &Bucket<4>| {
        let [loss, learning_rate, ..] = bucket.spreads.map(|spread| spread.map(|spread| spread.mean()));
        v1::CurvePoint { update: bucket.last, loss, learning_rate }
    };
    live.picture().training.buckets().iter().map(point).collect()
}

/// The status as callers see it: where the disk has refused, the error names the file, and not the folder.
fn told(mut status: v1::Status, folder: &Path) -> v1::Status {
    let (inside, itself) = (format!("{}/", folder.display()), format!("output_dir {}", folder.display()));
    let without = |text: &str| text.replace(&inside, "").replace(&itself, "output_dir");
    status.paused = status.paused.as_deref().map(without);
    if !status.outcome.is_empty() {
        status.outcome = without(&status.outcome);
    }
    status
}

/// Sends the status at once and after every change, until the watcher hangs up or the run ends.
async fn watch(
    mut status: watch::Receiver<v1::Status>,
    folder: PathBuf,
    messages: mpsc::Sender<Result<v1::WatchStatusResponse, Status>>,
) {
    loop {
        let now = told(status.borrow_and_update().clone(), &folder);
        let over = !now.outcome.is_empty();
        if messages.send(Ok(v1::WatchStatusResponse { status: Some(now) })).await.is_err() || over {
            return;
        }
        // Not a wait for something to happen: a bound on how often a watcher is told.
        tokio::time::sleep(WATCH_PAUSE).await;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = messages.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_is_told() {
        let told = |paused: &str, outcome: &str| {
            let status =
                v1::Status { paused: Some(paused.to_owned()), outcome: outcome.to_owned(), ..Default::default() };
            let told = told(status, Path::new("/data/ward 7/out"));
            (told.paused.unwrap_or_default(), told.outcome)
        };
        let (paused, outcome) = told(
            "write /data/ward 7/out/checkpoint-20/optimizer.safetensors: No space left on device (os error 28)",
            "failed: output_dir /data/ward 7/out cannot be written to: it timed out",
        );
        assert_eq!(paused, "write checkpoint-20/optimizer.safetensors: No space left on device (os error 28)");
        assert_eq!(outcome, "failed: output_dir cannot be written to: it timed out");
    }
}
