//! `medley stop`, `medley checkpoint`, `medley drain` and `medley checkpoints`: orders and questions to a run that goes on elsewhere.

use std::io::Write;

use medley_proto::v1;
use medley_proto::v1::operator_service_client::OperatorServiceClient;
use medley_proto::v1::status_service_client::StatusServiceClient;
use serde_json::json;

use crate::cli::{Checkpoint, Checkpoints, Drain, Stop};
use crate::client::{Client, ClientError, soon};

/// Has a run end.
///
/// # Errors
/// Nobody answers, or the caller may not.
pub async fn stop(asked: &Stop) -> Result<(), ClientError> {
    let client = Client::connect(&asked.reach).await?;
    let request = soon(v1::StopRequest { at_once: asked.at_once });
    let answer = OperatorServiceClient::new(client.calls()).stop(request).await;
    let update = answer.map_err(|status| client.broken(&status))?.into_inner().update;
    let how = if asked.at_once { "ends at once" } else { "finishes what is under way, saves it and ends" };
    say(&format!("after update {update} the run {how}"))
}

/// Has a run save its state; returns when that is done.
///
/// # Errors
/// Nobody answers, the caller may not, or the run ends before.
pub async fn checkpoint(asked: &Checkpoint) -> Result<(), ClientError> {
    let client = Client::connect(&asked.reach).await?;
    let answer = OperatorServiceClient::new(client.calls()).checkpoint(soon(v1::CheckpointRequest {})).await;
    let update = answer.map_err(|status| client.broken(&status))?.into_inner().update;
    let watch = StatusServiceClient::new(client.calls()).watch_status(v1::WatchStatusRequest {}).await;
    let mut watch = watch.map_err(|status| client.broken(&status))?.into_inner();
    while let Some(message) = watch.message().await.map_err(|status| client.broken(&status))? {
        let saved = message.status.unwrap_or_default().checkpoint_update;
        if let Some(saved) = saved.filter(|saved| *saved >= update) {
            return say(&format!("saved: checkpoint-{saved}"));
        }
    }
    Err(client.broken(&tonic::Status::aborted("the run ended before the checkpoint was saved")))
}

/// Has a worker leave.
///
/// # Errors
/// Nobody answers, the caller may not, or there is no such worker.
pub async fn drain(asked: &Drain) -> Result<(), ClientError> {
    let client = Client::connect(&asked.reach).await?;
    let request = soon(v1::DrainRequest { worker: asked.worker });
    let answer = OperatorServiceClient::new(client.calls()).drain(request).await;
    let update = answer.map_err(|status| client.broken(&status))?.into_inner().update;
    say(&format!(
        "after update {update} worker {} leaves at the next rest, and the others go on; where it is the last one, `medley \
         train` saves and stops, and `medley serve` waits for another",
        asked.worker
    ))
}

/// Lists the checkpoints of a run.
///
/// # Errors
/// Nobody answers, or the caller may not.
pub async fn checkpoints(asked: &Checkpoints) -> Result<(), ClientError> {
    let client = Client::connect(&asked.reach).await?;
    let answer = StatusServiceClient::new(client.calls()).list_checkpoints(soon(v1::ListCheckpointsRequest {})).await;
    let list = answer.map_err(|status| client.broken(&status))?.into_inner().checkpoints;
    if asked.json {
        return list.iter().try_for_each(|it| say(&json(it)));
    }
    if list.is_empty() {
        return say("there is no checkpoint yet");
    }
    list.iter().try_for_each(|it| {
        let v1::CheckpointInfo { id, epoch, bytes, parameters, .. } = it;
        let parameters = parameters.get(..12).unwrap_or(parameters);
        say(&format!("{id:<20} epoch {epoch:<8.2} {bytes:>14} bytes  parameters {parameters}"))
    })
}

fn json(checkpoint: &v1::CheckpointInfo) -> String {
    let v1::CheckpointInfo { id, update, epoch, bytes, parameters, written_seconds } = checkpoint;
    json!({
        "id": id,
        "update": update,
        "epoch": epoch,
        "bytes": bytes,
        "parameters": parameters,
        "written_seconds": written_seconds,
    })
    .to_string()
}

fn say(line: &str) -> Result<(), ClientError> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
