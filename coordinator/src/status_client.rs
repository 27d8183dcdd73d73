//! `medley status`: asks a coordinator and shows its answer.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use medley_proto::access::{Access, AccessError, describe, root_cause};
use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::cli::Status;
use crate::status_view;

/// How long a coordinator may take to answer: it never waits for the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The credentials cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
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
    let access = Access::from_environment(arguments.credentials.as_deref())?;
    let is_encrypted = access.is_encrypted();
    let mut client = connect(&address, access).await?;
    let broken =
        |status: tonic::Status| StatusError::Call { address: address.clone(), reason: describe(&status, is_encrypted) };
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

type Client = StatusServiceClient<InterceptedService<Channel, Access>>;

async fn connect(address: &str, access: Access) -> Result<Client, StatusError> {
    let endpoint = access
        .endpoint(address)?
        .connect_timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(ANSWER_TIMEOUT)
        .keep_alive_timeout(ANSWER_TIMEOUT);
    let unreachable = |error| StatusError::Unreachable { address: address.to_owned(), reason: root_cause(&error) };
    let channel = endpoint.connect().await.map_err(unreachable)?;
    Ok(StatusServiceClient::with_interceptor(channel, access))
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
