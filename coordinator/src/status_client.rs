//! `medley status`: asks a coordinator and shows its answer.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use tonic::Code;

use crate::cli::{Reach, Status};
use crate::client::{Client, ClientError, soon};
use crate::{dashboard, status_view};

/// How long a coordinator that has died is looked for: whoever started it starts it again, and the run goes on.
const RETURN: Duration = Duration::from_secs(60);
/// How often a watch writes its text where nothing can be written over. JSON is for programs, and complete.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Who is told how a run goes on.
pub(crate) trait Viewer: Send {
    /// Whether it wants to know what the run has come to before, whenever it is connected.
    fn wants_report(&self) -> bool {
        false
    }

    /// What the run has come to before.
    fn report(&mut self, _report: v1::Report) {}

    /// How the run stands.
    ///
    /// # Errors
    /// Nobody sees it any more.
    fn status(&mut self, status: v1::Status) -> Result<(), ClientError>;

    /// No more comes over this connection.
    ///
    /// # Errors
    /// Nobody sees it any more.
    fn parted(&mut self) -> Result<(), ClientError> {
        Ok(())
    }

    /// The coordinator is looked for from now on.
    fn lost(&mut self, error: &ClientError);
}

/// Shows the status once or, watching, until the run ends: on a full screen, where there is a terminal.
///
/// # Errors
/// Nobody answers, the answer breaks off and nobody takes it up again, or it cannot be written.
pub async fn show(arguments: &Status) -> Result<(), ClientError> {
    if arguments.watch {
        return match arguments.json || !is_screen() {
            true => roll(arguments).await,
            false => dashboard::show(arguments).await,
        };
    }
    let coordinator = Client::connect(&arguments.reach).await?;
    let mut client = StatusServiceClient::new(coordinator.calls());
    let asked = client.get_status(soon(v1::GetStatusRequest {})).await;
    let response = asked.map_err(|status| coordinator.broken(&status))?;
    print(arguments.json, &response.into_inner().status.unwrap_or_default())
}

/// Whether standard output is a terminal on which more than lines can be shown.
fn is_screen() -> bool {
    let kind = std::env::var_os("TERM").unwrap_or_default();
    std::io::stdout().is_terminal() && !kind.is_empty() && kind != "dumb"
}

/// Writes how the run goes on until it ends, one status after the other.
///
/// # Errors
/// As for [`show`].
pub(crate) async fn roll(arguments: &Status) -> Result<(), ClientError> {
    watch(&arguments.reach, &mut Roll { is_json: arguments.json, written: None, last: None }).await
}

/// Tells `viewer` how the run goes on until it ends, and looks for a coordinator that dies meanwhile.
///
/// # Errors
/// As for [`show`].
pub(crate) async fn watch(reach: &Reach, viewer: &mut impl Viewer) -> Result<(), ClientError> {
    let mut heard = None;
    let mut is_lost = false;
    loop {
        let error = match follow(reach, viewer, (&mut heard, &mut is_lost)).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_output = matches!(error, ClientError::Output(_));
        if is_output || heard.is_none_or(|heard: Instant| heard.elapsed() > RETURN) {
            return Err(error);
        }
        if !std::mem::replace(&mut is_lost, true) {
            viewer.lost(&error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells what comes over one connection, to the end of the run. Notes in `heard` when it was last heard of.
async fn follow(
    reach: &Reach,
    viewer: &mut impl Viewer,
    (heard, is_lost): (&mut Option<Instant>, &mut bool),
) -> Result<(), ClientError> {
    let coordinator = Client::connect(reach).await?;
    let broken = |status: tonic::Status| coordinator.broken(&status);
    let mut client = StatusServiceClient::new(coordinator.calls());
    if viewer.wants_report() {
        match client.get_report(soon(v1::GetReportRequest {})).await {
            Ok(told) => viewer.report(told.into_inner().report.unwrap_or_default()),
            Err(refused) if [Code::Unauthenticated, Code::PermissionDenied].contains(&refused.code()) => {
                return Err(broken(refused));
            }
            // What was before is not all there is to see.
            Err(_) => {}
        }
    }
    let mut stream = client.watch_status(v1::WatchStatusRequest {}).await.map_err(broken)?.into_inner();
    let end = loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break Ok(()),
            Err(status) => break Err(broken(status)),
        };
        (*heard, *is_lost) = (Some(Instant::now()), false);
        viewer.status(message.status.unwrap_or_default())?;
    };
    viewer.parted()?;
    end
}

/// Writes one status after the other.
struct Roll {
    is_json: bool,
    /// When a text was written last, and of which phase.
    written: Option<(Instant, i32)>,
    /// The newest status, where it is not written.
    last: Option<v1::Status>,
}

impl Viewer for Roll {
    fn status(&mut self, status: v1::Status) -> Result<(), ClientError> {
        let is_old = self.written.is_none_or(|(when, phase)| when.elapsed() >= EVERY || phase != status.phase);
        if self.is_json || is_old {
            print(self.is_json, &status)?;
            (self.written, self.last) = (Some((Instant::now(), status.phase)), None);
        } else {
            self.last = Some(status);
        }
        Ok(())
    }

    fn parted(&mut self) -> Result<(), ClientError> {
        self.last.take().map_or(Ok(()), |status| print(self.is_json, &status))
    }

    fn lost(&mut self, error: &ClientError) {
        let line = format!("medley: {error}; looking for it for {} s", RETURN.as_secs());
        // Standard error may be closed: the answer goes elsewhere.
        writeln!(std::io::stderr().lock(), "{line}").ok();
    }
}

/// Writes a status as text.
///
/// # Errors
/// Standard output is gone.
pub(crate) fn print_text(status: &v1::Status) -> Result<(), ClientError> {
    print(false, status)
}

fn print(is_json: bool, status: &v1::Status) -> Result<(), ClientError> {
    let mut out = std::io::stdout().lock();
    if is_json {
        writeln!(out, "{}", status_view::json(status))?;
    } else {
        writeln!(out, "{}", status_view::text(status))?;
    }
    Ok(out.flush()?)
}
