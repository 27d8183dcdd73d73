//! `medley status`: asks a coordinator and shows its answer.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::cli::Status;
use crate::status_view;

/// How long a coordinator may take to answer: it never waits for the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody answers.
    #[error("no coordinator answers at {address}: {reason}; name one with --coordinator HOST:PORT")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// The innermost reason.
        reason: String,
    },
    /// The answer broke off.
    #[error("coordinator at {address}: {reason}")]
    Call {
        /// The coordinator.
        address: String,
        /// What came back.
        reason: String,
    },
    /// Standard output is gone.
    #[error("write the status: {0}")]
    Output(#[from] std::io::Error),
}

/// Shows the status once or, watching, until the run ends.
///
/// # Errors
/// Nobody answers, the answer breaks off, or it cannot be written.
pub async fn show(arguments: &Status) -> Result<(), StatusError> {
    let address = arguments.coordinator.to_string();
    let mut client = connect(&address).await?;
    let broken =
        |status: tonic::Status| StatusError::Call { address: address.clone(), reason: status.message().to_owned() };
    if !arguments.watch {
        let mut request = tonic::Request::new(v1::GetStatusRequest {});
        request.set_timeout(ANSWER_TIMEOUT);
        let response = client.get_status(request).await.map_err(broken)?;
        return print(arguments, &response.into_inner().status.unwrap_or_default());
    }
    let mut stream = client.watch_status(v1::WatchStatusRequest {}).await.map_err(broken)?.into_inner();
    while let Some(message) = stream.message().await.map_err(broken)? {
        print(arguments, &message.status.unwrap_or_default())?;
    }
    Ok(())
}

async fn connect(address: &str) -> Result<StatusServiceClient<Channel>, StatusError> {
    let unreachable = |error: &tonic::transport::Error| {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        StatusError::Unreachable { address: address.to_owned(), reason: cause.to_string() }
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| unreachable(&error))?;
    let endpoint = endpoint
        .connect_timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(ANSWER_TIMEOUT)
        .keep_alive_timeout(ANSWER_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| unreachable(&error))?;
    Ok(StatusServiceClient::new(channel))
}

fn print(arguments: &Status, status: &v1::Status) -> Result<(), StatusError> {
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
