//! `medley status`: asks a coordinator and shows its answer.

use std::io::{IsTerminal, Write};

use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;

use crate::cli::Status;
use crate::client::{Client, ClientError, soon};
use crate::status_view;

/// Shows the status once or, watching, until the run ends.
///
/// # Errors
/// Nobody answers, the answer breaks off, or it cannot be written.
pub async fn show(arguments: &Status) -> Result<(), ClientError> {
    let coordinator = Client::connect(&arguments.reach).await?;
    let broken = |status: tonic::Status| coordinator.broken(&status);
    let mut client = StatusServiceClient::new(coordinator.calls());
    if !arguments.watch {
        let response = client.get_status(soon(v1::GetStatusRequest {})).await.map_err(broken)?;
        return print(arguments, &response.into_inner().status.unwrap_or_default());
    }
    let mut stream = client.watch_status(v1::WatchStatusRequest {}).await.map_err(broken)?.into_inner();
    while let Some(message) = stream.message().await.map_err(broken)? {
        print(arguments, &message.status.unwrap_or_default())?;
    }
    Ok(())
}

fn print(arguments: &Status, status: &v1::Status) -> Result<(), ClientError> {
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", status_view::json(status))?;
    } else {
        if arguments.watch && out.is_terminal() {
            // One picture that changes, not a roll of them: clear the screen and begin at its top.
            write!(out, "\x1b[2J\x1b[H")?;
        }
        writeln!(out, "{}", status_view::text(status))?;
    }
    Ok(out.flush()?)
}
