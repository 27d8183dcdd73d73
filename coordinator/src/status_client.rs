//! `medley status`: asks a coordinator and shows its answer.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;

use crate::cli::Status;
use crate::client::{Client, ClientError, soon};
use crate::status_view;

/// How long a coordinator that has died is looked for: whoever started it starts it again, and the run goes on.
const RETURN: Duration = Duration::from_secs(60);
/// How often a watch writes its text where nothing can be written over. JSON is for programs, and complete.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Shows the status once or, watching, until the run ends.
///
/// # Errors
/// Nobody answers, the answer breaks off and nobody takes it up again, or it cannot be written.
pub async fn show(arguments: &Status) -> Result<(), ClientError> {
    if arguments.watch {
        return watch(arguments).await;
    }
    let coordinator = Client::connect(&arguments.reach).await?;
    let mut client = StatusServiceClient::new(coordinator.calls());
    let asked = client.get_status(soon(v1::GetStatusRequest {})).await;
    let response = asked.map_err(|status| coordinator.broken(&status))?;
    print(arguments, &response.into_inner().status.unwrap_or_default())
}

async fn watch(arguments: &Status) -> Result<(), ClientError> {
    let mut heard = None;
    let mut is_lost = false;
    loop {
        let error = match follow(arguments, &mut heard, &mut is_lost).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_output = matches!(error, ClientError::Output(_));
        if is_output || heard.is_none_or(|heard: Instant| heard.elapsed() > RETURN) {
            return Err(error);
        }
        if !std::mem::replace(&mut is_lost, true) {
            let line = format!("medley: {error}; looking for it for {} s", RETURN.as_secs());
            // Standard error may be closed: the answer goes elsewhere.
            writeln!(std::io::stderr().lock(), "{line}").ok();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows what one connection tells, to the end of the run. Notes in `heard` when it was last heard of.
async fn follow(arguments: &Status, heard: &mut Option<Instant>, is_lost: &mut bool) -> Result<(), ClientError> {
    let coordinator = Client::connect(&arguments.reach).await?;
    let broken = |status: tonic::Status| coordinator.broken(&status);
    let mut client = StatusServiceClient::new(coordinator.calls());
    let mut stream = client.watch_status(v1::WatchStatusRequest {}).await.map_err(broken)?.into_inner();
    let is_roll = !arguments.json && !std::io::stdout().is_terminal();
    let (mut written, mut last) = (None::<(Instant, i32)>, None);
    let end = loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break Ok(()),
            Err(status) => break Err(broken(status)),
        };
        (*heard, *is_lost) = (Some(Instant::now()), false);
        let status = message.status.unwrap_or_default();
        let is_old = written.is_none_or(|(when, phase)| when.elapsed() >= EVERY || phase != status.phase);
        if !is_roll || is_old {
            print(arguments, &status)?;
            (written, last) = (Some((Instant::now(), status.phase)), None);
        } else {
            last = Some(status);
        }
    };
    last.map_or(Ok(()), |status| print(arguments, &status))?;
    end
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
